import contextlib
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.data.loading.iterator import LoaderDied, check_shared_memory
from tests.data.tfds_files import encode, image_feature, label_feature, make_tfds_dataset


@pytest.fixture(scope="module")
def torn(tmp_path_factory):
    """Twelve JPEGs of different sizes; the fourth, the fifth and the last are cut off."""
    data_dir = tmp_path_factory.mktemp("torn")
    rng = np.random.default_rng(3)
    files = [encode(rng.integers(0, 256, (20 + i, 30, 3), np.uint8), "jpeg") for i in range(12)]
    for i in (3, 4, 11):
        files[i] = files[i][:-200]
    make_tfds_dataset(data_dir, "torn", files, list(range(12)), "jpeg")
    return data.open_source("torn", "train", data_dir)


def batches_of(source, seed=1, **arguments):
    transform = data.train_transform("imagenet", 16)
    return data.train_batches(source, transform, batch_size=4, seed=seed, **arguments)


def assert_batches_equal(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys() == {"image", "label"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


# Workers.


def test_batches_do_not_depend_on_workers(torn):
    """0, 1 and 2 of them, with one thread and with two, begun in the middle."""
    batches = batches_of(torn, on_bad_image="skip")
    handed_out, states = [], []
    for num_workers, num_threads in ((0, 0), (0, 2), (1, 2), (2, 1)):
        iterator = data.train_iterator(
            batches, start_step=2, num_threads=num_threads, num_workers=num_workers
        )
        handed_out.append([next(iterator) for _ in range(5)])
        states.append(iterator.get_state())
        iterator.close()
    for others in handed_out[1:]:
        assert_batches_equal(handed_out[0], others)
    assert states == [states[0]] * 4
    # What was begun by two workers goes on in threads.
    iterator = data.train_iterator(batches)
    iterator.set_state(states[-1])
    reference = data.train_iterator(batches, start_step=7, num_threads=0)
    assert_batches_equal([next(iterator)], [next(reference)])


def test_an_error_in_a_worker_is_the_same_error(torn):
    iterator = data.train_iterator(batches_of(torn), num_workers=1)
    with pytest.raises(data.BadImageError, match="image (3|4|11) of split 'train' of 'torn'"):
        for _ in range(3):
            next(iterator)
    iterator.close()


def test_workers_need_no_flags_and_no_devices(torn, tmp_path):
    """A plain script, without absl; the workers import JAX but start no backend."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import sys
sys.path[:0] = {sys.path!r}
from resnet_jax import data

def main():
    source = data.open_source("torn", "train", {str(torn_directory(torn))!r})
    transform = data.train_transform("imagenet", 16)
    batches = data.train_batches(source, transform, batch_size=4, seed=1, on_bad_image="skip")
    iterator = data.train_iterator(batches, num_workers=1)
    print(next(iterator)["image"].shape)
    iterator.close()

if __name__ == "__main__":
    main()
"""
    )
    # A backend that does not exist: whoever starts one fails.
    environment = {"JAX_PLATFORMS": "none_such", "PATH": ""}
    run = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "(4, 16, 16, 3)\n"), run.stderr


def torn_directory(source):
    """The data_dir that a source was opened from."""
    path = source.records._read_instructions[0].filename
    return path.rsplit("/", 3)[0]


@pytest.mark.parametrize("num_workers", [-1])
def test_numbers_are_checked(torn, num_workers):
    with pytest.raises(data.DataError, match="loader workers is -1; choose 0 or more"):
        data.train_iterator(batches_of(torn), num_workers=num_workers)


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGBUS, "SIGBUS: /dev/shm is full.*--shm-size"), (signal.SIGKILL, "SIGKILL.*memory")],
)
def test_a_worker_that_dies_is_a_failure_of_one_line(torn, number, said):
    batches = batches_of(torn, on_bad_image="skip").map(lambda batch: os.kill(os.getpid(), number))
    iterator = data.train_iterator(batches, num_threads=1, num_workers=1)
    with pytest.raises(LoaderDied, match=said):
        next(iterator)
    iterator.close()


# Shared memory: a batch of ImageNet's has 36.75 MiB, and with two workers there are up to 19.
MIB = 2**20


@pytest.mark.parametrize(("free", "fits"), [(64 * MIB, False), (700 * MIB, True)])
def test_shared_memory_must_hold_the_workers_batches(monkeypatch, free, fits):
    there = os.statvfs_result((4096, 4096, 10**9, 10**9, free // 4096, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", {"/dev/shm": there}.get)
    with (
        contextlib.nullcontext()
        if fits
        else pytest.raises(
            data.DataError,
            match="64 MiB free.* 2 loader .* need 698 MiB.*--shm-size=1g.*loader_workers=0",
        )
    ):
        check_shared_memory(256 * 224 * 224 * 3, 2)


def test_a_system_without_such_shared_memory_is_not_checked(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "statvfs", missing)
    check_shared_memory(10**15, 8)


# Bad images.


def stand_in(order, place, bad):
    """The next good image of an epoch, whose first one follows its last."""
    ahead = [order[(place + step) % len(order)] for step in range(len(order))]
    return next(image for image in ahead if image not in bad)


def test_bad_images_are_replaced_by_the_next_of_the_epoch_and_counted(torn, caplog):
    batches = batches_of(torn, on_bad_image="skip")
    # The order of an epoch, from images that are all good.
    good = data.ArraySource(
        np.zeros((12, 1, 1, 3), np.uint8), np.arange(12, dtype=np.int32), ("a",) * 12
    )
    whole = data.train_batches(good, data.train_transform("none"), batch_size=12, seed=1)
    order = whole[0]["label"].tolist()
    iterator = data.train_iterator(batches, num_threads=2)
    with caplog.at_level(logging.WARNING, logger="resnet_jax.data.loading.iterator"):
        epoch = [next(iterator) for _ in range(3)]
    labels = np.concatenate([batch["label"] for batch in epoch])
    assert labels.tolist() == [stand_in(order, place, {3, 4, 11}) for place in range(12)]
    assert iterator.bad_images == 3 and iterator.get_state()["bad_images"] == 3
    assert len(caplog.messages) == 3
    assert any("image 11 of split 'train' of 'torn'" in message for message in caplog.messages)
    for _ in range(3):
        next(iterator)
    assert iterator.bad_images == 6
    # Each is named once.
    assert len(caplog.messages) == 3


def test_no_image_stands_in_for_a_whole_run_of_bad_ones(tmp_path):
    """As after a copy that broke off: half of a class's files in a row are empty."""
    rng = np.random.default_rng(3)
    good = [encode(rng.integers(0, 256, (9, 9 + i % 3, 3), np.uint8), "jpeg") for i in range(120)]
    files = [b"" if 20 <= i < 80 else file for i, file in enumerate(good)]
    make_tfds_dataset(tmp_path, "half", files, list(range(120)), "jpeg")
    source = data.open_source("half", "train", tmp_path)
    transform = data.train_transform("imagenet", 8)
    counts = []
    for seed in range(3):
        batches = data.train_batches(
            source, transform, batch_size=120, seed=seed, on_bad_image="skip"
        )
        epochs = [np.bincount(batches[step]["label"], minlength=120) for step in range(2)]
        assert (epochs[0] != epochs[1]).any()
        counts += epochs
    for count in counts:
        assert not count[20:80].any() and count[:20].all() and count[80:].all()
        # 60 of 120 in any order: a run of bad ones before a good one has a geometric length.
        assert count.max() <= 12


def test_a_replacement_is_augmented_as_the_replaced(torn):
    """Batches with and without bad images differ in those rows only, and not in any crop."""
    step = batches_of(torn, on_bad_image="skip")[0]
    share = [
        batches_of(torn, on_bad_image="skip", shard_index=index, shard_count=4)[0]
        for index in range(4)
    ]
    np.testing.assert_array_equal(step["image"], np.concatenate([s["image"] for s in share]))
    assert sum((s["bad_images"] for s in share), ()) == step["bad_images"]


def test_the_count_is_of_batches_handed_out_and_survives_a_restart(torn):
    batches = batches_of(torn, on_bad_image="skip")
    iterator = data.train_iterator(batches, num_threads=3)
    counts = []
    for _ in range(6):
        next(iterator)
        counts.append(iterator.bad_images)
    expected = np.cumsum([len(batches[step]["bad_images"]) for step in range(6)])
    assert counts == expected.tolist()
    fresh = data.train_iterator(batches, num_threads=3)
    fresh.set_state({"next_index": 3, "bad_images": counts[2]})
    for _ in range(3):
        next(fresh)
    assert fresh.get_state() == iterator.get_state()
    # A checkpoint from before there was a count.
    fresh.set_state({"next_index": 3})
    assert fresh.bad_images == 0


def test_evaluation_leaves_bad_images_out(torn):
    transform = data.eval_transform("imagenet", 16)
    with pytest.raises(data.BadImageError, match="image 3 "):
        list(data.eval_batches(torn, transform, batch_size=5))
    batches = list(data.eval_batches(torn, transform, batch_size=5, on_bad_image="skip"))
    seen = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    assert seen.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10]
    for batch in batches:
        assert not batch["image"][~batch["mask"]].any() and not batch["label"][~batch["mask"]].any()
    images = [transform(torn[i]["image"]) for i in seen.tolist()]
    np.testing.assert_allclose(
        data.pixel_mean(torn, transform, on_bad_image="skip"),
        np.mean(images, axis=0) / 255,
        rtol=1e-6,
    )


def test_a_source_of_nothing_but_bad_images_is_refused(tmp_path):
    make_tfds_dataset(tmp_path, "none", [b"no image"] * 3, [0, 1, 2], "jpeg")
    source = data.open_source("none", "train", tmp_path)
    with pytest.raises(data.DataError, match="100 consecutive images .*it is not an image"):
        batches_of(source, on_bad_image="skip")[0]
    transform = data.eval_transform("imagenet", 16)
    [batch] = data.eval_batches(source, transform, batch_size=4, on_bad_image="skip")
    assert not batch["mask"].any() and not batch["image"].any()
    with pytest.raises(data.DataError, match="no image of 'none' can be decoded; repair"):
        data.pixel_mean(source, transform, on_bad_image="skip")


def test_evaluation_leaves_out_however_many_bad_images(tmp_path):
    """More in a row than training would look for a stand-in behind."""
    good = encode(np.full((20, 20, 3), 7, np.uint8), "jpeg")
    make_tfds_dataset(tmp_path, "rows", [good, *[b""] * 120, good], list(range(122)), "jpeg")
    source = data.open_source("rows", "train", tmp_path)
    batches = data.eval_batches(
        source, data.eval_transform("imagenet", 16), batch_size=61, on_bad_image="skip"
    )
    seen = [label for batch in batches for label in batch["label"][batch["mask"]].tolist()]
    assert seen == [0, 121]


def test_an_image_of_another_shape_is_a_bad_one(tmp_path):
    images = [np.zeros((4 + (i == 2), 4, 3), np.uint8) for i in range(4)]
    features = {"image": image_feature((4, 4, 3)), "label": label_feature(4)}
    make_tfds_dataset(tmp_path, "large", images, [0, 1, 2, 3], features=features)
    source = data.open_source("large", "train", tmp_path, on_bad_image="skip")
    batches = data.train_batches(
        source, data.train_transform("cifar"), batch_size=4, seed=0, on_bad_image="skip"
    )
    assert sorted(set(batches[0]["label"].tolist())) == [0, 1, 3]
    assert "shape is (5, 4, 3)" in batches[0]["bad_images"][0]


def test_other_words_are_refused(torn):
    with pytest.raises(data.DataError, match=r"'skp' \(did you mean 'skip'\?\); choose one of err"):
        batches_of(torn, on_bad_image="skp")
    with pytest.raises(data.DataError, match="unknown on_bad_image 'x'"):
        data.eval_batches(torn, data.eval_transform("imagenet", 8), batch_size=4, on_bad_image="x")
