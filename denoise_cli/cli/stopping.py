"""Ctrl-C, SIGTERM and SIGHUP all end a command in the same way, so that no temporary file stays."""

import signal
from typing import NoReturn

_received: list[int] = []


def heed_signals() -> None:
    """Lets each of the signals raise KeyboardInterrupt. One that is ignored stays so, as under nohup."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def stop_code() -> int | None:
    """The exit code for the signal that asked to stop, 128 + its number; None if none did."""
    return 128 + _received[-1] if _received else None


def _interrupt(number: int, _: object) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt
