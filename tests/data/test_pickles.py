"""Course files, and files that only claim to be."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from denoise_cli.data.pickles import PickleSource, load_pairs
from denoise_cli.errors import UsageError


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape or (6, 3, 32, 32), dtype=torch.uint8)


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path / "data.pkl", **options)
    return path / "data.pkl"


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.write_text, (self.witness, "executed")


@pytest.mark.parametrize("container", [tuple, list])
@pytest.mark.parametrize("new_format", [True, False])
def test_reads_what_torch_saves(tmp_path: Path, container: type, new_format: bool) -> None:
    pair = (pictures(), pictures())
    path = saved(tmp_path, container(pair), _use_new_zipfile_serialization=new_format)
    first, second = load_pairs(path)
    assert torch.equal(first, pair[0])
    assert torch.equal(second, pair[1])


def test_source(tmp_path: Path) -> None:
    first, second = pictures(), pictures()
    source = PickleSource(path=saved(tmp_path, (first, second)), limit=4)
    assert len(source) == 4
    assert torch.equal(torch.from_numpy(source.first).permute(0, 3, 1, 2), first[:4])
    assert torch.equal(torch.from_numpy(source.second).permute(0, 3, 1, 2), second[:4])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pictures(), "holds a Tensor where two tensors"),
        ((pictures(),), "holds 1 things"),
        ((pictures(), pictures(), pictures()), "holds 3 things"),
        ({"a": pictures(), "b": pictures()}, "holds a dict"),
        ((pictures(), 3), "two tensors"),
        ((pictures().float(), pictures().float()), "holds float32 tensors where uint8"),
        ((pictures(), pictures().to_sparse()), "tensors"),
        ((pictures(), pictures(5, 3, 32, 32)), r"\(6, 3, 32, 32\) and \(5, 3, 32, 32\)"),
        ((pictures(6, 32, 32, 3), pictures(6, 32, 32, 3)), "both must be"),
        ((pictures(3, 32, 32), pictures(3, 32, 32)), "both must be"),
        ((pictures(0, 3, 32, 32), pictures(0, 3, 32, 32)), "both must be"),
        ((pictures(2, 3, 32, 16), pictures(2, 3, 32, 16)), "both must be"),
    ],
)
def test_other_content(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(UsageError, match=message) as caught:
        load_pairs(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("new_format", [True, False])
def test_nothing_is_executed(tmp_path: Path, new_format: bool, recwarn: pytest.WarningsRecorder) -> None:
    witness = tmp_path / "witness"
    path = saved(tmp_path, (pictures(), Hostile(witness)), _use_new_zipfile_serialization=new_format)
    with pytest.raises(UsageError, match="nothing in it was run"):
        load_pairs(path)
    path.write_bytes(pickle.dumps(Hostile(witness)))
    with pytest.raises(UsageError, match="nothing in it was run"):
        load_pairs(path)
    assert not recwarn.list
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", pickle.dumps([1, 2])])
def test_not_a_torch_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"data\.pkl") as caught:
        load_pairs(path)
    assert "\n" not in str(caught.value)


def test_truncated(tmp_path: Path) -> None:
    path = saved(tmp_path, (pictures(), pictures()))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UsageError, match="format"):
        load_pairs(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        PickleSource(path=tmp_path / "data.pkl")
    with pytest.raises(UsageError, match="no such file"):
        PickleSource(path=tmp_path)


def test_wrong_channels_and_limit(tmp_path: Path) -> None:
    path = saved(tmp_path, (pictures(), pictures()))
    with pytest.raises(UsageError, match=r"3 channels, input\.channels is 1"):
        PickleSource(path=path, channels=1)
    with pytest.raises(UsageError, match="limit must be at least 1"):
        PickleSource(path=path, limit=0)
