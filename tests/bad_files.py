"""A folder of everything that a command may be given and must refuse, and a little that is good."""

import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch

import resnet_jax
from tests.data.prepare.archive_files import jpeg, make_cifar10
from tests.data.tfds_files import encode, image_feature, label_feature, make_tfds_dataset
from tests.quick import init
from tests.training.runs import make_run

DEMO = Path(__file__).parents[1] / "configs" / "fashion_mnist_demo.py"
MODEL = resnet_jax.create_model("resnet20_cifar", 10)


def make_world(folder: Path) -> None:
    """Fills the folder that every row of `test_bad_input.py` starts in."""
    for name in ("home", "tmp", "empty", "data"):
        (folder / name).mkdir()
    (folder / "text.txt").write_text("no image, no weights\n" * 20)
    make_configs(folder)
    make_runs(folder)
    make_weights(folder)
    make_images(folder)
    make_folders(folder)
    make_datasets(folder / "data")
    make_archives(folder / "archives")


def make_configs(folder):
    shutil.copy(DEMO, folder / "demo.py")
    for name, program in {
        "syntax": "def get_config(:\n",
        "nothing": "x = 1\n",
        "dictionary": "def get_config():\n    return {'model': 'resnet18'}\n",
        "fails": "def get_config():\n    raise RuntimeError('first line\\nsecond line')\n",
        "exits": "import sys\nsys.exit('good bye')\n",
    }.items():
        (folder / f"{name}.py").write_text(program)


def make_runs(folder):
    make_run(folder / "run", [(10, 0.5)])
    config = (folder / "run" / "config.json").read_text()

    def another(name, config=config, metrics=None):
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "config.json").write_bytes(config.encode(errors="surrogateescape"))
        if metrics is not None:
            (folder / name / "metrics.jsonl").write_text(metrics)

    line = '{"step": 10, "split": "test", "loss": 1.0, "top1_error": 0.5, "top5_error": 0.1}\n'
    another("no_checkpoint")
    another("no_metrics", metrics="")
    another("not_json", config="{")
    another("a_list", config="[1, 2]")
    another("binary", config="\udcff\udcfe")
    another("from_the_future", config=json.dumps(json.loads(config) | {"wings": 2}))
    another("other_type", config=json.dumps(json.loads(config) | {"model_options": "none"}))
    another("other_value", config=json.dumps(json.loads(config) | {"preprocess": "caffee"}))
    another("torn_metrics", metrics=line + "{torn\n" + line)
    another("worded_metrics", metrics=line.replace("0.5", '"half"'))
    another("other_run", config=json.dumps(json.loads(config) | {"batch_size": 16}))
    (folder / "torn_metrics" / "checkpoints" / "10").mkdir()
    another("strange_checkpoint")
    (folder / "strange_checkpoint" / "checkpoints" / "²").mkdir()


class Touch:
    """Pickled, it is a call that writes a file in the folder that it is read in."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def make_weights(folder):
    variables = init(MODEL, jnp.zeros((1, 28, 28, 1)))
    resnet_jax.save_weights(folder / "own.safetensors", variables, MODEL)
    resnet_jax.save_weights(folder / "nameless.safetensors", variables)
    whole = (folder / "own.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[:-1000])
    (folder / "huge.safetensors").write_bytes(struct.pack("<Q", 2**31) + whole[8:])
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])

    def with_header(name, change):
        changed = json.loads(json.dumps(header))
        change(changed)
        text = json.dumps(changed).encode()
        content = struct.pack("<Q", len(text)) + text + whole[8 + length :]
        (folder / name).write_bytes(content)

    first, second = [name for name in header if name != "__metadata__"][:2]
    with_header("overlap.safetensors", lambda h: h[second].update(h[first]))
    with_header("dtype.safetensors", lambda h: h[first].update(dtype="F31"))
    with_header("other_net.safetensors", lambda h: h["__metadata__"].update(model="resnet20"))
    with_header("options.safetensors", lambda h: h["__metadata__"].update(options='{"x": 1}'))
    with_header("block.safetensors", lambda h: h["__metadata__"].update(options='{"block": 1}'))
    big = str(10**9)
    with_header("classes.safetensors", lambda h: h["__metadata__"].update(num_classes=big))
    torch.save({"weight": torch.ones(3)}, folder / "other.pth")
    kernel = torch.eye(3).to_sparse()
    torch.save({"conv1.weight": kernel, "linear.weight": kernel}, folder / "sparse.pth")
    torch.save({"conv1.weight": torch.ones(16, 0, 3, 3)}, folder / "empty.pth")
    torch.save({"conv1.weight": Touch()}, folder / "program.pth")
    (folder / "program.pt").write_bytes(pickle.dumps(Touch()))
    (folder / "short.pth").write_bytes((folder / "other.pth").read_bytes()[:500])
    np.savez(folder / "program.npz", **{"conv1_conv/kernel": np.array([Touch()])})
    (folder / "text.h5").write_text("no weights\n" * 100)
    (folder / "weights.onnx").write_bytes(b"1")


def make_images(folder):
    rng = np.random.default_rng(0)
    (folder / "good.png").write_bytes(encode(rng.integers(0, 256, (28, 28, 1), np.uint8)))
    (folder / "huge.png").write_bytes(huge_png(60_000, 60_000))
    (folder / "huge.jpg").write_bytes(huge_jpeg(60_000, 60_000))
    (folder / "short.jpg").write_bytes(jpeg(0)[:300])
    (folder / "nothing.jpg").write_bytes(b"")


def huge_png(height: int, width: int) -> bytes:
    """A small file that claims to be an image of any size."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2**20))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def huge_jpeg(height: int, width: int) -> bytes:
    """The same as a JPEG."""
    file = bytearray(jpeg(0))
    place = file.index(b"\xff\xc0") + 5
    file[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(file)


def make_folders(folder):
    def images(root, **classes):
        for name, files in classes.items():
            path = folder / root / name.replace("__", "/")
            path.mkdir(parents=True)
            for number, content in enumerate(files):
                (path / f"{number}.jpg").write_bytes(content)

    good = [jpeg(1), jpeg(2)]
    images("photos", train__cat=good, train__dog=good, val__cat=good, val__dog=good)
    images("no_images", train__cat=good, train__dog=[], val__cat=good)
    images("no_classes", train=[], val__cat=good)
    images(".", flat=good)
    images("no_splits", cat=good, dog=good)
    images("blind", train__cat=good, test=good)
    (folder / "no_file.csv").write_text("file,label\nnowhere.jpg,cat\n")
    images("more_classes", train__cat=good, train__dog=good, val__cow=good)
    # Classes that the run knows.
    images("broken_image", train__Bag=good, train__Coat=[b"x"] * 2, val__Bag=[b"x"], val__Coat=good)
    images("huge_image", train__Bag=good, train__Coat=good, val__Bag=good, val__Coat=good)
    (folder / "huge_image" / "val" / "Bag" / "1.jpg").write_bytes(huge_png(60_000, 60_000))


def make_datasets(data):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (8, 28, 28, 1), np.uint8))
    labels = [0, 1] * 4

    def make(name, images=images, labels=labels, splits=None, **more):
        splits = splits or {"train": 4, "test": 4}
        return make_tfds_dataset(data, name, images, labels, splits=splits, **more)

    make("good")
    make("no_validation", splits={"train": 4, "testing": 4})
    make("bad_labels", labels=[0, 1] * 3 + [0, 7], class_names=["no", "yes"])
    make("negative_labels", labels=[-1, 1] * 4, class_names=["no", "yes"])
    one_shape = features((28, 28, 1))
    make("one_shape_wrong", images=[*images[:7], images[7][:20]], features=one_shape)
    files = [b"no image", *(encode(image) for image in images[1:])]
    make("bad_image", images=files, features=one_shape)
    make("one_class", labels=[0] * 8)
    make("no_label", features={"image": image_feature((28, 28, 1))})
    make("floats", features=features((28, 28, 1), dtype="float32"))
    imports = features((28, 28, 1))
    imports["more"] = {"pythonClassName": "stranger.Feature"}
    make("imports", features=imports)
    (data.parent / "stranger.py").write_text("open('executed', 'w').close()\n")
    change(make("elsewhere") / "dataset_info.json", "{DATASET}-", "../../good/1.0.0/good-")
    change(make("old") / "dataset_info.json", '"array_record"', '"tfrecord"')
    (make("not_json") / "dataset_info.json").write_text("{")
    (make("no_features") / "features.json").unlink()
    shard = next(make("short").glob("*-train*"))
    shard.write_bytes(shard.read_bytes()[:-3000])
    shard = next(make("no_shard").glob("*-train*"))
    shard.unlink()


def features(shape, **image):
    return {"image": image_feature(shape, **image), "label": label_feature(2)}


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def make_archives(folder):
    make_cifar10(folder / "cifar")
    make_cifar10(folder / "program", extra={"data_batch_1": pickle.dumps(Touch())})
    escaping = {"../../../../escaped": b"x", "/escaped": b"x"}
    make_cifar10(folder / "escaping", extra=escaping)
    (folder / "short").mkdir()
    whole = (folder / "cifar" / "cifar-10-python.tar.gz").read_bytes()
    (folder / "short" / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
