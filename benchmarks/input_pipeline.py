"""Images per second from JPEG files to training batches: ours, tf.data and PyTorch's DataLoader.

    python benchmarks/input_pipeline.py [--tensorflow PYTHON | --install_tensorflow] [--json FILE]

Each loader decodes the same ImageNet-like JPEGs (500x375, about 80 kB, made here), crops and
resizes them randomly to 224x224, mirrors half of them and returns batches of 64:

- ours: ArrayRecord files, `train_batches` and `train_iterator`, threads; uint8.
- tf.data: TFRecord files, `decode_and_crop_jpeg`, bicubic, as in the Flax example but without its
  normalisation; float32. TensorFlow is not a dependency of the project: name a Python that has it,
  or have it installed into a temporary environment. Otherwise, this peer is skipped.
- Flax: the same with the example's normalisation, which ours leaves to the device.
- DataLoader: files, Pillow, torchvision's algorithm, worker processes (none on one core); uint8.

Each measurement is a separate process, on one core and on all, alternating for several rounds; the
medians are printed. Images per second of processor time, printed beside those by the clock, hardly
change if the machine has other work.
"""

import argparse
import functools
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np

HEIGHT, WIDTH, SIZE, BATCH = 375, 500, 224, 64
NUM_IMAGES = 256


def make_photograph(rng: np.random.Generator) -> bytes:
    """Returns a JPEG of about 80 kB with noise at all scales, as in photographs."""
    from PIL import Image

    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    mixing = np.array([[1.0, 0.9, 0.8], [0.2, 0.3, 0.1], [0.1, 0.2, 0.3]], np.float32)
    for octave in range(8):
        height, width = (max(2, -(-side // 2 ** (7 - octave))) for side in (HEIGHT, WIDTH))
        noise = rng.standard_normal((height, width, 3)).astype(np.float32) @ mixing
        channels = [
            Image.fromarray(noise[:, :, c]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        image += 0.77**octave * np.stack([np.asarray(channel) for channel in channels], axis=2)
    image = 118 + 55 * (image - image.mean()) / image.std()
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=88)
    return buffer.getvalue()


def write_images(directory: Path) -> float:
    """Writes the images in each loader's format; returns their mean size in bytes."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    rng = np.random.default_rng(0)
    files = [make_photograph(rng) for _ in range(NUM_IMAGES)]
    (directory / "files").mkdir()
    for i, file in enumerate(files):
        (directory / "files" / f"{i:05d}.jpg").write_bytes(file)
    data_set = directory / "photographs" / "1.0.0"
    data_set.mkdir(parents=True)
    shard = data_set / "photographs-train.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for i, file in enumerate(files):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(file)
        example.features.feature["label"].int64_list.value.append(i % 1000)
        writer.write(example.SerializeToString())
    writer.close()
    features = "tensorflow_datasets.core.features"
    described = {
        "image": {
            "pythonClassName": f"{features}.image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
        },
        "label": {
            "pythonClassName": f"{features}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "1000"},
        },
    }
    (data_set / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": f"{features}.features_dict.FeaturesDict",
                "featuresDict": {"features": described},
            }
        )
    )
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": "train",
        "numBytes": "1",
        "shardLengths": [str(NUM_IMAGES)],
    }
    info = {"fileFormat": "array_record", "name": "photographs", "version": "1.0.0"}
    (data_set / "dataset_info.json").write_text(json.dumps(info | {"splits": [split]}))
    return statistics.mean(map(len, files))


def ours(directory: Path, cores: int) -> Iterator[Any]:
    """Returns our batches."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from resnet_jax import data

    source = data.open_source("photographs", "train", directory)
    transform = data.train_transform("imagenet", SIZE)
    batches = data.train_batches(source, transform, batch_size=BATCH, seed=0)
    return data.train_iterator(batches, num_threads=cores)


def tf_data(directory: Path, cores: int, normalize: bool = False) -> Iterator[Any]:
    """Returns the Flax example's batches, before or after its normalisation."""
    import tensorflow as tf

    def preprocess(file: Any) -> Any:
        shape = tf.io.extract_jpeg_shape(file)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            bounding_boxes=tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4]),
            min_object_covered=0.1,
            aspect_ratio_range=(3.0 / 4, 4.0 / 3.0),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        top, left, _ = tf.unstack(begin)
        height, width, _ = tf.unstack(size)
        image = tf.io.decode_and_crop_jpeg(file, [top, left, height, width], channels=3)
        image = tf.image.resize([image], [SIZE, SIZE], tf.image.ResizeMethod.BICUBIC)[0]
        image = tf.image.random_flip_left_right(tf.reshape(image, [SIZE, SIZE, 3]))
        if normalize:
            image -= tf.constant([123.675, 116.28, 103.53], shape=[1, 1, 3])
            image /= tf.constant([58.395, 57.12, 57.375], shape=[1, 1, 3])
        return image

    path = str(directory / "photographs.tfrecord")
    if not os.path.exists(path):
        with tf.io.TFRecordWriter(path) as writer:
            for file in sorted((directory / "files").iterdir()):
                writer.write(file.read_bytes())
    options = tf.data.Options()
    options.experimental_optimization.map_parallelization = True
    options.threading.private_threadpool_size = cores
    options.threading.max_intra_op_parallelism = 1
    batches = tf.data.TFRecordDataset(path).with_options(options).repeat().shuffle(NUM_IMAGES)
    batches = batches.map(preprocess, num_parallel_calls=cores)
    return iter(batches.batch(BATCH, drop_remainder=True).prefetch(10).as_numpy_iterator())


def data_loader(directory: Path, cores: int) -> Iterator[Any]:
    """Returns the batches of PyTorch's loader with Pillow and torchvision's algorithm."""
    import torch
    from PIL import Image

    class Photographs(torch.utils.data.Dataset[Any]):
        files = sorted((directory / "files").iterdir())

        def __len__(self) -> int:
            return 10**7

        def __getitem__(self, index: int) -> Any:
            with open(self.files[index % NUM_IMAGES], "rb") as file:
                image = Image.open(file).convert("RGB")
            for _ in range(10):
                area = HEIGHT * WIDTH * torch.empty(1).uniform_(0.08, 1).item()
                log_ratio = torch.log(torch.tensor([3 / 4, 4 / 3]))
                aspect = torch.exp(torch.empty(1).uniform_(*log_ratio)).item()
                width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
                if 0 < width <= WIDTH and 0 < height <= HEIGHT:
                    break
            else:
                width, height = WIDTH, HEIGHT
            top = int(torch.randint(0, HEIGHT - height + 1, ()))
            left = int(torch.randint(0, WIDTH - width + 1, ()))
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            if torch.rand(()) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    torch.set_num_threads(1)
    workers = cores if cores > 1 else 0
    return iter(torch.utils.data.DataLoader(Photographs(), batch_size=BATCH, num_workers=workers))


LOADERS = {
    "ours": ours,
    "tf.data": tf_data,
    "Flax": functools.partial(tf_data, normalize=True),
    "DataLoader": data_loader,
}


def measure(loader: str, directory: Path, cores: int, seconds: float) -> None:
    """Prints images per second by the clock and by processor time; runs in its own process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    batches = LOADERS[loader](directory, cores)
    for _ in range(6):
        next(batches)
    clock, processor, images = time.perf_counter(), processor_time(), 0
    while time.perf_counter() < clock + seconds:
        images += len(next(batches)["image"] if loader == "ours" else next(batches))
    clock, processor = time.perf_counter() - clock, processor_time() - processor
    print(json.dumps([images / clock, images / processor]), flush=True)
    os._exit(0)  # Batches loaded ahead are not needed.


def processor_time() -> float:
    """Returns the seconds of processor time of this process and its children."""
    ticks = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has ended.
        if int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def find_tensorflow(arguments: argparse.Namespace, directory: Path) -> str | None:
    """Returns a Python interpreter with TensorFlow, or None."""
    python = arguments.tensorflow or sys.executable
    if arguments.install_tensorflow:
        print("installing TensorFlow into a temporary environment", file=sys.stderr)
        venv.create(directory / "venv", with_pip=True)
        python = str(directory / "venv" / "bin" / "python")
        install = [python, "-m", "pip", "install", "-qq", "tensorflow-cpu", "numpy"]
        subprocess.run(install, check=True)
    there = "import importlib.util as u, sys; sys.exit(u.find_spec('tensorflow') is None)"
    return None if subprocess.run([python, "-c", there]).returncode else python


def main() -> None:
    """Measures each loader on one core and on all, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tensorflow", metavar="PYTHON", help="a Python that has TensorFlow")
    parser.add_argument("--install_tensorflow", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--json", metavar="FILE", help="write the ratios on all cores there")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        loader, directory, cores = arguments.measure
        measure(loader, Path(directory), int(cores), arguments.seconds)

    with tempfile.TemporaryDirectory() as temporary:
        size = write_images(Path(temporary))
        print(f"{NUM_IMAGES} images of {WIDTH}x{HEIGHT}, {size / 1000:.0f} kB on average")
        pythons: dict[str, str | None] = dict.fromkeys(LOADERS, sys.executable)
        pythons["tf.data"] = pythons["Flax"] = find_tensorflow(arguments, Path(temporary))
        if pythons["tf.data"] is None:
            print("tf.data and Flax are skipped: TensorFlow is not installed; see --help")
        all_cores = len(os.sched_getaffinity(0))
        figures: dict[tuple[str, int], list[list[float]]] = {}
        for _ in range(arguments.rounds):
            for cores in dict.fromkeys((1, all_cores)):
                for loader, python in pythons.items():
                    if python is None:
                        continue
                    command = [python, __file__, "--measure", loader, temporary, str(cores)]
                    command += ["--seconds", str(arguments.seconds)]
                    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
                    run = subprocess.run(
                        command, env=environment, check=True, capture_output=True, text=True
                    )
                    figures.setdefault((loader, cores), []).append(json.loads(run.stdout))
        print(
            f"{'':12}{'cores':>6}{'images/s':>10}{'per processor second':>22}{'ours / theirs':>18}"
        )
        for cores in dict.fromkeys((1, all_cores)):
            medians = {
                loader: [statistics.median(column) for column in zip(*rounds, strict=True)]
                for (loader, n), rounds in figures.items()
                if n == cores
            }
            for loader, (clock, processor) in medians.items():
                line = f"{loader:12}{cores:6}{clock:10.0f}{processor:22.0f}"
                if loader != "ours":
                    mine = medians["ours"]
                    line += f"{mine[0] / clock:10.2f}{mine[1] / processor:8.2f}"
                print(line)
    if arguments.json:
        write_ratios(arguments.json, figures, all_cores)


def write_ratios(path: str, figures: dict[tuple[str, int], list[list[float]]], cores: int) -> None:
    """Writes the ratios of the loaders' times per image, as in the other benchmarks."""
    seconds = {
        loader: [common.Seconds(1 / clock, 1 / processor) for clock, processor in rounds]
        for (loader, n), rounds in figures.items()
        if n == cores
    }
    mine = seconds.pop("ours")
    case = f"input_pipeline/{cores} cores"
    ratios = [common.compare(f"{case}/{loader}", mine, seconds[loader]) for loader in seconds]
    absent = [loader for loader in LOADERS if loader not in ("ours", *seconds)]
    missing = [f"{case}/{loader} (no TensorFlow)" for loader in absent]
    common.write(path, ratios, missing, {})


if __name__ == "__main__":
    main()
