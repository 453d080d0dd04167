"""Files are written whole or not at all, and never over what is there unless told to."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from image_corpus import noise, smooth

from denoise_cli.errors import DenoiseError
from denoise_cli.images import FORMATS, SUFFIXES, Picture, read_picture, write_picture, writing

PICTURE = Picture(smooth(), "rgb")


def names(folder):
    return [path.name for path in folder.iterdir()]


def refused(path, match, **options):
    with pytest.raises(DenoiseError, match=match) as caught:
        write_picture(PICTURE, path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_there_is_replaced_only_by_force(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"precious")
    refused(path, "exists already.*--force")
    assert path.read_bytes() == b"precious"
    write_picture(PICTURE, path, force=True)
    np.testing.assert_array_equal(read_picture(path).samples, PICTURE.samples)
    assert names(tmp_path) == ["out.png"]


def test_a_file_that_appears_while_writing_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    encode = writing._encode

    def slowly(*arguments):
        encode(*arguments)
        path.write_bytes(b"precious")

    monkeypatch.setattr(writing, "_encode", slowly)
    refused(path, "exists already")
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["out.png"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EINVAL])
@pytest.mark.parametrize("there", [False, True])
def test_file_systems_without_hard_links(tmp_path, monkeypatch, there, number):
    def no_links(self, target):
        if there:
            self.write_bytes(b"precious")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    path = tmp_path / "out.png"
    if there:
        refused(path, "exists already")
        assert path.read_bytes() == b"precious"
    else:
        write_picture(PICTURE, path)
        np.testing.assert_array_equal(read_picture(path).samples, PICTURE.samples)
    assert names(tmp_path) == ["out.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError("a codec fell over")])
@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch, error, force):
    path = tmp_path / "out.tif"
    if force:
        path.write_bytes(b"precious")

    def fail(pictures, file):
        file.write(b"half a picture")
        raise error

    monkeypatch.setitem(SUFFIXES, ".tif", replace(FORMATS["tiff"], write=fail))
    expected = KeyboardInterrupt if error is KeyboardInterrupt else DenoiseError
    with pytest.raises(expected):
        write_picture(PICTURE, path, force=force)
    assert names(tmp_path) == (["out.tif"] if force else [])
    assert not force or path.read_bytes() == b"precious"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_full_or_broken_disk_is_told_in_one_line(tmp_path, monkeypatch, number):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    refused(tmp_path / "out.png", f"cannot be written: {os.strerror(number)}")
    assert names(tmp_path) == []


def test_folders(tmp_path):
    refused(tmp_path / "missing" / "out.png", "missing does not exist")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "is a folder", force=True)
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "out.png", "cannot be written: Not a directory")


def test_a_symbolic_link_counts_as_there_even_when_it_points_nowhere(tmp_path):
    link = tmp_path / "out.png"
    link.symlink_to(tmp_path / "nowhere")
    refused(link, "exists already")
    assert link.is_symlink()


def test_files_get_the_usual_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        write_picture(PICTURE, tmp_path / "out.png")
    finally:
        os.umask(mask)
    assert (tmp_path / "out.png").stat().st_mode & 0o777 == 0o640


def test_the_input_may_be_the_output(tmp_path):
    path = tmp_path / "both.png"
    write_picture(PICTURE, path)
    picture = read_picture(path)
    write_picture(picture.replace_pixels(1 - picture.pixels), path, force=True)
    np.testing.assert_array_equal(read_picture(path).samples, 255 - PICTURE.samples)


def test_what_was_lost_is_returned(tmp_path):
    picture = Picture(noise((5, 5, 3), 16), "rgb")
    assert write_picture(picture, tmp_path / "out.png") == []
    assert write_picture(picture, tmp_path / "out.jpg") == ["JPEG has 8 bits a sample, the picture had 16"]
    assert write_picture(picture, tmp_path / "other", format="tiff") == []
    assert (tmp_path / "other").read_bytes()[:2] == b"II"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals here")
def test_a_killed_process_leaves_no_half_picture_under_the_name(tmp_path):
    script = f"""
        import os, signal
        import numpy as np
        from denoise_cli.images import Picture, write_picture
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        write_picture(Picture(np.zeros((9, 9, 3), np.uint8), "rgb"), {str(tmp_path / "out.png")!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.png").exists()
    write_picture(PICTURE, tmp_path / "out.png")
