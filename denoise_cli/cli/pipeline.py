"""Many pictures, one after the other: read and written beside computing, and no failure stops the others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from denoise_cli.cli.plan import Job

R = TypeVar("R")
C = TypeVar("C")
W = TypeVar("W")


@dataclass(frozen=True)
class Done(Generic[C, W]):
    """What became of a job: what was computed and what writing gave, or an error."""

    job: Job
    computed: C | None = None
    written: W | None = None
    error: Exception | None = None


def run(
    jobs: Iterable[Job],
    read: Callable[[Job], R],
    compute: Callable[[Job, R], C],
    write: Callable[[Job, C], W],
    *,
    threads: int,
) -> Iterator[Done[C, W]]:
    """Reads, computes and writes every job; the results in order.

    While one is computed here, the next `threads` are read and the last `threads` written.
    """
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        reading: deque[tuple[Job, Future[R]]] = deque()
        writing: deque[Done[C, Future[W]]] = deque()
        try:
            waiting = iter(jobs)
            while True:
                for job in waiting:
                    reading.append((job, readers.submit(read, job)))
                    if len(reading) > threads:
                        break
                if not reading:
                    break
                job, picture = reading.popleft()
                writing.append(_computed(job, picture, compute, write, writers))
                del picture
                while len(writing) > threads:
                    yield _written(writing.popleft())
            while writing:
                yield _written(writing.popleft())
        finally:
            for pool in (readers, writers):
                pool.shutdown(wait=False, cancel_futures=True)


def _computed(
    job: Job,
    picture: "Future[R]",
    compute: Callable[[Job, R], C],
    write: Callable[[Job, C], W],
    writers: ThreadPoolExecutor,
) -> "Done[C, Future[W]]":
    try:
        computed = compute(job, picture.result())
        return Done(job, computed, writers.submit(write, job, computed))
    except Exception as error:
        return Done(job, error=error)


def _written(done: "Done[C, Future[W]]") -> "Done[C, W]":
    if done.written is None:
        return Done(done.job, done.computed, error=done.error)
    try:
        return Done(done.job, done.computed, done.written.result())
    except Exception as error:
        return Done(done.job, done.computed, error=error)


def forget_frames(error: Exception) -> None:
    """Lets go of the frames that an error came through, and with them of the bytes of its file."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
