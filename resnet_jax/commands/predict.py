"""Predict the five most likely classes of each image."""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import add_network, check_network
from resnet_jax.errors import UsageError
from resnet_jax.runtime.files import local_path

if TYPE_CHECKING:
    import numpy as np

    from resnet_jax.commands._networks import Trained
    from resnet_jax.data import Transform

_NUM_CLASSES_SHOWN = 5
_BATCH_SIZE = 32
_BAR_LENGTH = 30
_ORIENTATION = 0x0112
"""EXIF's tag for the rotation of a photograph; 1 is upright."""


def main(argv: list[str]) -> int:
    """Runs `python -m resnet_jax predict`, with the network of a run or of weights.

    With `--json` it prints one JSON object per line and image: `image`, the path, and
    `predictions`, a list of `label`, `name` and `score` (the softmax), the most likely first.

    Args:
      argv: the arguments after `predict`.

    Returns:
      0, or 2 if an image could not be used; each such image is named on standard error.

    Raises:
      UsageError, ConfigError, DataError, ModelError, WeightsError: the run or the weights are
        missing, or the arguments do not fit together.
    """
    arguments = _parser().parse_args(argv)
    check_network(arguments)

    # Not at the top: help and usage errors appear at once.
    from resnet_jax.commands._networks import open_one, output_names
    from resnet_jax.data.sources.class_names import readable_class_names

    trained = open_one(arguments)
    names = readable_class_names(output_names(trained))
    photographs = _Photographs(trained.preprocessing.transform(), arguments.exif)
    batch_size = 0
    for paths, images in photographs.batches(arguments.images):
        batch_size = batch_size or len(images)  # Of the first, largest batch: one shape to compile.
        for path, row in zip(paths, _scores(trained, images, batch_size), strict=True):
            _show(path, row, names, arguments.json)
    for notice in photographs.notices(trained.describe()):
        print(f"resnet_jax: {notice}", file=sys.stderr)
    return _cli.BAD_INPUT if photographs.num_bad else 0


class _Photographs:
    """Reads images, names those that cannot be used, and counts those that need attention."""

    def __init__(self, transform: "Transform", exif: bool) -> None:
        self.num_bad = 0
        self._transform, self._exif = transform, exif
        self._used = False
        self._turned: list[str] = []
        self._deep: list[str] = []

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[list[str], "np.ndarray"]]:
        """Yields the paths and pixels of usable images, at most `_BATCH_SIZE` at a time."""
        import numpy as np

        names: list[str] = []
        images: list[np.ndarray] = []
        for path in self._files(paths):
            try:
                image = self._transform(self._read(path))
            except OSError as error:
                self._refuse(
                    f"cannot read {path}: {error.strerror}"
                    if error.strerror
                    else f"cannot use {path}: {error}"
                )
                continue
            if images and image.shape != images[0].shape:
                self._refuse(f"{path} has another size than {names[0]}; give --image_size")
                continue
            self._used = True
            names.append(path)
            images.append(image)
            if len(images) == _BATCH_SIZE:
                yield names, np.stack(images)
                names, images = [], []
        if images:
            yield names, np.stack(images)

    def notices(self, preprocessing: str) -> Iterator[str]:
        """Yields a line about the preprocessing if it was used, and per kind of odd image."""
        if self._used:
            yield preprocessing
        if self._turned and not self._exif:
            yield f"{_some(self._turned)} rotated (EXIF orientation); --exif turns it upright"
        if self._deep:
            yield (
                f"{_some(self._deep)} scaled to 8 bits; training and evaluate clip such pixels at "
                "255"
            )

    def _files(self, paths: Sequence[str]) -> Iterator[str]:
        """Yields the paths of image files, and those of all image files below a folder."""
        from resnet_jax.data.sources.listing import IMAGE_EXTENSIONS, walk

        for path in paths:
            if not local_path(path).is_dir():
                yield path
                continue
            found = [
                os.path.join(folder, name)
                for folder, names in sorted(walk(str(local_path(path))))
                for name in sorted(names)
                if name.lower().endswith(IMAGE_EXTENSIONS)
            ]
            if not found:
                self._refuse(f"there is no image in the folder {path}")
            yield from found

    def _read(self, path: str) -> "bytes | np.ndarray":
        """Returns a file's content, or the pixels of an image that is turned or scaled.

        Raises:
          OSError: the file cannot be read.
        """
        import numpy as np
        from PIL import Image, ImageOps

        from resnet_jax.data.images.decode import check_size, open_image, to_array

        content = local_path(path).read_bytes()
        try:
            header = Image.open(io.BytesIO(content))
            check_size(header.height, header.width)
            is_turned = header.getexif().get(_ORIENTATION, 1) != 1
            if header.mode[:1] in "IF":
                pixels = _eight_bits(np.asarray(header), header.mode)
                self._deep.append(path)
                return pixels[:, :, np.newaxis]
            if is_turned:
                self._turned.append(path)
            if is_turned and self._exif:
                return to_array(open_image(ImageOps.exif_transpose(header)))
        except Exception:
            return content  # Decoding reports what is wrong with it.
        return content

    def _refuse(self, message: str) -> None:
        self.num_bad += 1
        error = UsageError(f"{message}; give image files")
        print(f"resnet_jax: error: {error}", file=sys.stderr)


def _eight_bits(values: "np.ndarray", mode: str) -> "np.ndarray":
    """Returns grey values of Pillow's modes I;16, I and F, scaled to [0, 255]."""
    import numpy as np

    top = float(np.nan_to_num(values).max(initial=0))
    white = 1.0 if mode == "F" and top <= 1 else 255.0
    if mode.startswith("I;16") or top > 255:
        white = 65535.0 if top <= 65535 else top
    scaled = np.nan_to_num(values.astype(np.float64)) * (255 / white)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _some(paths: Sequence[str]) -> str:
    return f"{paths[0]} is" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more are"


def _scores(trained: "Trained", images: "np.ndarray", batch_size: int) -> "np.ndarray":
    """Returns the softmax of each image; pads the images to a batch size."""
    import jax
    import numpy as np

    padding = np.zeros((batch_size - len(images), *images.shape[1:]), np.uint8)
    logits = trained.network.logits(np.concatenate([images, padding]))
    return np.asarray(jax.nn.softmax(logits))[: len(images)]


def _show(path: str, scores: "np.ndarray", names: Sequence[str], as_json: bool) -> None:
    """Prints the most likely classes of an image."""
    import numpy as np

    labels = np.argsort(-scores, kind="stable")[:_NUM_CLASSES_SHOWN].tolist()
    predictions = [
        {"label": label, "name": names[label], "score": float(scores[label])} for label in labels
    ]
    if as_json:
        print(json.dumps({"image": path, "predictions": predictions}))
    else:
        print("\n".join([path, *_table(predictions), ""]))


def _table(predictions: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len(prediction["name"]) for prediction in predictions)
    return [
        f"  {prediction['name']:{width}}  {prediction['score']:6.1%}  {_bar(prediction['score'])}"
        for prediction in predictions
    ]


def _bar(score: float) -> str:
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(_BAR_LENGTH * score)
    whole, eighths = divmod(round(8 * _BAR_LENGTH * score), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def _parser() -> argparse.ArgumentParser:
    parser = _cli.ArgumentParser(prog="python -m resnet_jax predict", description=__doc__)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, or folders of images"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    parser.add_argument(
        "--exif", action="store_true", help="turn photographs upright by their EXIF orientation"
    )
    add_network(parser)
    return parser
