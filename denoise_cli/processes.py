"""Processes that work for another one."""

import multiprocessing
import os
from threading import Thread


def end_with_parent() -> None:
    """From now on this process ends as soon as the one that started it is gone, however that came about."""
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
