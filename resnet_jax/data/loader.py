"""From a source to batches, in an order and with random numbers that follow from the seed alone.

Element `k` of `train_batches` is the batch of step `k`: which images it holds and how they are
augmented is a function of (seed, k). Nothing else is state, so a run that continues at step `k`
sees what an uninterrupted one sees, and every host of several can compute its own share. Grain
runs the sequence: it loads ahead in threads and knows the position.

The order is NumPy's and not `MapDataset.shuffle`, whose four rounds of a cipher leave a pattern
(Grain 0.2.18: of 50,000 shuffled indices, those 256 places apart correlate by 0.48 whatever the
seed) and which gives epoch `e` of seed `s` the order of epoch 0 of seed `s + e`.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8, UInt64

from .base import ArraySource, BadImageError, Source, broken_image
from .errors import DataError, nearest
from .iterator import read_options
from .transform import Transform

if TYPE_CHECKING:
    import grain

ON_BAD_IMAGE = ("error", "skip")
"""What an image that cannot be decoded may do."""

_MAX_BAD_IMAGES = 100
_MAX_SEED = 2**64 - 1


class Batch(TypedDict):
    """The images and labels of one training step (or this host's share of them)."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]
    bad_images: NotRequired[tuple[str, ...]]
    """With `on_bad_image="skip"`: what was wrong with each image that another one replaces;
    `train_iterator` takes it out and counts."""


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
    on_bad_image: str = "error",
    pixels: bool = True,
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
      on_bad_image: what an image that cannot be decoded does: "error" stops with a
        `BadImageError` that names it; "skip" takes the next image of the source in its place, and
        says so in the batch's `bad_images`.
      pixels: False for what batches are made of, `index` and the transform's `draw`, of which
        `cut` makes the same batches on a device that has the images; for the sources and
        transforms that `resident_arrays` takes.

    Returns:
      A `grain.MapDataset` of `Batch`es of `batch_size // shard_count` images. It can be pickled
      if the source can.

    Raises:
      DataError: a batch size, seed or transform that does not fit the source or the shards.
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
    """Every example of a source once, in batches of one shape; see `eval_batches`."""

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
            max_stand_ins=0,
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
      on_bad_image: what an image that cannot be decoded does: "error" stops with a
        `BadImageError` that names it; "skip" leaves its row out (`mask` is False), so that no other
        image counts twice.

    Returns:
      A sequence of `EvalBatch`es, which can be iterated over again.

    Raises:
      DataError: a batch size that the shards do not divide, or a random transform.
    """
    share = _Share(batch_size, shard_index, shard_count)
    transform = _fixed(_fit(transform, source))
    return EvalBatches(source, transform, share, num_threads, _checked(on_bad_image))


def pixel_mean(
    source: Source, transform: Transform, *, on_bad_image: str = "error"
) -> Float32[np.ndarray, "h w c"]:
    """Returns the mean image of a source on [0, 1], which the paper subtracts from every image.

    Summed in integers, so the order of the images does not matter; rounded once, to float32.

    Args:
      source: the images.
      transform: what becomes of each; nothing random.
      on_bad_image: as for `eval_batches`.

    Raises:
      DataError: a random transform, images that do not come out with one shape, or none that can
        be decoded.
    """
    total = np.zeros(transform.output_shape(source.image_shape), np.int64)
    count = 0
    batch_size = min(len(source), 256)
    for batch in eval_batches(source, transform, batch_size=batch_size, on_bad_image=on_bad_image):
        # What the mask leaves out is zero and adds nothing.
        total += batch["image"].sum(axis=0, dtype=np.int64)
        count += int(batch["mask"].sum())
    if not count:
        raise DataError(f"no image of {source.name!r} can be decoded; mend the data set")
    return np.asarray(total / (count * 255), np.float32)


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

    def positions(self, step: int) -> Int64[np.ndarray, " b"]:
        """Where this share of batch `step` lies in a sequence of examples."""
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
            _MAX_BAD_IMAGES - 1,
        )
        batch: Batch = {"image": images, "label": labels}
        if self.on_bad_image == "skip":
            batch["bad_images"] = tuple(str(error) for error in bad.values())
        return batch

    def draw(self, step: int) -> dict[str, np.ndarray]:
        """What the batch of a step is made of: which images, and what the transform draws."""
        index = self.indices(step).astype(np.int32)
        return {"index": index, **self.transform.draw(self.uniforms(step))}

    def indices(self, step: int) -> Int64[np.ndarray, " b"]:
        """The examples in this share of the batch of a step."""
        epochs, places = np.divmod(self.share.positions(step), len(self.source))
        indices = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            indices[rows] = _epoch_order(len(self.source), self.seed, epoch)[places[rows]]
        return indices

    def uniforms(self, step: int) -> Float64[np.ndarray, "b d"]:
        """This share's rows of the random numbers that (seed, step) gives to the batch."""
        rows, columns = self.share.batch_size, self.transform.num_uniforms
        bits = _random_bits(rows * columns, self.seed, step, stream=1)
        # The upper 53 bits make the doubles in [0, 1), as in NumPy's own `random`.
        return ((bits >> 11) * 2.0**-53).reshape(rows, columns)[self.share.rows]


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """The examples in the order of an epoch, every order being equally likely."""
    return np.argsort(_random_bits(num_examples, seed, epoch, stream=0), kind="stable")


def _random_bits(size: int, seed: int, index: int, stream: int) -> UInt64[np.ndarray, " size"]:
    """Random words that depend on the arguments alone; others for every (seed, index, stream).

    They are the generator's raw output, which NumPy promises not to change from one version to
    the next, as it does not for shuffles and distributions.
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
    max_stand_ins: int,
) -> tuple[UInt8[np.ndarray, "b h w c"], Int32[np.ndarray, " b"], dict[int, BadImageError]]:
    """Loads and transforms some of a source's examples; says in which rows one cannot be decoded.

    In its place stands the first of the next `max_stand_ins` that can be; zeros if that is 0.
    """
    if isinstance(source, ArraySource):
        images = transform.batch(source.images[indices], uniforms)
        return images, source.labels[indices], {}
    images = np.empty((len(indices), *transform.output_shape(source.image_shape)), np.uint8)
    labels = np.empty(len(indices), np.int32)
    bad: dict[int, BadImageError] = {}
    for row, index in enumerate(indices.tolist()):
        for attempt in range(1 + max_stand_ins):
            try:
                place = (index + attempt) % len(source)
                images[row], labels[row] = _load_one(source, transform, place, uniforms[row])
                break
            except BadImageError as error:
                if on_bad_image != "skip":
                    raise
                bad.setdefault(row, error)
        else:
            if max_stand_ins:
                raise DataError(
                    f"{1 + max_stand_ins} images in a row cannot be used, the first of them being "
                    f"so: {bad[row]}"
                )
            images[row], labels[row] = 0, 0
    return images, labels, bad


def _load_one(
    source: Source, transform: Transform, index: int, uniforms: Float64[np.ndarray, " d"]
) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    example = source[index]
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
            f"unknown on_bad_image {on_bad_image!r}{nearest(on_bad_image, ON_BAD_IMAGE)}; "
            f"choose one of {', '.join(ON_BAD_IMAGE)}"
        )
    return on_bad_image


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
