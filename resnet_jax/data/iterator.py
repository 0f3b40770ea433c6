"""Training batches in order, loaded ahead by threads or by processes of threads."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import DataError

if TYPE_CHECKING:
    import grain

_MAX_NAMED = 100
_logger = logging.getLogger(__name__)


class TrainIterator(Iterator[Any]):
    """Hands out the batches of `train_batches` in order; see `train_iterator`.

    Attributes:
      bad_images: how many images of the batches handed out stand in for one that cannot be
        decoded, since the first step of the run; always 0 unless `on_bad_image` is "skip".
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
        """Returns the next batch: a dictionary of arrays."""
        if self._batches is None:
            self._batches = self._open()
        batch = dict(next(self._batches))
        self._step += 1
        for message in batch.pop("bad_images", ()):
            self.bad_images += 1
            if message not in self._named and len(self._named) < _MAX_NAMED:
                self._named.add(message)
                _logger.warning("%s; the next one takes its place", message.partition("; mend")[0])
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position behind the last batch handed out, whatever is loaded ahead."""
        return {"next_index": self._step, "bad_images": self.bad_images}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to where `get_state` stood, under whatever number of threads and workers."""
        self.close()
        self._step = int(state["next_index"])
        self.bad_images = int(state.get("bad_images", 0))

    def close(self) -> None:
        """Stops what loads ahead; the next batch starts it again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # At the interpreter's end anything may be gone.
            self.close()

    def _open(self) -> Any:
        if self._num_workers == 0:
            batches = iter(self._dataset.to_iter_dataset(read_options(self._num_threads)))
            batches.set_state({"next_index": self._step})
            return batches
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            # Grain reads flags of its own, which have defaults, when it starts processes.
            flags.FLAGS.mark_as_parsed()
        threads = self._num_threads or max(1, usable_processors() // self._num_workers)
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

    `get_state()` returns a small dictionary, the position behind the last batch handed out,
    whatever has been loaded ahead; `set_state()` goes there. The batches come in order and are the
    same for every number of threads and workers.

    Threads do for most machines, for decoding leaves Python's lock alone. Processes help where so
    many cores decode that the lock is contended, at the price of their start (each imports the
    package) and of their memory; a script that asks for them has to guard its entry by
    `if __name__ == "__main__"`.

    Args:
      dataset: what `train_batches` returned.
      start_step: the step of the first batch.
      num_threads: how many batches to prepare at once in a process; None for one a processor, at
        most 16 (with workers: the processors divided by them). With 0, and without workers, a
        batch is made when it is asked for.
      num_workers: processes that load; 0 for threads of this one.

    Returns:
      The iterator. `close()` it when it is no longer wanted before the program's end, for what
      has been asked for is otherwise still loaded.

    Raises:
      DataError: a negative number of workers.
    """
    if num_workers < 0:
        raise DataError(f"the number of loader workers is {num_workers}; choose 0 or more")
    return TrainIterator(dataset, start_step, num_threads, num_workers)


def _begin_worker(index: int, count: int) -> None:
    """Leaves signals to the process that loads for, and ends with it, however it ends.

    A signal often comes to a whole group of processes, as from a terminal; that process still wants
    its batches then.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def usable_processors() -> int:
    """How many processors this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def read_options(num_threads: int | None) -> "grain.ReadOptions":
    """Threads, one a processor that this process may use if None, and a batch ahead of them."""
    import grain

    if num_threads is None:
        num_threads = min(16, usable_processors())
    return grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=num_threads + 1 if num_threads else 0
    )
