"""Reads the preprocessing that belongs to weights from what they are published with."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.sources.class_names import imagenet_class_names
from resnet_jax.data.transforms.normalization import (
    CAFFE_DEVIATION,
    CAFFE_MEAN,
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
)
from resnet_jax.errors import WeightsError
from resnet_jax.interop import files, hub, native
from resnet_jax.interop.keras import KERAS_ENDINGS
from resnet_jax.interop.reading import TORCHVISION, is_repository, torchvision_name
from resnet_jax.runtime.files import local_path

_KERAS_IMAGENET = re.compile(r"resnet(50|101|152)_weights_tf_dim_ordering_tf_kernels")
# Hugging Face stores the number of Pillow's filter.
_RESAMPLE = dict(enumerate(("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")))
# From this size on, ConvNextImageProcessor scales images to a square and crops nothing.
_SQUASHED = 384
# What timm and Hugging Face's processors take where a configuration has no value.
_TIMM_SHARE = 0.875
_PROCESSOR_SHARE = 224 / 256
_PROCESSOR_VALUES = (0.5, 0.5, 0.5)


def read_preprocessing(
    source: str | os.PathLike[str], *, test_size: bool = False, revision: str | None = None
) -> Preprocessing | None:
    """Returns the preprocessing of weights, or None if the source does not say it.

    Args:
      source: a file of `save_weights`; one of torchvision's files under its own name, such as
        `resnet50-11ad3fa6.pth`; a file of Keras; a folder with the files of a repository of the
        Hugging Face Hub, one of these files, or the repository's name: timm's `config.json` or
        `preprocessor_config.json` are read.
      test_size: whether to take timm's larger size for tests, where there is one.
      revision: branch, tag or commit of a repository.

    Raises:
      WeightsError: the source does not exist or cannot be reached, or describes its preprocessing
        in a form that is not known.
    """
    if is_repository(source):
        return _of_repository(os.fspath(source), test_size, revision)
    path = files.existing_file(source)
    if path.suffix == ".safetensors" and (own := _of_native(path)) is not None:
        return own
    if (name := torchvision_name(path)) is not None:
        return Preprocessing(
            image_size=(224, 224),
            crop_share=224 / TORCHVISION[name],
            mean=IMAGENET_MEAN,
            std=IMAGENET_DEVIATION,
            class_names=tuple(imagenet_class_names()),
            source=f"torchvision's {name}",
        )
    if path.suffix in KERAS_ENDINGS:
        is_imagenet = _KERAS_IMAGENET.match(path.name) and "notop" not in path.name
        return Preprocessing(
            image_size=(224, 224),
            mean=CAFFE_MEAN,
            std=CAFFE_DEVIATION,
            channel_order="BGR",
            class_names=tuple(imagenet_class_names()) if is_imagenet else (),
            source=f"keras.applications, as {path.name} is Keras's",
        )
    if path.name in (*hub.WEIGHTS, *hub.CONFIGS):
        return _of_repository(str(path.parent), test_size, revision)
    return None


def _of_native(path: Path) -> Preprocessing | None:
    names, metadata = files.safetensors_header(path)
    mean = native.read_pixel_mean(path) if native.PIXEL_MEAN in names else None
    if native.is_native(metadata) and native.PREPROCESSING in metadata:
        try:
            return Preprocessing.from_json(metadata[native.PREPROCESSING], mean, source=path.name)
        except ValueError as error:
            raise WeightsError(
                f"{path.name} describes its preprocessing in a form that this version of"
                f" resnet_jax cannot read ({error}); a newer one may"
            ) from error
    if mean is None:
        return None
    # Files of earlier versions have the mean image alone.
    height, width, channels = mean.shape
    return Preprocessing(
        image_size=(height, width),
        crop_share=1.0,
        mean=mean,
        std=(1.0,) * channels,
        source=path.name,
    )


def _of_repository(repo: str, test_size: bool, revision: str | None) -> Preprocessing | None:
    fetch = hub.repository_files(repo, revision)
    weights = fetch("model.safetensors") if local_path(repo).is_dir() else None
    if weights is not None and (own := _of_native(weights)) is not None:
        return own
    config_name, processor_name = hub.CONFIGS
    config = hub.repository_config(repo, fetch) or {}
    if "architecture" in config:
        return _read(_of_timm, f"{config_name} of {repo}", config, test_size)
    processor = hub.repository_config(repo, fetch, processor_name)
    if processor:
        return _read(_of_processor, f"{processor_name} of {repo}", processor, config)
    weights = hub.repository_weights(fetch)
    return _of_native(weights) if weights and weights.suffix == ".safetensors" else None


def _read(read: Callable[..., Preprocessing], source: str, *arguments: Any) -> Preprocessing:
    try:
        return read(source, *arguments)
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise WeightsError(
            f"the preprocessing in {source} is not understood ({error}); give it yourself"
        ) from error


def _of_timm(source: str, config: Mapping[str, Any], test_size: bool) -> Preprocessing:
    # Repositories of earlier versions have the entries at the top.
    own = config.get("pretrained_cfg") or config

    def given(name: str, default: Any) -> Any:
        of_test = own.get(f"test_{name}") if test_size else None
        return of_test or own.get(name) or default

    _, height, width = given("input_size", (3, 224, 224))
    names = [where.get(key) for where in (config, own) for key in ("label_names", "labels")]
    labels = next(filter(None, names), None)
    classes = config.get("num_classes", own.get("num_classes", 1000))
    if labels is None and classes == 1000 and "in1k" in f"{own.get('tag', '')} {source}":
        labels = tuple(imagenet_class_names())
    return Preprocessing(
        image_size=(height, width),
        crop_share=given("crop_pct", _TIMM_SHARE),
        crop_mode=own.get("crop_mode") or "center",
        interpolation=own.get("interpolation") or "bicubic",
        mean=tuple(own.get("mean") or IMAGENET_MEAN),
        std=tuple(own.get("std") or IMAGENET_DEVIATION),
        class_names=_class_names(labels or config.get("id2label")),
        source=source,
    )


def _of_processor(
    source: str, processor: Mapping[str, Any], config: Mapping[str, Any]
) -> Preprocessing:
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    is_convnext = kind.startswith("ConvNext") or "crop_pct" in processor
    crop = (_convnext_crop if is_convnext else _usual_crop)(processor)
    # Without rescaling, means and deviations are those of [0, 255].
    scale = 1 if processor.get("do_rescale", True) else 255
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.get("do_normalize", True):
        mean = tuple(processor.get("image_mean") or _PROCESSOR_VALUES)
        std = tuple(processor.get("image_std") or _PROCESSOR_VALUES)
    return Preprocessing(
        **crop,
        interpolation=_RESAMPLE[processor.get("resample", 2)],
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        class_names=_class_names(config.get("id2label")),
        source=source,
    )


def _convnext_crop(processor: Mapping[str, Any]) -> dict[str, Any]:
    size = processor.get("size", _SQUASHED)
    side = size if isinstance(size, int) else size["shortest_edge"]
    if side >= _SQUASHED:
        return {"image_size": (side, side), "crop_share": 1.0, "crop_mode": "squash"}
    share = processor.get("crop_pct") or _PROCESSOR_SHARE
    return {"image_size": (side, side), "crop_share": share}


def _usual_crop(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the crop of a processor that scales by `size`, then may crop to `crop_size`."""
    size, is_cropped = processor["size"], processor.get("do_center_crop", False)
    if isinstance(size, int):
        size = {"shortest_edge": size} if is_cropped else {"height": size, "width": size}
    keeps_aspect = "shortest_edge" in size
    resize = _pair(size["shortest_edge"] if keeps_aspect else size)
    crop = _pair(processor["crop_size"]) if is_cropped else resize
    share = crop[0] / resize[0]
    if abs(share - crop[1] / resize[1]) > 1e-9 or share > 1:
        raise ValueError(f"a crop of {crop[0]}x{crop[1]} from {resize[0]}x{resize[1]}")
    mode = "center" if keeps_aspect else "squash"
    return {"image_size": crop, "crop_share": share, "crop_mode": mode}


def _pair(size: int | Mapping[str, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])


def _class_names(labels: Mapping[str, str] | Sequence[str] | None) -> tuple[str, ...]:
    """Returns labels in order; none if they are only numbered, WordNet ids if they are ImageNet's.

    Args:
      labels: names in the order of the logits or by their index.
    """
    if isinstance(labels, Mapping):
        labels = [labels[index] for index in sorted(labels, key=int)]
    names = tuple(map(str, labels or ()))
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return ()
    known = imagenet_class_names()
    words = [name.split(",")[0].strip().lower() for name in names]
    same = sum(map(str.__eq__, words, map(str.lower, known.values())))
    # Libraries differ in a few of the words, so most of them must agree, each in its place.
    is_imagenet = len(words) == len(known) and same > 0.9 * len(known)
    return tuple(known) if is_imagenet else names
