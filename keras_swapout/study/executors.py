"""Where work is done: in this process, in processes of this machine, or by a dask cluster.

Work is a function of plain values; each way is a `concurrent.futures.Executor`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

from keras_swapout.datasets.sources import imported

MOST = 64  # values that a cluster has at a time
TRIES = 3  # of a value whose process is killed
#: One thread for each process: on small networks two are no faster than one, and what is computed
#: does not depend on how many processes there are.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_JAX_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where work is done.

    Attributes:
        jobs: processes of one thread each; None for this process itself.
        scheduler: address of a dask scheduler, as "tcp://127.0.0.1:8786", instead of them.

    Raises:
        ImportError: dask is missing. OSError: no scheduler answers.
    """

    jobs: int | None = None
    scheduler: str | None = None

    @property
    def width(self) -> int:
        """How many values are handed out at a time."""
        return MOST if self.scheduler else self.jobs or 1

    @contextlib.contextmanager
    def executor(self) -> Iterator[Executor]:
        """An executor, which ends with the block and leaves no process behind."""
        if self.scheduler is not None:
            with _client(self.scheduler) as client:
                yield _Cluster(client)
        elif self.jobs is None:
            yield _Here()
        else:
            with _pool(self.jobs) as pool:
                yield pool


class _Here(Executor):
    """Does what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Cluster(Executor):
    """Has a dask cluster do it.

    Dask's own executor takes a result that is lost with its worker, just after it was made, for an
    error (distributed 2026.8.0, `_cascade_future`); here it is waited for again.
    """

    def __init__(self, client: Any) -> None:
        self.client, self._theirs = client, []  # what nobody holds, dask gives up

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()

        def hand_on(theirs):
            try:
                future.set_result(theirs.result())
            except BaseException as error:  # dask raises what it likes, also for what it cancelled
                future.set_exception(error)

        theirs = self.client.submit(fn, *args, pure=False, **kwargs)
        self._theirs.append(theirs)
        theirs.add_done_callback(hand_on)
        return future


@contextlib.contextmanager
def _pool(jobs):
    before = dict(os.environ)
    # Read when a process starts, which inherits them.
    os.environ.update(_ONE_THREAD)
    if os.environ.get("KERAS_BACKEND") == "jax":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_JAX_FLAGS}"
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(jobs, context, _begin)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.clear()
        os.environ.update(before)


def _begin():
    """What a process of the pool does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the rest
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _client(address):
    return imported("dask.distributed", "cluster").Client(address)


def completed(
    place: Place, function: Callable[[Any], Any], values: Iterable[tuple[Any, Any]]
) -> Iterator[tuple[Any, Any]]:
    """(key, `function(value)`) of each (key, value), as soon as it is there.

    The next value is asked for when there is room for it. If a process is killed, what it and its
    like were at is done again; what is finished is not.

    Args:
        place: where.
        function: of a module that each process can import.
        values: picklable; in the order to do them.

    Raises:
        RuntimeError: a value's process is killed `TRIES` times. And whatever `function` raises.

    Example:

    >>> list(completed(Place(), abs, [("a", -3), ("b", 4)]))
    [('a', 3), ('b', 4)]
    """
    values, again, killed = iter(values), [], Counter()
    while again is not None:
        with place.executor() as executor:
            try:
                yield from _through(executor, place, function, itertools.chain(again, values))
                again = None
            except _Killed as error:
                again = error.left
        if again is not None:
            killed.update(repr(key) for key, _ in again)
            if max(killed.values()) >= TRIES:
                raise RuntimeError(
                    f"a process was killed {TRIES} times at the same work: perhaps there is too "
                    "little memory. Try fewer `jobs`"
                )
            warnings.warn("a process was killed: what it was at is done again", stacklevel=2)


class _Killed(Exception):
    """A process of the pool is gone; `left` are the values that were not finished."""

    def __init__(self, left: list[tuple[Any, Any]]) -> None:
        super().__init__()
        self.left = left


def _through(executor, place, function, values):
    """As `completed`, until all is done or a process is killed."""
    running: dict[Future, tuple[Any, Any]] = {}
    while True:
        left = []
        for key, value in itertools.islice(values, max(0, place.width - len(running))):
            try:
                running[executor.submit(function, value)] = key, value
            except BrokenProcessPool:
                left.append((key, value))
                break
        if not running and not left:
            return
        done = wait(running, return_when=FIRST_COMPLETED).done if running else ()
        for future in done:
            key, value = running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                left.append((key, value))
            else:
                yield key, future.result()
        if left:
            raise _Killed([*left, *running.values()])
