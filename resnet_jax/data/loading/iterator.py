"""The iterator over training batches, loaded ahead by threads or by processes with threads."""

import contextlib
import logging
import math
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import DataError
from resnet_jax.runtime.interrupts import SIGNALS

if TYPE_CHECKING:
    import grain

_MAX_NAMED = 100
_SHARED_MEMORY = "/dev/shm"
_logger = logging.getLogger(__name__)


class LoaderDied(ChildProcessError):
    """A loader process ended during a run."""


class TrainIterator(Iterator[Any]):
    """Returns the batches of `train_batches` in order; see `train_iterator`.

    Attributes:
      bad_images: number of undecodable images that were replaced in the batches returned since the
        first step of the run; always 0 unless `on_bad_image` is "skip".
    """

    def __init__(
        self,
        dataset: "grain.MapDataset",
        start_step: int,
        num_threads: int | None,
        num_workers: int,
    ) -> None:
        self._dataset = dataset
        self._num_threads = num_threads
        self._num_workers = num_workers
        self._step = start_step
        self._batches: Any = None
        self._named: set[str] = set()
        self.bad_images = 0

    def __next__(self) -> Any:
        """Returns the next batch: a dictionary of arrays.

        Raises:
          LoaderDied: a loader process died.
        """
        if self._batches is None:
            self._batches = self._open()
        try:
            batch = dict(next(self._batches))
        except RuntimeError as error:
            if found := re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error)):
                raise LoaderDied(_cause_of_death(int(found[1]))) from error
            raise
        self._step += 1
        for message in batch.pop("bad_images", ()):
            self.bad_images += 1
            if message not in self._named and len(self._named) < _MAX_NAMED:
                self._named.add(message)
                _logger.warning("%s; the next of the epoch replaces it", message)
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position after the last batch returned; prefetching does not affect it."""
        return {"next_index": self._step, "bad_images": self.bad_images}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves to a position of `get_state`, from any number of threads and workers."""
        self.close()
        self._step = int(state["next_index"])
        self.bad_images = int(state.get("bad_images", 0))

    def close(self) -> None:
        """Stops prefetching; the next batch restarts it."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # At interpreter shutdown, anything may be gone.
            self.close()

    def _open(self) -> Any:
        if self._num_workers == 0:
            batches = iter(self._dataset.to_iter_dataset(read_options(self._num_threads)))
            batches.set_state({"next_index": self._step})
            return batches
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            # Grain reads its own flags, which have defaults, when it starts processes.
            flags.FLAGS.mark_as_parsed()
        threads = self._num_threads or max(1, usable_processors() // self._num_workers)
        _start_tracker()
        rest = self._dataset.slice(slice(self._step, None))
        return iter(
            rest.to_iter_dataset(read_options(threads)).mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._num_workers, per_worker_buffer_size=2
                ),
                worker_init_fn=_begin_worker,
            )
        )


def train_iterator(
    dataset: "grain.MapDataset",
    *,
    start_step: int = 0,
    num_threads: int | None = None,
    num_workers: int = 0,
) -> TrainIterator:
    """Returns an iterator over training batches that loads ahead.

    `get_state()` returns a small dictionary, the position after the last batch returned;
    prefetching does not affect it. `set_state()` moves there. The batches and their order are the
    same for any number of threads and workers.

    Threads suffice on most machines, because decoding releases Python's lock. Processes help if so
    many cores decode that the lock is contended. They cost start-up time (each imports the package)
    and memory, and the script must guard its entry point with `if __name__ == "__main__"`.

    Args:
      dataset: the result of `train_batches`.
      start_step: the step of the first batch.
      num_threads: number of batches that each process prepares at once; None for one per processor,
        at most 16 (with workers: the processors divided by them). With 0 and no workers, there is
        no prefetching.
      num_workers: number of loader processes; 0 for threads in this process.

    Returns:
      The iterator. Call `close()` to stop prefetching before the program ends.

    Raises:
      DataError: the number of workers is negative.
    """
    if num_workers < 0:
        raise DataError(f"the number of loader workers is {num_workers}; choose 0 or more")
    return TrainIterator(dataset, start_step, num_threads, num_workers)


def check_shared_memory(batch_bytes: int, num_workers: int) -> None:
    """Checks that the batches of loader processes fit into `/dev/shm`, through which they pass.

    There, Grain keeps up to six for each process (two in its queue, two in the main process's, and
    one before each that waits for room) and training seven: those of the steps sent ahead. Docker
    gives a container 64 MB, and a process that finds no room is killed in the middle of a batch.

    Args:
      batch_bytes: size of this host's share of a batch.
      num_workers: number of loader processes, at least 1.

    Raises:
      DataError: they do not fit.
    """
    try:
        there = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return  # A system without it, such as macOS.
    free, needed = there.f_bavail * there.f_frsize, batch_bytes * (6 * num_workers + 7)
    if free < needed:
        raise DataError(
            f"{_SHARED_MEMORY} has {free / 2**20:.0f} MiB free, but the batches of {num_workers} "
            f"loader processes may need {needed / 2**20:.0f} MiB; start the container with "
            f"--shm-size={math.ceil(needed / 2**30)}g, or set config.loader_workers=0"
        )


def _cause_of_death(exit_code: int) -> str:
    name = signal.Signals(-exit_code).name if exit_code < 0 else f"status {exit_code}"
    remedy = {
        "SIGBUS": f"{_SHARED_MEMORY} is full; start the container with a larger --shm-size, or set "
        "config.loader_workers=0",
        "SIGKILL": "the system may lack memory; lower config.loader_workers",
    }
    return f"a loader process ended with {name}: {remedy.get(name, 'see its messages above')}"


def _begin_worker(index: int, count: int) -> None:
    """Makes a worker ignore signals and end with its parent, however that ends.

    A terminal sends signals to the whole process group, but the parent still needs its batches.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _start_tracker() -> None:
    """Starts the process that removes shared memory, so that signals to the group leave it alone.

    By itself, Python's ignores only SIGINT and SIGTERM, and a dead one is missed with tracebacks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # The process inherits it.
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def usable_processors() -> int:
    """Returns the number of processors that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def read_options(num_threads: int | None) -> "grain.ReadOptions":
    """Returns Grain's options: threads (None for one per usable processor) and prefetching."""
    import grain

    if num_threads is None:
        num_threads = min(16, usable_processors())
    return grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=num_threads + 1 if num_threads else 0
    )
