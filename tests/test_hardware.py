"""Memory and devices: what other systems say, told to this one."""

import ctypes

import pytest
import torch

from denoise_cli import hardware


def test_files_that_a_container_would_drop_are_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(hardware, "_available", lambda: None)
    figures = {"max": "1000\n", "current": "900\n", "stat": "anon 200\nfile 700\ninactive_file 600\n"}
    for name, text in figures.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert hardware.free_memory(torch.device("cpu")) == 700


def test_memory_is_given_back_where_the_c_library_cannot_be_asked(monkeypatch):
    def on_windows(name):
        raise TypeError("argument 1 must be str, not None")

    monkeypatch.setattr(ctypes, "CDLL", on_windows)
    hardware.give_back_memory()


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(error, memory):
    assert hardware.ran_out_of_memory(error) is memory
