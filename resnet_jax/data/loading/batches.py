"""Batches of a source, in an order and with random numbers that depend only on the seed.

Element `k` of `train_batches` is the batch of step `k`: its images and their augmentation are a
function of (seed, k). There is no other state, so a run that resumes at step `k` sees the same
batches as an uninterrupted one, and each of several hosts can compute its own share. Grain iterates
the sequence: it loads ahead in threads and keeps the position.

NumPy shuffles, not `MapDataset.shuffle`: the latter's four cipher rounds leave a pattern (Grain
0.2.18: among 50,000 shuffled indices, those 256 positions apart correlate by 0.48 for any seed),
and it gives epoch `e` of seed `s` the order of epoch 0 of seed `s + e`.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8, UInt64

from resnet_jax.data.loading.iterator import read_options
from resnet_jax.data.sources.base import (
    ArraySource,
    BadImageError,
    Source,
    broken_image,
    read_example,
)
from resnet_jax.data.transforms.base import Transform
from resnet_jax.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import grain

ON_BAD_IMAGE = ("error", "skip")
"""Reactions to an image that cannot be decoded."""

_MAX_BAD_IMAGES = 100
_MAX_SEED = 2**64 - 1


class Batch(TypedDict):
    """The images and labels of a training step, or this host's share of them."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]
    bad_images: NotRequired[tuple[str, ...]]
    """With `on_bad_image="skip"`: the error of each image that another one replaced;
    `train_iterator` removes and counts them."""


class EvalBatch(Batch):
    """An evaluation batch; rows with a False `mask` are padding."""

    mask: Bool[np.ndarray, " b"]


def train_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
    on_bad_image: str = "error",
    pixels: bool = True,
) -> "grain.MapDataset":
    """Returns the endless sequence of training batches; element `k` is the batch of step `k`.

    Each epoch has a new order and contains each image once. A batch may span two epochs, so all
    batches are full.

    Args:
      source: the images and labels.
      transform: the augmentation.
      batch_size: images per step over all shards.
      seed: seed of the order and the augmentation, 0 to 2**64 - 1.
      shard_index: index of the share of each batch to load, from 0.
      shard_count: number of equal shares of each batch. Together, the shares equal the batch of a
        single shard.
      on_bad_image: reaction to an undecodable image: "error" raises a `BadImageError` that names
        it; "skip" replaces it with the next good image in the order of its epoch, which differs
        from epoch to epoch, and adds its error to the batch's `bad_images`.
      pixels: False for batches without pixels: `index` and the transform's `draw`, from which
        `cut` makes the same batches on a device that holds the images; only for sources and
        transforms that `resident_arrays` accepts.

    Returns:
      A `grain.MapDataset` of `Batch`es of `batch_size // shard_count` images. It can be pickled
      if the source can.

    Raises:
      DataError: a batch size, seed or transform does not fit the source or the shards.
    """
    import grain

    if not 0 <= seed <= _MAX_SEED:
        raise DataError(f"the seed is {seed}; choose one from 0 to {_MAX_SEED}")
    share = _Share(batch_size, shard_index, shard_count)
    transform = _fit(transform, source)
    load = _TrainBatch(source, transform, share, seed, _checked(on_bad_image))
    steps = grain.MapDataset.range(sys.maxsize // batch_size)
    return steps.map(load if pixels else load.draw)


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Each example of a source once, in batches of one shape; see `eval_batches`."""

    source: Source
    transform: Transform
    share: "_Share"
    num_threads: int | None = None
    on_bad_image: str = "error"

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.share.batch_size)

    def __getitem__(self, index: int) -> EvalBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        positions = self.share.positions(index)
        mask = positions < len(self.source)
        count = int(mask.sum())
        images, labels, bad = _load(
            self.source,
            self.transform,
            positions[:count],
            np.empty((count, 0)),
            self.on_bad_image,
        )
        mask[list(bad)] = False
        missing = len(mask) - count
        return {
            "image": np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(labels, (0, missing)),
            "mask": mask,
        }

    def __iter__(self) -> Iterator[EvalBatch]:
        import grain

        options = read_options(self.num_threads)
        return iter(grain.MapDataset.source(self).to_iter_dataset(options))


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    shard_index: int = 0,
    shard_count: int = 1,
    num_threads: int | None = None,
    on_bad_image: str = "error",
) -> EvalBatches:
    """Returns the batches of an evaluation: each example exactly once over all shards.

    All batches have `batch_size // shard_count` rows and all shards have the same number of
    batches, as compiled functions and collectives require. Missing rows at the end are zeros with a
    `mask` of False.

    Args:
      source: the examples, whose order is kept.
      transform: a deterministic transform.
      batch_size: rows over all shards.
      shard_index: index of the share of each batch to load, from 0.
      shard_count: number of equal shares of each batch.
      num_threads: number of batches to prepare at once; None for one per processor, at most 16.
      on_bad_image: reaction to an undecodable image: "error" raises a `BadImageError` that names
        it; "skip" masks its row (`mask` is False), so that no other image counts twice.

    Returns:
      A sequence of `EvalBatch`es; it can be iterated repeatedly.

    Raises:
      DataError: the shards do not divide the batch size, or the transform is random.
    """
    share = _Share(batch_size, shard_index, shard_count)
    transform = _fixed(_fit(transform, source))
    return EvalBatches(source, transform, share, num_threads, _checked(on_bad_image))


def pixel_mean(
    source: Source, transform: Transform, *, on_bad_image: str = "error"
) -> Float32[np.ndarray, "h w c"]:
    """Returns the mean image of a source on [0, 1], which the paper subtracts from every image.

    The sum is in integers, so it does not depend on the order; it is rounded once, to float32.

    Args:
      source: the images.
      transform: a deterministic transform.
      on_bad_image: as for `eval_batches`.

    Raises:
      DataError: the transform is random, the transformed images differ in shape, or no image can be
        decoded.
    """
    total = np.zeros(transform.output_shape(source.image_shape), np.int64)
    count = 0
    batch_size = min(len(source), 256)
    for batch in eval_batches(source, transform, batch_size=batch_size, on_bad_image=on_bad_image):
        # Masked rows are zero and add nothing.
        total += batch["image"].sum(axis=0, dtype=np.int64)
        count += int(batch["mask"].sum())
    if not count:
        raise DataError(f"no image of {source.name!r} can be decoded; repair the data set")
    return np.asarray(total / (count * 255), np.float32)


@dataclasses.dataclass(frozen=True)
class _Share:
    """One of several equal shares of each batch."""

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

    def positions(self, step: int) -> Int64[np.ndarray, " b"]:
        """Returns the positions of this share of batch `step` in a sequence of examples."""
        return step * self.batch_size + np.arange(self.rows.start, self.rows.stop)


@dataclasses.dataclass(frozen=True)
class _TrainBatch:
    """Loads one shard's share of the batch of a step."""

    source: Source
    transform: Transform
    share: _Share
    seed: int
    on_bad_image: str

    def __call__(self, step: int) -> Batch:
        images, labels, bad = _load(
            self.source,
            self.transform,
            self.indices(step),
            self.uniforms(step),
            self.on_bad_image,
            lambda ahead: self.indices(step, ahead),
        )
        batch: Batch = {"image": images, "label": labels}
        if self.on_bad_image == "skip":
            batch["bad_images"] = tuple(error.description for error in bad.values())
        return batch

    def draw(self, step: int) -> dict[str, np.ndarray]:
        """Returns the indices of a step's images and the transform's parameters."""
        index = self.indices(step).astype(np.int32)
        return {"index": index, **self.transform.draw(self.uniforms(step))}

    def indices(self, step: int, ahead: int = 0) -> Int64[np.ndarray, " b"]:
        """Returns the indices of the examples in this share of a step's batch.

        Or of those that are `ahead` of them in their epoch; its first follows its last.
        """
        epochs, positions = np.divmod(self.share.positions(step), len(self.source))
        positions = (positions + ahead) % len(self.source)
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            indices[rows] = _epoch_order(len(self.source), self.seed, epoch)[positions[rows]]
        return indices

    def uniforms(self, step: int) -> Float64[np.ndarray, "b d"]:
        """Returns this share's rows of the batch's random numbers, a function of (seed, step)."""
        rows, columns = self.share.batch_size, self.transform.num_uniforms
        bits = _random_bits(rows * columns, self.seed, step, stream=1)
        # The upper 53 bits make the doubles in [0, 1), as in NumPy's own `random`.
        return ((bits >> 11) * 2.0**-53).reshape(rows, columns)[self.share.rows]


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """Returns the order of an epoch's examples, uniform over all orders."""
    return np.argsort(_random_bits(num_examples, seed, epoch, stream=0), kind="stable")


def _random_bits(size: int, seed: int, index: int, stream: int) -> UInt64[np.ndarray, " size"]:
    """Returns random words that depend only on the arguments; each (seed, index, stream) differs.

    They are the generator's raw output, which NumPy guarantees to be stable across versions, unlike
    shuffles and distributions.
    """
    generator = np.random.Philox(
        key=np.array([seed, index], np.uint64), counter=np.array([0, 0, 0, stream], np.uint64)
    )
    return generator.random_raw(size)


def _load(
    source: Source,
    transform: Transform,
    indices: Int64[np.ndarray, " b"],
    uniforms: Float64[np.ndarray, "b d"],
    on_bad_image: str,
    stand_ins: Callable[[int], Int64[np.ndarray, " b"]] | None = None,
) -> tuple[UInt8[np.ndarray, "b h w c"], Int32[np.ndarray, " b"], dict[int, BadImageError]]:
    """Loads and transforms examples; returns images, labels, and the errors of bad images by row.

    The first good one of `stand_ins(1)`, `stand_ins(2)`, ... replaces a bad one; or zeros do.
    """
    if isinstance(source, ArraySource):
        images = transform.batch(source.images[indices], uniforms)
        return images, source.labels[indices], {}
    images = np.empty((len(indices), *transform.output_shape(source.image_shape)), np.uint8)
    labels = np.empty(len(indices), np.int32)
    bad: dict[int, BadImageError] = {}
    for row, index in enumerate(indices.tolist()):
        for attempt in range(_MAX_BAD_IMAGES if stand_ins else 1):
            if stand_ins and attempt:
                index = int(stand_ins(attempt)[row])
            try:
                images[row], labels[row] = _load_one(source, transform, index, uniforms[row])
                break
            except BadImageError as error:
                if on_bad_image != "skip":
                    raise
                bad.setdefault(row, error)
        else:
            if stand_ins:
                raise DataError(
                    f"{_MAX_BAD_IMAGES} consecutive images cannot be used; the first one: "
                    f"{bad[row]}"
                )
            images[row], labels[row] = 0, 0
    return images, labels, bad


def _load_one(
    source: Source, transform: Transform, index: int, uniforms: Float64[np.ndarray, " d"]
) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    example = read_example(source, index)
    try:
        pixels = transform(example["image"], uniforms)
    except (OSError, ValueError) as error:
        raise broken_image(source, index, error) from error
    shape = transform.output_shape(source.image_shape)
    if pixels.shape != shape:
        raise broken_image(source, index, f"its shape is {pixels.shape}, not {shape}")
    return pixels, example["label"]


def _checked(on_bad_image: str) -> str:
    if on_bad_image not in ON_BAD_IMAGE:
        raise DataError(
            f"unknown on_bad_image {on_bad_image!r}{did_you_mean(on_bad_image, ON_BAD_IMAGE)}; "
            f"choose one of {', '.join(ON_BAD_IMAGE)}"
        )
    return on_bad_image


def _fit(transform: Transform, source: Source) -> Transform:
    """Returns the transform with the source's channels; raises if it does not fit the images."""
    channels = transform.output_shape(source.image_shape)[2]
    return dataclasses.replace(transform, channels=channels)


def _fixed(transform: Transform) -> Transform:
    if transform.num_uniforms:
        raise DataError(
            f"{type(transform).__name__} is random, but a deterministic transform is needed here; "
            "use an eval_transform"
        )
    return transform
