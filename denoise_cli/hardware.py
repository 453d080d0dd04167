"""What the machine has: memory that is free, and devices that compute."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

from denoise_cli.errors import UsageError
from denoise_cli.nn.kernels import memory
from denoise_cli.nn.precision import PRECISIONS, Precision

DEVICES = ("auto", "cpu", "cuda", "mps")
_UNKNOWN = 2 * 2**30
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises UsageError for another name, or a device that is not there.
    """
    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}: choose {', '.join(DEVICES)}")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if there[device]))
    if not there[name]:
        raise UsageError(f"no {name} device here: choose auto or cpu")
    return torch.device(name)


def choose_precision(name: str) -> Precision:
    """The precision of that name. Raises UsageError for a name that is not known."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise UsageError(f"unknown precision {name!r}: choose {' or '.join(PRECISIONS)}")


def free_memory(device: torch.device) -> int:
    """Bytes that a computation on `device` may take without driving anything out; a guess where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [size for size in (_available(), _left_in_container()) if size is not None]
    return min(found, default=_UNKNOWN)


def _available() -> int | None:
    """Free main memory, counting what the system would give up."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (OSError, ValueError, AttributeError):  # not Linux
        return None


def _left_in_container() -> int | None:
    """What the control group of a container leaves to it, counting files that the system would drop."""
    try:
        limit, used, figures = (
            (_CONTROL_GROUP / f"memory.{name}").read_text() for name in ("max", "current", "stat")
        )
        cached = dict(line.split() for line in figures.splitlines())["inactive_file"]
        return max(0, int(limit) - int(used) + int(cached))
    except (OSError, ValueError, KeyError):  # no such group, or no limit ("max")
        return None


def give_back_memory() -> None:
    """Lets the system have what the engine and the C library keep free for later.

    After tiles of many sizes that is a few hundred megabytes, which a large picture needs for being written.
    """
    memory.let_go()
    with suppress(OSError, AttributeError, TypeError):  # another C library than glibc, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on the CPU or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("allocate memory", "not enough memory", "out of memory")  # Linux and macOS, Windows, devices
    return isinstance(error, RuntimeError) and any(each in str(error).lower() for each in words)
