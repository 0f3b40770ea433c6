"""What each kind of weights says about its preprocessing."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from resnet_jax import WeightsError, from_torch, save_weights
from resnet_jax.data import Preprocessing
from resnet_jax.data.sources.class_names import imagenet_class_names
from resnet_jax.interop import native, open_weights, read_preprocessing, reading
from tests import torch_twins
from tests.interop.nets import NUM_CLASSES, assert_identical, small_pair

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
WORDNET_IDS = tuple(imagenet_class_names())

# `pretrained_cfg` of timm/resnet50.a1_in1k.
A1 = {
    "tag": "a1_in1k",
    "input_size": [3, 224, 224],
    "test_input_size": [3, 288, 288],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "test_crop_pct": 1.0,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "num_classes": 1000,
}
# preprocessor_config.json of microsoft/resnet-50.
CONVNEXT = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
BIT = {
    "image_processor_type": "BitImageProcessor",
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 256},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 192}}


def timm(own, **config):
    return {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": own, **config}


def write(folder, config, processor=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


TIMM = {
    "new": (
        timm(A1),
        {"image_size": (224, 224), "crop_share": 0.95, "interpolation": "bicubic", **IMAGENET},
    ),
    "old": (
        {"architecture": "resnet34", "num_classes": 5, "labels": [*"abcde"], **A1, "tag": ""},
        {
            **{"image_size": (224, 224), "crop_share": 0.95, "interpolation": "bicubic"},
            **{**IMAGENET, "class_names": tuple("abcde")},
        },
    ),
    "nothing but its mean": (
        timm({"mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 10}, num_classes=10),
        {"image_size": (224, 224), "crop_share": 0.875, "interpolation": "bicubic", **HALF},
    ),
    "not square, squashed, names": (
        timm(
            {**A1, "input_size": [3, 160, 224], "crop_mode": "squash"},
            label_names={"1": "b", "0": "a", "10": "c"},
        ),
        {
            **{"image_size": (160, 224), "crop_share": 0.95, "interpolation": "bicubic"},
            **{**IMAGENET, "crop_mode": "squash", "class_names": ("a", "b", "c")},
        },
    ),
}


@pytest.mark.parametrize("kind", TIMM)
def test_timm(kind, tmp_path):
    config, expected = TIMM[kind]
    if kind == "new":
        expected = {**expected, "class_names": WORDNET_IDS}
    repo = write(tmp_path / "timm", config)
    preprocessing = read_preprocessing(repo)
    assert preprocessing == Preprocessing(**expected)
    assert preprocessing.source == f"config.json of {repo}"
    assert read_preprocessing(repo / "config.json") == preprocessing


def test_the_size_for_tests_of_timm(tmp_path):
    tested = read_preprocessing(write(tmp_path, timm(A1)), test_size=True)
    assert (tested.image_size, tested.crop_share) == ((288, 288), 1.0)
    without = {key: value for key, value in A1.items() if not key.startswith("test")}
    plain = read_preprocessing(write(tmp_path, timm(without)), test_size=True)
    assert (plain.image_size, plain.crop_share) == ((224, 224), 0.95)


PROCESSORS = {
    "ConvNext's": (
        CONVNEXT,
        {"image_size": (224, 224), "interpolation": "bicubic", **IMAGENET},
    ),
    "ConvNext's of today": (
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 320},
            "crop_pct": 0.95,
        },
        {"image_size": (320, 320), "crop_share": 0.95, **HALF},
    ),
    "ConvNext's for large images": (
        {**CONVNEXT, "size": 384},
        {
            **{"image_size": (384, 384), "crop_share": 1.0, "crop_mode": "squash"},
            **{"interpolation": "bicubic", **IMAGENET},
        },
    ),
    "Bit's": (BIT, {"image_size": (224, 224), "interpolation": "bicubic", **IMAGENET}),
    "Bit's with numbers": (
        {**BIT, "crop_size": 224, "size": 232},
        {
            **{"image_size": (224, 224), "crop_share": 224 / 232},
            **{"interpolation": "bicubic", **IMAGENET},
        },
    ),
    "ViT's": (
        VIT,
        {"image_size": (224, 192), "crop_share": 1.0, "crop_mode": "squash", **HALF},
    ),
    "not normalized": (
        {**VIT, "size": 32, "do_normalize": False, "resample": 0},
        {
            **{"image_size": (32, 32), "crop_share": 1.0, "crop_mode": "squash"},
            **{"interpolation": "nearest"},
        },
    ),
    "not scaled": (
        {**BIT, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3},
        {
            **{"image_size": (224, 224), "interpolation": "bicubic"},
            **{"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)},
        },
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_hugging_face(kind, tmp_path):
    processor, expected = PROCESSORS[kind]
    config = {"model_type": "resnet", "id2label": {"1": "dog", "0": "cat", "10": "emu"}}
    repo = write(tmp_path / "repo", config, processor)
    preprocessing = read_preprocessing(repo)
    assert preprocessing == Preprocessing(**expected, class_names=("cat", "dog", "emu"))
    assert preprocessing.source == f"preprocessor_config.json of {repo}"


def test_labels_in_words_are_imagenets_and_numbered_ones_are_none(tmp_path):
    words = [f"{name}, and synonyms" for name in imagenet_class_names().values()]
    words[1], words[700] = "other word", "another"
    repo = write(tmp_path, {"id2label": dict(enumerate(words))}, CONVNEXT)
    assert read_preprocessing(repo).class_names == WORDNET_IDS
    shuffled = dict(enumerate(words[::-1]))
    repo = write(tmp_path, {"id2label": shuffled}, CONVNEXT)
    assert read_preprocessing(repo).class_names == tuple(words[::-1])
    numbered = {index: f"LABEL_{index}" for index in range(3)}
    assert read_preprocessing(write(tmp_path, {"id2label": numbered}, CONVNEXT)).class_names == ()


@pytest.mark.parametrize(
    "config, processor, message",
    [
        (timm({**A1, "interpolation": "random"}), None, "unknown interpolation 'random'"),
        (timm({**A1, "crop_pct": 1.5}), None, "crop_share is 1.5"),
        (timm({**A1, "input_size": 224}), None, "config.json of .* is not understood"),
        (timm({**A1, "mean": [0.5]}), None, "mean has 1 channels and std 3"),
        ({}, {**BIT, "resample": 9}, "preprocessor_config.json of .* is not understood"),
        ({}, {**BIT, "crop_size": 300}, "a crop of 300x300 from 256x256"),
        ({}, {"image_mean": [0.5] * 3}, "is not understood"),
        ({}, {**BIT, "crop_size": {"height": 224, "width": 200}}, "224x200 from 256x256"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_said(config, processor, message, tmp_path):
    with pytest.raises(WeightsError, match=message) as info:
        read_preprocessing(write(tmp_path, config, processor))
    assert "\n" not in str(info.value) and str(info.value).endswith("give it yourself")


# By hand from torchvision 0.28: the resize of each file.
TORCHVISION = {
    "resnet18-f37072fd": 256,
    "resnet34-b627a593": 256,
    "resnet50-0676ba61": 256,
    "resnet50-11ad3fa6": 232,
    "resnet101-63fe2227": 256,
    "resnet101-cd907fc2": 232,
    "resnet152-394f9c45": 256,
    "resnet152-f82ba261": 232,
    "resnext50_32x4d-7cdf4587": 256,
    "resnext50_32x4d-1a0047aa": 232,
    "resnext101_32x8d-8ba56ff5": 256,
    "resnext101_32x8d-110c445d": 232,
    "resnext101_64x4d-173b62eb": 232,
    "wide_resnet50_2-95faca4d": 256,
    "wide_resnet50_2-9ba9bcbe": 232,
    "wide_resnet101_2-32ee1156": 256,
    "wide_resnet101_2-d733dc28": 232,
    "resnet50-19c8e357": 256,  # Before torchvision 0.9.
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, tmp_path):
    path = tmp_path / f"{name}.pth"
    path.touch()
    preprocessing = read_preprocessing(path)
    resize = TORCHVISION[name]
    assert preprocessing == Preprocessing(
        image_size=(224, 224), crop_share=224 / resize, **IMAGENET, class_names=WORDNET_IDS
    )
    assert preprocessing.resize == (resize, resize)
    assert name in preprocessing.describe()
    copy = shutil.copy(path, tmp_path / f"{name} (1).pth")
    assert read_preprocessing(copy) == preprocessing


@pytest.mark.parametrize("name", ["resnet50.pth", "resnet50-12345678.pth", "a.safetensors"])
def test_files_that_say_nothing(name, tmp_path):
    save_file({"fc.bias": np.ones(3, np.float32)}, tmp_path / name)
    assert read_preprocessing(tmp_path / name) is None


def test_folders_that_say_nothing(tmp_path):
    assert read_preprocessing(tmp_path) is None
    write(tmp_path, {"model_type": "resnet"})
    assert read_preprocessing(str(tmp_path)) is None
    with pytest.raises(WeightsError, match="does not exist"):
        read_preprocessing(tmp_path / "none.pth")


@pytest.mark.parametrize(
    "name, is_imagenet",
    [
        ("resnet50_weights_tf_dim_ordering_tf_kernels.h5", True),
        ("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", False),
        ("mine.keras", False),
        ("mine.weights.h5", False),
        ("mine.npz", False),
    ],
)
def test_keras(name, is_imagenet, tmp_path):
    (tmp_path / name).touch()
    preprocessing = read_preprocessing(tmp_path / name)
    assert preprocessing.class_names == (WORDNET_IDS if is_imagenet else ())
    assert (preprocessing.image_size, preprocessing.resize) == ((224, 224), (256, 256))
    # keras.applications.imagenet_utils.preprocess_input(mode="caffe").
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    expected = pixels[16:240, 16:240, ::-1] - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(preprocessing(pixels)[0], expected, rtol=0, atol=1e-4)


MODEL, TWIN = small_pair()
VARIABLES = from_torch(MODEL, TWIN.state_dict())
OWN = {
    "per channel": Preprocessing(
        image_size=(24, 32),
        crop_share=0.95,
        crop_mode="border",
        interpolation="bicubic",
        **HALF,
        class_names=tuple("abcdefg"),
    ),
    "a mean image": Preprocessing(
        image_size=(8, 9),
        crop_share=1.0,
        mean=np.random.default_rng(0).uniform(size=(8, 9, 3)).astype(np.float32),
    ),
}


@pytest.mark.parametrize("kind", OWN)
def test_our_own_files(kind, tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, VARIABLES, MODEL, preprocessing=OWN[kind])
    preprocessing = read_preprocessing(path)
    assert preprocessing == OWN[kind]
    assert preprocessing.source == "model.safetensors"
    model, variables = open_weights(path)
    assert model == MODEL
    assert_identical(variables, VARIABLES)
    # Also as a repository, whatever its configuration says.
    assert read_preprocessing(tmp_path) == OWN[kind]
    write(tmp_path, timm(A1))
    assert read_preprocessing(tmp_path) == OWN[kind]


def test_our_own_files_from_before(tmp_path):
    path, mean = tmp_path / "weights.safetensors", OWN["a mean image"].mean
    save_weights(path, VARIABLES, MODEL)
    assert read_preprocessing(path) is None
    save_weights(path, VARIABLES, MODEL, pixel_mean=mean)
    assert read_preprocessing(path) == OWN["a mean image"]
    np.testing.assert_array_equal(native.read_pixel_mean(path), mean)


def test_a_record_from_a_newer_version(tmp_path):
    path = tmp_path / "weights.safetensors"
    arrays = {"params.head.bias": np.ones(3, np.float32)}
    for content in ("{", '{"magic": 1}', '{"crop_share": 2}', "null"):
        save_file(arrays, path, {"format": "resnet_jax", "preprocessing": content})
        with pytest.raises(WeightsError, match="weights.safetensors describes its preprocessing"):
            read_preprocessing(path)
    with pytest.raises(WeightsError, match="the note 'preprocessing' has a reserved name"):
        save_weights(path, VARIABLES, MODEL, notes={"preprocessing": "{}"})


def test_the_shipped_weights_say_it():
    shipped = Path(native.__file__).with_name("pretrained") / "resnet20_cifar10.safetensors"
    preprocessing = read_preprocessing(shipped)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    expected = pixels / 255 - native.read_pixel_mean(shipped)
    np.testing.assert_allclose(preprocessing(pixels)[0], expected, rtol=0, atol=1e-6)
    assert preprocessing(np.zeros((90, 70, 3), np.uint8)).shape == (1, 32, 32, 3)


def test_weights_that_state_their_network(tmp_path):
    import torch

    twin = torch_twins.make_twin("resnet18")
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(twin.state_dict(), path)
    model, variables = open_weights(path)
    assert model.num_classes == 1000
    assert_identical(variables, from_torch(model, twin.state_dict()))
    other, variables = open_weights(path, num_classes=3)
    assert variables["params"]["head"]["bias"].shape == (3,)
    assert_identical(variables, from_torch(other, twin.state_dict(), skip_head=True))
    given, _ = open_weights(shutil.copy(path, tmp_path / "copy.pth"), model)
    assert given is model
    with pytest.raises(WeightsError, match="copy.pth does not state its network; give it by --mod"):
        open_weights(tmp_path / "copy.pth")


def test_a_new_classifier_for_our_own_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, VARIABLES, MODEL)
    model, variables = open_weights(path, num_classes=NUM_CLASSES + 1)
    assert model == MODEL.clone(num_classes=NUM_CLASSES + 1)
    assert jnp.isfinite(variables["params"]["head"]["kernel"]).all()
    assert_identical(variables["batch_stats"], VARIABLES["batch_stats"])


@pytest.mark.parametrize(
    "source, expected",
    [
        ("timm/resnet50.a1_in1k", True),
        ("microsoft/resnet-50", True),
        ("folder", True),
        ("folder/weights", True),
        ("folder/file", False),
        ("weights/none.pth", False),
        ("weights/none.keras", False),
        ("./weights/none", False),
        ("/weights/none", False),
        ("~/none/none", False),
        ("none", False),
        ("a/b/c", False),
    ],
)
def test_names_of_repositories_are_told_from_paths(source, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "weights").mkdir(parents=True)
    (tmp_path / "folder" / "file").touch()
    assert reading.is_repository(source) is expected
