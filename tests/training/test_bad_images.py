"""A run that meets a bad image: it saves its state, and goes on by each remedy that it names."""

import dataclasses
import json

import jax
import pytest

from resnet_jax import data
from resnet_jax.commands import _cli
from resnet_jax.data.loading.batches import _epoch_order
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import open_experiment, read_metrics, train
from resnet_jax.training.loop import BadData
from tests.data.prepare.archive_files import jpeg
from tests.training.test_loop import CONFIG as LOOP

pytestmark = pytest.mark.usefixtures("resnet8")

CONFIG = dataclasses.replace(
    LOOP,
    train_split="train",
    eval_split="val",
    augmentation="imagenet",
    image_size=8,
    preprocess="torchvision",
    batch_size=2,
    eval_batch_size=2,
    num_steps=6,
    schedule_steps=6,
    eval_every=6,
    checkpoint_every=4,
)


@pytest.fixture
def photos(tmp_path):
    """A folder of eight training images of several sizes and four to evaluate."""
    root = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{number}.jpg").write_bytes(jpeg(number))
    return root


def image_of(photos, position):
    """The file of the image at a position of the first epoch's order."""
    source = data.open_source(str(photos), "train")
    return photos / source.describe(int(_epoch_order(len(source), CONFIG.seed, 0)[position]))


def harm(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return content


def run(photos, workdir, **changes):
    config = dataclasses.replace(CONFIG, dataset=str(photos), **changes)
    return train(config, workdir, data_mesh(jax.devices()[:1]))


def skip(file, content):
    return {"on_bad_image": "skip"}


def repair(file, content):
    file.write_bytes(content)
    return {"on_changed_data": "accept"}


def remove(file, content):
    file.unlink()
    return {"on_changed_data": "accept"}


@pytest.mark.parametrize("remedy", [skip, repair, remove])
def test_the_run_goes_on_by_each_remedy(photos, tmp_path, remedy, capsys):
    file = image_of(photos, 5)
    content = harm(file)
    with pytest.raises(BadData) as error:
        run(photos, tmp_path / "run")
    message = str(error.value)
    assert file.name in message and "saved at step 2" in message
    assert "--config.on_bad_image=skip" in message
    assert "mend or remove the file and set --config.on_changed_data=accept" in message
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["2"]

    with pytest.raises(BadData):  # The same again: nothing is lost.
        run(photos, tmp_path / "run")
    changes = remedy(file, content)
    if "on_changed_data" in changes:
        before = (tmp_path / "run" / "dataset.json").read_text()
        with pytest.raises(ConfigError, match="files differ; .*set --config.on_changed_data=acc"):
            run(photos, tmp_path / "run")
        assert (tmp_path / "run" / "dataset.json").read_text() == before
    capsys.readouterr()
    records = run(photos, tmp_path / "run", **changes)
    assert records["val"]["step"] == 6
    said = capsys.readouterr().out
    known = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert known["train"]["images"] == (7 if remedy is remove else 8)
    assert ("it had 8 images, now 7" in said) == (remedy is remove)
    assert ("the epochs have another order" in said) == (remedy is remove)
    assert ("has changed since step 2: other files" in said) == (remedy is repair)
    assert ("bad_images" in read_metrics(tmp_path / "run")[-2]) == (remedy is skip)
    # From here it is the run's data.
    run(photos, tmp_path / "run", **changes | {"on_changed_data": "error"}, num_steps=7)


def test_a_run_that_skipped_images_cannot_be_one_that_ends_at_them(photos, tmp_path):
    run(photos, tmp_path / "run", on_bad_image="skip", num_steps=1)
    with pytest.raises(ConfigError, match=r"on_bad_image \('skip', now 'error'\)"):
        run(photos, tmp_path / "run")


def test_a_repaired_run_is_the_undisturbed_one(photos, tmp_path):
    run(photos, tmp_path / "whole")
    file = image_of(photos, 5)
    content = harm(file)
    with pytest.raises(BadData):
        run(photos, tmp_path / "run")
    run(photos, tmp_path / "run", **repair(file, content))
    whole, repaired = (
        [record for record in read_metrics(tmp_path / name) if record["step"] == 6]
        for name in ("whole", "run")
    )
    for one, other in zip(whole, repaired, strict=True):
        assert (one["split"], one["loss"]) == (other["split"], other["loss"])


def test_a_bad_image_of_the_evaluation(photos, tmp_path):
    file = photos / "val" / "dog" / "1.jpg"
    content = harm(file)
    with pytest.raises(BadData, match="saved at step 4"):
        run(photos, tmp_path / "run", eval_every=4)
    file.write_bytes(content)
    run(photos, tmp_path / "run", eval_every=4, on_changed_data="accept")
    steps = [r["step"] for r in read_metrics(tmp_path / "run") if r["split"] == "val"]
    assert steps == [4, 6]


@pytest.mark.parametrize(("position", "status"), [(0, 2), (2, 1)])
def test_the_exit_status_says_whether_steps_were_done(
    photos, tmp_path, position, status, capsys, monkeypatch
):
    monkeypatch.setattr(_cli, "_leave", lambda: None)  # Tests before this one may have threads.
    harm(image_of(photos, position))
    experiment = open_experiment(dataclasses.replace(CONFIG, dataset=str(photos)))
    with pytest.raises(SystemExit) as end:
        _cli.run(lambda: train(experiment, tmp_path / "run", data_mesh(jax.devices()[:1])) and 0)
    err = capsys.readouterr().err
    assert end.value.code == status and err.count("\n") == 1 and len(err) < 300, err
    assert "on_bad_image" in err


def test_other_classes_are_another_run(photos, tmp_path):
    run(photos, tmp_path / "run", num_steps=1)
    for split in ("train", "val"):
        (photos / split / "dog").rename(photos / split / "wolf")
    with pytest.raises(ConfigError, match="classes, files differ; restore it, or choose another"):
        run(photos, tmp_path / "run", on_changed_data="accept")
