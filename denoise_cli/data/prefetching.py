"""Batches that are prepared while the training computes."""

import mmap
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor

from denoise_cli.data.batch import Batch
from denoise_cli.errors import DenoiseError
from denoise_cli.processes import end_with_parent

_Made = TypeVar("_Made")
Make = Callable[[int], Batch]
"""Makes the batch of a step."""


def prefetched(make: Make, steps: range, workers: int) -> Generator[Batch, None, None]:
    """`make(step)` of each step in order, as many in the making as there are workers.

    One worker is a thread. Several are processes, where the system can fork this one: threads would take
    turns at the interpreter's lock, and the training would wait in the same queue. Then a batch lies in
    memory that they share, and is valid until the next one is asked for.

    An error in a worker is raised at its step. Closing the iterator ends the workers.
    """
    if workers == 0:
        yield from map(make, steps)
    elif workers == 1 or sys.platform != "linux":
        yield from _ahead(ThreadPoolExecutor(workers, thread_name_prefix="batches"), make, steps, workers)
    elif steps:
        yield from _by_processes(make, steps, workers)


def _by_processes(make: Make, steps: range, workers: int) -> Generator[Batch, None, None]:
    """`prefetched` by processes. To send tensors from one to another takes 5 ms and fresh pages each time; so
    the batches of all that are at work, and the one that was given out, have places of their own."""
    like = make(steps[0])
    places = [like.mapped(_shared_like) for _ in range(workers + 1)]
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin_work, (make, places))
    _begin_without_interrupts(pool)
    try:
        with closing(_ahead(pool, _work, steps, workers)) as made:
            for place in made:
                yield places[place]
    except BrokenProcessPool:
        raise DenoiseError(
            "a process that prepares batches was killed, as happens when memory runs out; a smaller"
            " data.workers needs less of it"
        ) from None


def _begin_without_interrupts(pool: ProcessPoolExecutor) -> None:
    """Begins all processes of a pool. They see the same Ctrl-C as this one, whose matter it is: they inherit
    that it is blocked, so that there is no moment when it reaches them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pool.submit(int)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sent_ahead(batches: Generator[Batch, None, None], device: torch.device) -> Generator[Batch, None, None]:
    """The batches on a device: the next one goes there while this one is computed with.

    Closing the iterator closes `batches`.
    """
    if device.type == "cpu":
        with closing(batches):
            yield from batches
        return
    # a GPU does what one stream asks for in turn: what is sent would wait for the training
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def send() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            there = batch.mapped(lambda tensor: tensor.to(device))
        if stream:
            stream.synchronize()
        return there

    with closing(batches), ThreadPoolExecutor(1, thread_name_prefix="sending") as sender:
        coming = sender.submit(send)
        while (batch := coming.result()) is not None:
            coming = sender.submit(send)
            yield batch


def _ahead(
    pool: Executor, make: Callable[[int], _Made], steps: Sequence[int], workers: int
) -> Generator[_Made, None, None]:
    """What the pool makes of each step in order; it is shut down at the end, what is left undone."""
    ahead: deque[Future[_Made]] = deque()
    try:
        for step in steps:
            ahead.append(pool.submit(make, step))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _shared_like(tensor: Tensor) -> Tensor:
    """Such a tensor, uninitialised, in memory that processes forked later share: anonymous memory, which may
    be larger than /dev/shm is in a container."""
    memory = mmap.mmap(-1, tensor.nbytes)
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())


# In a worker process ---------------------------------------------------------------------------------------

_served: tuple[Make, list[Batch]]
"""What it makes batches by, and their places."""


def _begin_work(make: Make, places: list[Batch]) -> None:
    """Begins a worker process."""
    global _served
    _served = make, places
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # a team of threads does not survive a fork: a parallel copy would hang
    end_with_parent()


def _work(step: int) -> int:
    """Makes a batch; tells its place, which is free by then: `_ahead` asks for no more than there are."""
    make, places = _served
    place = step % len(places)
    for target, source in zip(places[place].tensors, make(step).tensors, strict=True):
        target.copy_(source)
    return place
