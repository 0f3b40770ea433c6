"""Mutated files and random settings: nothing comes out but a result or the room's own error.

The examples are the same in every run (`derandomize`), so the time that they take is, too.
"""

import io
import json
import struct

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from resnet_jax import WeightsError, data
from resnet_jax.data.images.decode import open_image
from resnet_jax.errors import ConfigError
from resnet_jax.interop import files, read_weights
from resnet_jax.training import default_config, resolve
from resnet_jax.training.config import KEYS, TrainConfig
from tests.data.images.test_decode import KINDS
from tests.interop.nets import small_pair

MODEL, TWIN = small_pair(stride_on_first=True)
ARRAYS = {name: value.numpy() for name, value in TWIN.state_dict().items() if value.ndim}


def torch_file(**options):
    buffer = io.BytesIO()
    torch.save({name: torch.tensor(value) for name, value in ARRAYS.items()}, buffer, **options)
    return buffer.getvalue()


def numpy_file():
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS)
    return buffer.getvalue()


def hdf5_file():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in list(ARRAYS.items())[:5]:
            file[f"{name}/kernel"] = value
    return buffer.getvalue()


WEIGHTS = {
    "x.safetensors": (files.read_safetensors, save(ARRAYS, {"format": "pt"})),
    "x.pth": (files.read_torch, torch_file()),
    "old.pth": (files.read_torch, torch_file(_use_new_zipfile_serialization=False)),
    "x.npz": (files.read_keras, numpy_file()),
    "x.h5": (files.read_keras, hdf5_file()),
}


@st.composite
def damaged(draw, content):
    """A file with a few bytes changed, a part doubled or left out, or its end cut off."""
    content = bytearray(content)
    # What a file says of itself stands at its ends.
    edge = min(len(content), 2000)
    place = st.integers(0, edge - 1) | st.integers(-edge, -1) | st.integers(0, len(content) - 1)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(place) % max(1, len(content))
        length = draw(st.integers(1, 40))
        part = content[start : start + length]
        new = draw(
            st.binary(min_size=1, max_size=8) | st.sampled_from([b"", part * 2, b"\xff" * 8])
        )
        content[start : start + draw(st.sampled_from([len(new), length]))] = new
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.filterwarnings("ignore")
def test_weights(name, folder):
    read, good = WEIGHTS[name]

    @settings(max_examples=150)
    @given(damaged(good))
    def check(content):
        path = folder / name
        path.write_bytes(content)
        try:
            read(path)
        except WeightsError as error:
            assert "\n" not in str(error) and len(str(error)) < 300

    check()


names = st.text("abc", min_size=1)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(ARRAYS)), st.sampled_from(["dtype", "shape", "data_offsets"]), anything
)
def test_headers_of_safetensors(folder, tensor, key, value):
    """What parses as JSON, and does not as tensors."""
    good = WEIGHTS["x.safetensors"][1]
    (length,) = struct.unpack("<Q", good[:8])
    header = json.loads(good[8 : 8 + length])
    header[tensor][key] = value
    text = json.dumps(header).encode()
    path = folder / "header.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + good[8 + length :])
    with pytest.raises(WeightsError):
        read_weights(MODEL, path)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(["model", "num_classes", "options"]), st.text() | anything))
def test_descriptions_of_models(folder, description):
    from resnet_jax import load_model

    path = folder / "described.safetensors"
    described = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in description.items()
    }
    path.write_bytes(save(ARRAYS, {"format": "resnet_jax", "model": "resnet20_cifar", **described}))
    with pytest.raises(WeightsError):
        load_model(path)


@pytest.mark.parametrize(
    "kind", ["baseline JPEG", "progressive JPEG", "palette PNG", "PNG", "WebP"]
)
@pytest.mark.filterwarnings("ignore")  # Pillow's, on what is left of EXIF.
def test_images(kind):
    good, refused = KINDS[kind](), []
    transform = data.train_transform("imagenet", 16, channels=3)

    @settings(max_examples=150)
    @given(damaged(good))
    def check(file):
        for decode in (open_image, lambda file, _: transform(file, np.full(23, 0.3))):
            try:
                decode(file, 3)
            except OSError as error:
                refused.append(error)

    check()
    assert refused


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), anything, min_size=1, max_size=4))
def test_configurations(changes):
    config = default_config()
    config.num_steps = 100
    with config.unlocked(), config.ignore_type():
        for key, value in changes.items():
            config[key] = value
    try:
        assert isinstance(resolve(config), TrainConfig)
    except ConfigError as error:
        assert "\n" not in str(error)
