"""Files: written so that nobody ever sees half of one, and hidden ones told from others."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from denoise_cli.errors import DenoiseError

_NO_HARD_LINKS = {
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,  # exFAT on macOS
    errno.EINVAL,  # exFAT on Windows
    errno.ENOSYS,
    errno.EMLINK,
    errno.EACCES,
    errno.EXDEV,
}


def check_place(path: Path, *, make_folders: bool = False) -> None:
    """Raises DenoiseError where `path` cannot be written, before any work is put into what should go there.

    `make_folders`: the folders on the way to it will be made.
    """
    if path.is_dir():
        raise DenoiseError(f"{path}: is a folder")
    folder = path.parent
    while make_folders and not os.path.lexists(folder):
        folder = folder.parent
    if not folder.exists():
        raise DenoiseError(f"{path}: the folder {folder} does not exist")
    if not folder.is_dir():
        raise DenoiseError(f"{path}: {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DenoiseError(f"{path}: the folder {folder} does not let files be written")


@contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes its place when the block ends well.

    The bytes are on the disk before the name changes, so that even a crash of the machine leaves the old file
    or the new one. A block that fails leaves nothing behind. Without `force` a file that is there stays.
    Raises DenoiseError where it does, and where the new one cannot be written.
    """
    if path.is_dir():
        raise DenoiseError(f"{path}: is a folder")
    temporary = path.parent / f".denoise-{secrets.token_hex(8)}.part"
    try:
        if not force and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists")
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if force:
            temporary.replace(path)
        else:
            _link(temporary, path)
    except OSError as error:
        raise DenoiseError(f"{path}: {_reason(error, path)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name, failing if another has taken it meanwhile."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists") from error
        temporary.replace(path)


def _reason(error: OSError, path: Path) -> str:
    if isinstance(error, FileExistsError):
        return "exists already: choose another name, or --force to replace it"
    if isinstance(error, FileNotFoundError) and not path.parent.exists():
        return f"the folder {path.parent} does not exist"
    return f"cannot be written: {error.strerror or error}"


def is_hidden(way: Path) -> bool:
    """Whether a file, by its way from a folder, is hidden or lies in a hidden folder."""
    return any(part.startswith(".") for part in way.parts)
