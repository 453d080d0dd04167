"""Memory and devices: what other systems say, told to this one."""

import torch

from denoise_cli import hardware


def test_files_that_a_container_would_drop_are_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(hardware, "_available", lambda: None)
    figures = {"max": "1000\n", "current": "900\n", "stat": "anon 200\nfile 700\ninactive_file 600\n"}
    for name, text in figures.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert hardware.free_memory(torch.device("cpu")) == 700
