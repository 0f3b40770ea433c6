import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax import data
from resnet_jax.data.sources import records as sources
from tests.data.tfds_files import encode, make_tfds_dataset


def numbered_source(n, height=6, width=6, channels=3, seed=0):
    """Random images whose label is their index."""
    images = np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), np.uint8)
    return data.ArraySource(
        images, np.arange(n, dtype=np.int32), tuple(f"class {i}" for i in range(n))
    )


def order_of(source, steps, **arguments):
    """The indices that the first steps take, one after the other."""
    batches = data.train_batches(source, data.train_transform("none"), **arguments)
    return np.concatenate([batches[step]["label"] for step in range(steps)])


ORDER_OF_SEED_0 = [0, 2, 9, 1, 8, 5, 4, 3, 6, 7, 5, 3, 7, 8, 2, 4, 1, 0, 6, 9]
UNIFORMS_OF_SEED_0_STEP_7 = [
    [0.45629925210567035, 0.3994080272458923],
    [0.07010918486085493, 0.6715263010136335],
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reveal(data.Transform):
    """Shows the random numbers that it is given: their bytes are its pixels."""

    num_uniforms = 2

    def output_shape(self, image_shape):
        return 1, 2, 8

    def __call__(self, image, uniforms=None):
        return uniforms.view(np.uint8).reshape(1, 2, 8)


def uniforms_of(step, **arguments):
    """The random numbers of a step, [batch_size, 2]."""
    batch = data.train_batches(numbered_source(3), Reveal(), **arguments)[step]
    return batch["image"].view(np.float64)[:, 0, :, 0]


def assert_batches_equal(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eleven JPEGs of different sizes."""
    data_dir = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(3)
    files = [
        encode(rng.integers(0, 256, (*rng.integers(20, 60, 2), 3), np.uint8), "jpeg")
        for _ in range(11)
    ]
    make_tfds_dataset(data_dir, "photographs", files, list(range(11)), "jpeg")
    return data.open_source("photographs", "train", data_dir)


# The order.


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (10, 4), (5, 8), (1, 3)])
def test_every_epoch_takes_every_image_once(n, batch_size):
    order = order_of(numbered_source(n), 6 * n, batch_size=batch_size, seed=5)
    epochs = order[: len(order) // n * n].reshape(-1, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (len(epochs), 1)))
    assert n == 1 or len(np.unique(epochs, axis=0)) > 1


def test_images_and_labels_stay_together():
    source = numbered_source(20)
    batch = data.train_batches(source, data.train_transform("none"), batch_size=8, seed=1)[3]
    np.testing.assert_array_equal(batch["image"], source.images[batch["label"]])
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32


def test_order_depends_on_the_seed_alone():
    source = numbered_source(60)
    order = order_of(source, 30, batch_size=4, seed=9)
    np.testing.assert_array_equal(
        order, order_of(numbered_source(60, 4, 5, 1, seed=8), 20, batch_size=6, seed=9)
    )
    cifar = data.train_batches(source, data.train_transform("cifar"), batch_size=120, seed=9)
    np.testing.assert_array_equal(order, cifar[0]["label"])
    assert (order != order_of(source, 30, batch_size=4, seed=10)).any()


def test_neighbouring_seeds_and_epochs_share_no_order():
    n = 40
    epochs = [
        tuple(order)
        for seed in (0, 1, 2, 2**63)
        for order in order_of(numbered_source(n), 5, batch_size=n, seed=seed).reshape(5, n)
    ]
    assert len(set(epochs)) == len(epochs)


def test_order_is_the_same_for_ever():
    """A checkpoint of today continues with the same images under other versions of NumPy."""
    order = order_of(numbered_source(10), 2, batch_size=10, seed=0)
    assert order.tolist() == ORDER_OF_SEED_0
    np.testing.assert_array_equal(uniforms_of(7, batch_size=2, seed=0), UNIFORMS_OF_SEED_0_STEP_7)


def test_shuffle_leaves_no_pattern():
    n = 20_000
    batches = data.train_batches(
        data.ArraySource(
            np.zeros((n, 1, 1, 1), np.uint8), np.arange(n, dtype=np.int32), ("a",) * n
        ),
        data.train_transform("none"),
        batch_size=n,
        seed=0,
    )
    order = batches[0]["label"].astype(np.float64)
    for lag in (1, 2, 3, 4, 8, 16, 64, 128, 256, 1024):
        correlation = np.corrcoef(order[:-lag], order[lag:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(n)
    other = batches[1]["label"].astype(np.float64)
    assert abs(np.corrcoef(order, other)[0, 1]) < 5 / np.sqrt(n)


# Augmentation.


def test_augmentation_is_a_function_of_seed_and_step(photographs):
    for source, transform in (
        (numbered_source(10), data.train_transform("cifar")),
        (photographs, data.train_transform("imagenet", 16)),
    ):
        first, again, other = (
            data.train_batches(source, transform, batch_size=5, seed=seed) for seed in (3, 3, 4)
        )
        assert_batches_equal([first[11], first[0]], [again[11], again[0]])
        assert (first[11]["image"] != other[11]["image"]).any()
        assert first[2]["image"].shape == (5, *transform.output_shape(source.image_shape))


def test_random_numbers_are_uniform_and_fresh_every_step():
    uniforms = np.stack([uniforms_of(step, batch_size=500, seed=2) for step in range(20)])
    assert len(np.unique(uniforms)) == uniforms.size
    place = np.sort(uniforms.ravel())
    n = place.size
    assert 0 <= place[0] and place[-1] < 1
    # Kolmogorov and Smirnov: passed once in a million.
    assert np.abs(place - (np.arange(n) + 0.5) / n).max() < 2.7 / np.sqrt(n)


def test_memory_and_files_give_the_same_batches(tmp_path, monkeypatch):
    memory = numbered_source(9)
    make_tfds_dataset(tmp_path, "nine", memory.images, memory.labels, num_shards=2)
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    files = data.open_source("nine", "train", tmp_path)
    assert isinstance(files, data.RecordSource)
    for name in data.AUGMENTATIONS:
        transform = data.train_transform(name, 6)
        left, right = (
            data.train_batches(source, transform, batch_size=4, seed=6)
            for source in (memory, files)
        )
        assert_batches_equal([left[k] for k in range(5)], [right[k] for k in range(5)])
        transform = data.eval_transform(name, 6)
        left, right = (
            data.eval_batches(source, transform, batch_size=4) for source in (memory, files)
        )
        assert_batches_equal(left, right)
        np.testing.assert_array_equal(
            data.pixel_mean(memory, transform), data.pixel_mean(files, transform)
        )


# Shards.


@pytest.mark.parametrize("shard_count", [2, 3, 6])
def test_shards_put_together_are_the_batch(photographs, shard_count):
    for source, transform in (
        (numbered_source(10), data.train_transform("cifar")),
        (photographs, data.train_transform("imagenet", 16)),
    ):
        whole = data.train_batches(source, transform, batch_size=6, seed=1)
        shares = [
            data.train_batches(
                source,
                transform,
                batch_size=6,
                seed=1,
                shard_index=index,
                shard_count=shard_count,
            )
            for index in range(shard_count)
        ]
        for step in (0, 1, 7):
            parts = [share[step] for share in shares]
            together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            assert_batches_equal([together], [whole[step]])


# The iterator.


@pytest.mark.parametrize("num_threads", [0, 1, 4, None])
def test_iterator_hands_out_the_batches_in_order(photographs, num_threads):
    batches = data.train_batches(
        photographs, data.train_transform("imagenet", 16), batch_size=3, seed=1
    )
    iterator = data.train_iterator(batches, num_threads=num_threads)
    handed_out = list(itertools.islice(iterator, 9))
    assert_batches_equal(handed_out, [batches[step] for step in range(9)])


@pytest.mark.parametrize("num_threads", [0, 3])
def test_iterator_continues_behind_the_last_batch_handed_out(num_threads):
    source = numbered_source(23)
    batches = data.train_batches(source, data.train_transform("cifar"), batch_size=4, seed=7)
    iterator = data.train_iterator(batches, num_threads=num_threads)
    for _ in range(7):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    uninterrupted = [next(iterator) for _ in range(5)]

    fresh = data.train_iterator(
        data.train_batches(source, data.train_transform("cifar"), batch_size=4, seed=7),
        num_threads=num_threads,
    )
    next(fresh)  # It may have run before; what it has loaded ahead is not handed out.
    fresh.set_state(state)
    assert fresh.get_state() == state
    assert_batches_equal([next(fresh) for _ in range(5)], uninterrupted)

    started = data.train_iterator(batches, start_step=7, num_threads=num_threads)
    assert started.get_state() == state
    assert_batches_equal([next(started) for _ in range(5)], uninterrupted)


def test_sequences_can_be_pickled(photographs):
    for source in (numbered_source(8), photographs):
        transform = data.train_transform("imagenet", 12)
        batches = data.train_batches(source, transform, batch_size=4, seed=0)
        assert_batches_equal([pickle.loads(pickle.dumps(batches))[5]], [batches[5]])
        batches = data.eval_batches(source, data.eval_transform("imagenet", 12), batch_size=4)
        assert_batches_equal(pickle.loads(pickle.dumps(batches)), batches)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_broken_image_is_named(tmp_path, num_threads):
    files = [encode(np.zeros((9 + i, 9, 3), np.uint8), "jpeg") for i in range(3)]
    files.append(b"\xff\xd8 and no more")
    make_tfds_dataset(tmp_path, "broken", files, [0, 1, 2, 3], "jpeg")
    source = data.open_source("broken", "train", tmp_path)
    batches = data.train_batches(source, data.train_transform("imagenet", 8), batch_size=4, seed=0)
    with pytest.raises(data.DataError, match="image 3 of split 'train' of 'broken' cannot be used"):
        next(data.train_iterator(batches, num_threads=num_threads))


# Evaluation.


@settings(max_examples=40)
@given(n=st.integers(1, 30), rows=st.integers(1, 9), shard_count=st.integers(1, 4))
def test_evaluation_sees_every_example_once(n, rows, shard_count):
    source = numbered_source(n, 2, 3, 1)
    batch_size = rows * shard_count
    shards = [
        list(
            data.eval_batches(
                source,
                data.eval_transform("none"),
                batch_size=batch_size,
                shard_index=index,
                shard_count=shard_count,
                num_threads=1,
            )
        )
        for index in range(shard_count)
    ]
    assert {len(shard) for shard in shards} == {-(-n // batch_size)}
    seen = []
    # In the order of the source: batch by batch, shard by shard.
    for batch in itertools.chain.from_iterable(zip(*shards, strict=True)):
        assert batch["image"].shape == (rows, 2, 3, 1) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (rows,) and batch["label"].dtype == np.int32
        mask = batch["mask"]
        assert mask.shape == (rows,) and mask.dtype == np.bool_
        assert not batch["image"][~mask].any() and not batch["label"][~mask].any()
        np.testing.assert_array_equal(batch["image"][mask], source.images[batch["label"][mask]])
        seen += batch["label"][mask].tolist()
    assert seen == list(range(n))


@pytest.mark.parametrize("name", data.AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_share_without_an_example_is_padding(name, channels):
    batches = data.eval_batches(
        numbered_source(5, channels=3),
        data.eval_transform(name, 6, channels=channels),
        batch_size=4,
        shard_index=1,
        shard_count=2,
    )
    *_, last = batches
    assert last["image"].shape == (2, 6, 6, channels)
    assert not last["mask"].any() and not last["image"].any()


def test_evaluation_can_be_repeated_and_counted(photographs):
    batches = data.eval_batches(
        photographs, data.eval_transform("imagenet", 14), batch_size=4, num_threads=3
    )
    assert len(batches) == 3
    first = list(batches)
    assert_batches_equal(first, batches)
    assert_batches_equal(first, [batches[k] for k in range(3)])
    transform = data.eval_transform("imagenet", 14)
    np.testing.assert_array_equal(
        np.concatenate([batch["image"][batch["mask"]] for batch in first]),
        [transform(photographs[i]["image"]) for i in range(11)],
    )
    with pytest.raises(IndexError):
        batches[3]


# The mean image.


@pytest.mark.parametrize("n", [1, 255, 700])
def test_pixel_mean_is_exact(n):
    source = numbered_source(n, 5, 4, 3)
    mean = data.pixel_mean(source, data.eval_transform("none"))
    assert mean.shape == (5, 4, 3) and mean.dtype == np.float32
    total = source.images.astype(object).sum(axis=0)
    # Python divides integers with a single rounding.
    np.testing.assert_array_equal(mean, (total / (255 * n)).astype(np.float64).astype(np.float32))


def test_pixel_mean_of_photographs(photographs):
    transform = data.eval_transform("imagenet", 14)
    images = [transform(photographs[i]["image"]) for i in range(11)]
    mean = data.pixel_mean(photographs, transform)
    np.testing.assert_allclose(mean, np.mean(images, axis=0) / 255, rtol=1e-7)


# Bad input.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch size is 0"),
        ({"batch_size": 6, "shard_count": 4}, "6 cannot be divided over 4 shards; .* such as 8"),
        ({"shard_index": 2, "shard_count": 2}, "no shard 2 of 2"),
        ({"shard_index": -1}, "no shard -1 of 1"),
        ({"seed": -1}, "the seed is -1"),
        ({"seed": 2**64}, "the seed is 18446744073709551616"),
        ({"transform": data.train_transform("cifar", 32)}, "set image_size=6"),
    ],
)
def test_errors_name_the_remedy(change, message):
    arguments = {"transform": data.train_transform("none"), "batch_size": 4, "seed": 0} | change
    with pytest.raises(data.DataError, match=message):
        data.train_batches(numbered_source(4), **arguments)
    if "seed" not in change:
        del arguments["seed"]
        with pytest.raises(data.DataError, match=message):
            data.eval_batches(numbered_source(4), **arguments)


def test_sizes_must_agree(photographs):
    with pytest.raises(data.DataError, match="differ in size; choose augmentation 'imagenet'"):
        data.train_batches(photographs, data.train_transform("none"), batch_size=4, seed=0)


@pytest.mark.parametrize("name", ["cifar", "imagenet"])
def test_evaluation_must_not_be_random(name):
    source, transform = numbered_source(4), data.train_transform(name, 6)
    with pytest.raises(data.DataError, match="is random, .* use an eval_transform"):
        data.eval_batches(source, transform, batch_size=4)
    with pytest.raises(data.DataError, match="is random"):
        data.pixel_mean(source, transform)
