"""From a source to batches, in an order and with random numbers that follow from the seed alone.

Element `k` of `train_batches` is the batch of step `k`: which images it holds and how they are
augmented is a function of (seed, k). Nothing else is state, so a run that continues at step `k`
sees what an uninterrupted one sees, and every host of several can compute its own share.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from .errors import DataError
from .sources import ArraySource, Source
from .transforms import Transform

if TYPE_CHECKING:
    import grain

MAX_SEED = 2**64 - 1


class Batch(TypedDict):
    """The images and labels of one training step (or this host's share of them)."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]


class EvalBatch(Batch):
    """A batch of evaluation; where `mask` is False there is padding, not an example."""

    mask: Bool[np.ndarray, " b"]


def train_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "grain.MapDataset":
    """Returns the endless sequence of training batches; element `k` is the batch of step `k`.

    The images are shuffled anew every epoch, and none comes twice before all have come once. A
    batch may span two epochs, so none is ever short.

    Args:
      source: what to draw from.
      transform: what becomes of each image.
      batch_size: images a step over all shards.
      seed: what the order and the augmentation follow from, 0 to 2**64 - 1.
      shard_index: which share of every batch to load, from 0.
      shard_count: into how many equal shares batches are divided. Put together, the shares are
        the batch that one shard would have loaded.

    Returns:
      A `grain.MapDataset` of `Batch`es of `batch_size // shard_count` images. It can be pickled
      if the source can.

    Raises:
      DataError: a batch size, seed or transform that does not fit the source or the shards.
    """
    import grain

    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"the seed is {seed}; choose one from 0 to {MAX_SEED}")
    share = _Share(batch_size, shard_index, shard_count)
    transform = _fit(transform, source)
    # Grain shuffles epoch e of seed s as epoch 0 of s + e; neighbouring seeds must not share
    # orders, so it is given a hash of the seed.
    order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = grain.MapDataset.range(len(source)).shuffle(order_seed).repeat()
    load = _TrainBatch(source, transform, order, share, seed)
    return grain.MapDataset.range(sys.maxsize // batch_size).map(load)


def train_iterator(
    dataset: "grain.MapDataset", *, start_step: int = 0, num_threads: int | None = None
) -> "grain.DatasetIterator":
    """Returns an iterator over training batches that loads ahead in threads.

    `get_state()` returns a small dictionary, the position behind the last batch handed out,
    whatever has been loaded ahead; `set_state()` goes there. The batches come in order and are the
    same for every number of threads.

    Args:
      dataset: what `train_batches` returned.
      start_step: the step of the first batch.
      num_threads: how many batches to prepare at once; None for one a processor, at most 16. With
        0 a batch is made when it is asked for.
    """
    import grain

    threads = _num_threads() if num_threads is None else num_threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads and threads + 1)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": start_step})
    return iterator


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Every example of a source once, in batches of one shape; see `eval_batches`."""

    source: Source
    transform: Transform
    share: "_Share"
    num_threads: int | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.share.batch_size)

    def __getitem__(self, index: int) -> EvalBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        positions = self.share.positions(index)
        mask = positions < len(self.source)
        batch = _load(self.source, self.transform, positions[mask], np.empty((mask.sum(), 0)))
        missing = len(mask) - int(mask.sum())
        return {
            "image": np.pad(batch["image"], ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(batch["label"], (0, missing)),
            "mask": mask,
        }

    def __iter__(self) -> Iterator[EvalBatch]:
        import grain

        threads = _num_threads() if self.num_threads is None else self.num_threads
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=threads and threads + 1
        )
        return iter(grain.MapDataset.source(self).to_iter_dataset(options))


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    shard_index: int = 0,
    shard_count: int = 1,
    num_threads: int | None = None,
) -> EvalBatches:
    """Returns the batches of an evaluation: every example exactly once over all shards.

    All batches have `batch_size // shard_count` rows and every shard has equally many of them, so
    that compiled functions and collectives fit; the rows that are missing at the end are zeros
    with a `mask` of False.

    Args:
      source: what to evaluate on; its order is kept.
      transform: what becomes of each image; nothing random.
      batch_size: rows over all shards.
      shard_index: which share of every batch to load, from 0.
      shard_count: into how many equal shares batches are divided.
      num_threads: how many batches to prepare at once; None for one a processor, at most 16.

    Returns:
      A sequence of `EvalBatch`es, which can be iterated over again.

    Raises:
      DataError: a batch size that the shards do not divide, or a random transform.
    """
    share = _Share(batch_size, shard_index, shard_count)
    return EvalBatches(source, _fixed(_fit(transform, source)), share, num_threads)


def pixel_mean(source: Source, transform: Transform) -> Float32[np.ndarray, "h w c"]:
    """Returns the mean image of a source on [0, 1], which the paper subtracts from every image.

    Summed in integers, so the order of the images does not matter; rounded once, to float32.

    Raises:
      DataError: a random transform, or images that do not come out with one shape.
    """
    batches = eval_batches(source, transform, batch_size=min(len(source), 256))
    total = np.int64(0)
    for batch in batches:
        # The padding is zero and adds nothing.
        total = total + batch["image"].sum(axis=0, dtype=np.int64)
    return (total / (len(source) * 255)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Share:
    """One of several equal shares of every batch."""

    batch_size: int
    index: int
    count: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"the batch size is {self.batch_size}; choose a positive number")
        if not 0 <= self.index < self.count:
            raise DataError(f"there is no shard {self.index} of {self.count}; count from 0")
        if self.batch_size % self.count:
            near = math.ceil(self.batch_size / self.count) * self.count
            raise DataError(
                f"a batch size of {self.batch_size} cannot be divided over {self.count} shards; "
                f"choose a multiple of {self.count}, such as {near}"
            )

    @property
    def rows(self) -> slice:
        """The rows of a whole batch that belong to this share."""
        size = self.batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def positions(self, step: int) -> np.ndarray:
        """Where this share of batch `step` lies in a sequence of examples."""
        return step * self.batch_size + np.arange(self.rows.start, self.rows.stop)


@dataclasses.dataclass(frozen=True)
class _TrainBatch:
    """Loads one shard's share of the batch of a step."""

    source: Source
    transform: Transform
    order: "grain.MapDataset"
    share: _Share
    seed: int

    def __call__(self, step: int) -> Batch:
        indices = [self.order[position] for position in self.share.positions(step).tolist()]
        return _load(self.source, self.transform, indices, self.uniforms(step))

    def uniforms(self, step: int) -> Float[np.ndarray, "b d"]:
        """This share's rows of the random numbers that (seed, step) gives to the batch."""
        key = np.array([self.seed, step], np.uint64)
        shape = (self.share.batch_size, self.transform.num_uniforms)
        return np.random.Generator(np.random.Philox(key=key)).random(shape)[self.share.rows]


def _load(
    source: Source,
    transform: Transform,
    indices: Sequence[int] | np.ndarray,
    uniforms: Float[np.ndarray, "b d"],
) -> Batch:
    """Loads and transforms some of a source's examples."""
    if isinstance(source, ArraySource):
        images = transform.batch(source.images[indices], uniforms)
        return {"image": images, "label": source.labels[indices]}
    images = np.empty((len(indices), *transform.output_shape(source.image_shape)), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for row, index in enumerate(indices):
        example = source[index]
        labels[row] = example["label"]
        try:
            images[row] = transform(example["image"], uniforms[row])
        except OSError as error:
            raise DataError(
                f"image {index} of split {source.split!r} of {source.name!r} cannot be decoded "
                f"({error}); prepare the data set again"
            ) from error
    return {"image": images, "label": labels}


def _fit(transform: Transform, source: Source) -> Transform:
    """The transform with the source's number of channels, if it can make a batch of its images."""
    channels = transform.output_shape(source.image_shape)[2]
    return dataclasses.replace(transform, channels=channels)


def _fixed(transform: Transform) -> Transform:
    if transform.num_uniforms:
        raise DataError(
            f"{type(transform).__name__} is random, but every example is to be seen as it is; "
            "use an eval_transform"
        )
    return transform


def _num_threads() -> int:
    """One thread a processor that this process may use, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(16, len(os.sched_getaffinity(0)))
    return min(16, os.cpu_count() or 1)
