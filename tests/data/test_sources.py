"""Folders of photographs."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_cli.data import sources
from denoise_cli.data.sources import FolderSource, decode, is_held_out
from denoise_cli.errors import DenoiseError, UsageError


def picture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


class TestReading:
    def test_formats_subfolders_and_order(self, tmp_path: Path) -> None:
        names = ["b.png", "a/z.jpg", "a/y.WEBP", "c/d/e.tif", "f.bmp", "g.jpeg", "h.tiff"]
        for n, name in enumerate(names):
            save(tmp_path / name, picture((20 + n, 24, 3)))
        (tmp_path / "notes.txt").write_text("not a picture")
        for name in (".hidden.png", ".thumbs/x.png", "a/.cache/deep/y.png"):
            save(tmp_path / name, picture((9, 9, 3)))
        source = FolderSource(path=tmp_path)
        assert [file.relative_to(tmp_path) for file in source.files] == sorted(map(Path, names))
        assert source.picture(source.files.index(tmp_path / "b.png")).shape == (3, 20, 24)

    def test_values(self, tmp_path: Path) -> None:
        pixels = picture((5, 7, 3))
        save(tmp_path / "x.png", pixels)
        tensor = FolderSource(path=str(tmp_path)).picture(0)
        assert tensor.dtype == torch.float32
        assert torch.allclose(255 * tensor, torch.from_numpy(pixels).permute(2, 0, 1).float(), atol=1e-4)

    def test_grey_and_colour_become_what_is_asked_for(self, tmp_path: Path) -> None:
        colour, grey = picture((6, 6, 3)), picture((6, 6), 1)
        save(tmp_path / "colour.png", colour)
        save(tmp_path / "grey.png", grey)
        as_colour, as_grey = FolderSource(path=tmp_path), FolderSource(path=tmp_path, channels=1)
        assert as_colour.picture(1).shape == (3, 6, 6)
        assert torch.equal(as_colour.picture(1)[0], as_colour.picture(1)[2])
        luma = np.round(colour @ [0.299, 0.587, 0.114])
        assert as_grey.picture(0).shape == (1, 6, 6)
        assert 255 * as_grey.picture(0)[0].numpy() == pytest.approx(luma, abs=1.01)

    @pytest.mark.parametrize("samples", [1, 3, 4])
    def test_bytes_stay_as_they_are(self, tmp_path: Path, samples: int) -> None:
        pixels = picture((300, 400, samples)).squeeze()
        file = save(tmp_path / "x.bmp" if samples < 4 else tmp_path / "x.png", pixels)
        channels = min(samples, 3)
        tracemalloc.start()
        decoded = decode(file, channels)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert np.array_equal(decoded, pixels.reshape(300, 400, samples)[..., :channels])
        assert peak < 4 * pixels.nbytes + 2**20

    def test_16_bits(self, tmp_path: Path) -> None:
        save(tmp_path / "deep.png", np.array([[0, 257 * 100, 65535]], np.uint16))
        assert 255 * FolderSource(path=tmp_path, channels=1).picture(0).flatten() == pytest.approx(
            [0, 100, 255]
        )

    @pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n broken"])
    def test_a_bad_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        save(tmp_path / "good.png", picture((8, 8, 3)))
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(DenoiseError, match=r"bad\.png") as caught:
            FolderSource(path=tmp_path)
        assert "\n" not in str(caught.value)

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no such folder"):
            FolderSource(path=tmp_path / "missing")
        with pytest.raises(UsageError, match="holds no picture"):
            FolderSource(path=tmp_path)

    def test_more_than_fits_into_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for n in range(4):
            save(tmp_path / f"{n}.png", picture((10, 10, 3)))
        monkeypatch.setattr(sources, "_physical_memory", lambda: 1000.0)
        with pytest.raises(DenoiseError, match="do not fit into memory"):
            FolderSource(path=tmp_path)


class TestHoldout:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for n in range(60):
            save(tmp_path / f"photo_{n}.png", picture((4, 4, 3), n))
        return tmp_path

    def test_parts_are_disjoint_and_complete(self, folder: Path) -> None:
        train = FolderSource(path=folder, holdout=0.3).files
        held = FolderSource(path=folder, holdout=0.3, take="holdout").files
        assert not set(train) & set(held)
        assert len(train) + len(held) == 60
        assert 8 <= len(held) <= 28

    def test_adding_files_moves_nobody(self, folder: Path) -> None:
        before = FolderSource(path=folder, holdout=0.3, take="holdout").files
        for n in range(20):
            save(folder / f"another_{n}.png", picture((4, 4, 3), n))
        after = FolderSource(path=folder, holdout=0.3, take="holdout").files
        assert [file for file in after if file.name.startswith("photo")] == before

    def test_fraction_is_met(self) -> None:
        files = [Path(f"{n}.jpg") for n in range(4000)]
        for fraction in (0.0, 0.05, 0.5, 1.0):
            share = np.mean([is_held_out(file, fraction) for file in files])
            assert share == pytest.approx(fraction, abs=0.03)

    def test_the_same_everywhere(self) -> None:
        """The hash is part of what an experiment means: it must never change."""
        held = [n for n in range(40) if is_held_out(Path(f"photo_{n}.png"), 0.1)]
        assert held == [12, 27]

    def test_a_part_without_pictures(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="leaves no picture for take: holdout"):
            FolderSource(path=folder, take="holdout")


class TestCrop:
    def test_crops_are_parts_of_the_picture(self, tmp_path: Path) -> None:
        rows, columns = np.mgrid[:20, :30]
        save(tmp_path / "where.png", np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8))
        source, generator = FolderSource(path=tmp_path), np.random.default_rng(0)
        corners = set()
        for _ in range(300):
            crop = (255 * source.crop(0, 16, generator)).round()
            top, left = int(crop[0, 0, 0]), int(crop[1, 0, 0])
            assert torch.equal(crop[0, :, 0], torch.arange(top, top + 16.0))
            assert torch.equal(crop[1, 0], torch.arange(left, left + 16.0))
            corners.add((top, left))
        assert {top for top, _ in corners} == set(range(5))
        assert {left for _, left in corners} == set(range(15))

    def test_small_pictures_are_reflected(self, tmp_path: Path) -> None:
        save(tmp_path / "small.png", np.arange(12, dtype=np.uint8).reshape(3, 4))
        source = FolderSource(path=tmp_path, channels=1)
        crop = 255 * source.crop(0, 8, np.random.default_rng(0))[0]
        assert crop[0].round().tolist() == [0, 1, 2, 3, 2, 1, 0, 1]
        assert crop[:, 0].round().tolist() == [0, 4, 8, 4, 0, 4, 8, 4]
