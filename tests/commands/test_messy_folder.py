"""From a folder as cameras, systems and broken copies leave it to a table of predictions."""

import csv
import json

import pytest

from resnet_jax import training
from resnet_jax.commands import evaluate
from resnet_jax.training import TrainConfig
from tests.data.sources.test_listing import write


@pytest.mark.filterwarnings("ignore")  # As commands run.
def test_a_messy_folder(tmp_path, capsys, resnet8):
    photos = tmp_path / "photos"
    write(photos, *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(10)))
    write(photos, ".DS_Store", "@eaDir/1.jpg", "cat/._1.jpg", b"dog/caf\xe9.jpg", "cat/x.heic")
    (photos / "dog/gone.jpg").symlink_to("nowhere.jpg")
    config = TrainConfig(
        model=resnet8,
        dataset=str(photos),
        train_split="train[:50%]",
        eval_split="train[:100%]",
        augmentation="imagenet",
        image_size=32,
        preprocess="torchvision",
        batch_size=8,
        num_steps=1,
        schedule_steps=1,
        on_bad_image="skip",
    )
    training.train(config, tmp_path / "run")
    notice = f"{photos}: split 'train' leaves out 1 file ending in .heic"
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith(notice)]) == 1

    table = tmp_path / "scores.csv"
    evaluate.main(["--workdir", str(tmp_path / "run"), "--predictions", str(table)])
    out, err = capsys.readouterr()
    assert len([line for line in err.splitlines() if notice in line]) == 1
    assert json.loads(out.splitlines()[-1])["num_examples"] == 21
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(10)]
    assert [row["file"] for row in rows] == [*expected, "dog/caf\\xe9.jpg"]
    assert [row["index"] for row in rows] == list(map(str, range(21)))
    assert {"cat", "dog"} < set(rows[0])
