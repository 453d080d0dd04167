"""`denoise data course`: pairs in the course's format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs
from typer.testing import CliRunner

from denoise_cli.cli.app import app
from denoise_cli.data.course import course_pairs, random_square, save_pairs
from denoise_cli.data.pickles import load_pairs
from denoise_cli.data.sources import FolderSource
from denoise_cli.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(photographs, name)()).save(folder / f"{name}.png")
    Image.fromarray(np.zeros((50, 900, 3), np.uint8)).save(folder / "too_low.png")
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> FolderSource:
    return FolderSource(path=folder)


class TestPairs:
    def test_format(self, source: FolderSource, tmp_path: Path) -> None:
        save_pairs(tmp_path / "data.pkl", course_pairs(source, 5))
        content = torch.load(tmp_path / "data.pkl", weights_only=True)
        assert isinstance(content, tuple)
        for tensor in content:
            assert tensor.shape == (5, 3, 32, 32)
            assert tensor.dtype == torch.uint8
            assert tensor.is_contiguous()

    def test_cells_by_brute_force(self, tmp_path: Path) -> None:
        """A photograph of exactly 32 x 32 cells leaves only one square to take."""
        photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / "noise.png")
        noisy, clean = course_pairs(FolderSource(path=tmp_path), 1, second="clean", cell=2)
        for row in range(32):
            for column in range(32):
                cell = photo[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(4, 3)
                assert np.abs(clean[0, :, row, column].numpy() - cell.mean(0)).max() <= 0.5
                assert noisy[0, :, row, column].tolist() in cell.tolist()

    def test_reproducible_and_extendable(self, source: FolderSource) -> None:
        few, many = course_pairs(source, 4), course_pairs(source, 9)
        for a, b in zip(few, many, strict=True):
            assert torch.equal(a, b[:4])
        assert not torch.equal(few[0], course_pairs(source, 4, seed=1)[0])

    def test_statistics_of_the_course_data(self, source: FolderSource) -> None:
        """Heavy tails, no correlation in space, much between channels."""
        noisy, clean = (t.float() for t in course_pairs(source, 60, second="clean"))
        e = noisy - clean
        assert abs(e.mean()) < 0.2
        assert 8 < e.std() < 30
        assert e.pow(4).mean() / e.square().mean().square() > 6
        assert abs((e[..., 1:] * e[..., :-1]).mean()) < 0.03 * e.var()
        assert np.corrcoef(e.permute(1, 0, 2, 3).reshape(3, -1)).min() > 0.6

    def test_two_noisy_pictures_are_independent(self, source: FolderSource) -> None:
        first, second = (t.float() for t in course_pairs(source, 60))
        _, clean = (t.float() for t in course_pairs(source, 60, second="clean"))
        a, b = first - clean, second - clean
        # a pixel is drawn with replacement: with 36 of them, both pictures seldom have the same
        assert abs((a * b).mean()) < 0.05 * a.var()

    def test_photographs_take_turns(self, tmp_path: Path) -> None:
        for n in range(5):
            Image.fromarray(np.full((64, 70, 3), 50 * n, np.uint8)).save(tmp_path / f"{n}.png")
        noisy, _ = course_pairs(FolderSource(path=tmp_path), 10, cell=2)
        levels = noisy[:, 0, 0, 0].tolist()
        assert sorted(levels[:5]) == sorted(levels[5:]) == [0, 50, 100, 150, 200]

    def test_squares(self) -> None:
        photo = np.zeros((200, 300, 3), np.uint8)
        for seed in range(20):
            assert random_square(photo, 96, np.random.default_rng(seed)).shape == (96, 96, 3)

    def test_too_small(self, source: FolderSource) -> None:
        with pytest.raises(UsageError, match="no photograph of at least 960 x 960"):
            course_pairs(source, 5, cell=30)
        with pytest.raises(UsageError, match="count must be at least 1"):
            course_pairs(source, 0)


class TestCommand:
    def run(self, *arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["data", "course", *map(str, arguments)])
        return result.exit_code, result.stderr

    def test_makes_a_file(self, folder: Path, tmp_path: Path) -> None:
        code, said = self.run(
            "--from", folder, "--count", 7, "--pairs", "clean", "--out", tmp_path / "val.pkl"
        )
        assert code == 0, said
        assert "val.pkl: 7 noisy-clean pairs" in said
        assert load_pairs(tmp_path / "val.pkl")[0].shape == (7, 3, 32, 32)
        assert [file.name for file in tmp_path.iterdir()] == ["val.pkl"]

    def test_same_seed_same_file(self, folder: Path, tmp_path: Path) -> None:
        for name in ("a.pkl", "b.pkl"):
            assert self.run("--from", folder, "--count", 3, "--out", tmp_path / name)[0] == 0
        assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()

    def test_replaces_only_by_force(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "data.pkl"
        out.write_text("precious")
        code, said = self.run("--from", folder, "--count", 2, "--out", out)
        assert code == 2
        assert "--force" in said
        assert out.read_text() == "precious"
        assert self.run("--from", folder, "--count", 2, "--out", out, "--force")[0] == 0
        assert load_pairs(out)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--from", "missing", "--out", "x.pkl"], "missing: no such folder"),
            (["--from", ".", "--out", "x.pkl"], "holds no picture"),
            (["--from", ".", "--out", "missing/x.pkl"], "does not exist"),
        ],
    )
    def test_bad_input(
        self, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        code, said = self.run(*arguments)
        assert code == 2
        assert message in said
        assert len(said.strip().splitlines()) == 1
        assert not list(tmp_path.iterdir())
