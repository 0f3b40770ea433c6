"""Any weights file by its ending."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from resnet_jax import from_torch, save_weights
from resnet_jax.interop import read_weights
from tests.interop import keras_twins
from tests.interop.nets import NUM_CLASSES, assert_identical, small_pair

# Keras's own way of copying its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

OPTIONS = {"stem": "imagenet", "stride_on_first": True}


@pytest.mark.parametrize("name", ["a.pth", "a.th", "a.pt", "a.safetensors", "ours.safetensors"])
@pytest.mark.parametrize("skip_head", [False, True])
def test_pytorchs_and_our_own(name, skip_head, tmp_path):
    model, twin = small_pair(**OPTIONS)
    path = tmp_path / name
    if name == "ours.safetensors":
        save_weights(path, from_torch(model, twin.state_dict()), model)
    elif path.suffix == ".safetensors":
        save_file(twin.state_dict(), path)
    else:
        torch.save(twin.state_dict(), path)
    variables = read_weights(model, path, skip_head=skip_head)
    assert_identical(variables, from_torch(model, twin.state_dict(), skip_head=skip_head))


@pytest.mark.parametrize("name", ["a.weights.h5", "a.npz"])
def test_keras(name, tmp_path):
    model, _ = small_pair(**OPTIONS)
    twin = keras_twins.make_resnet(model.stage_sizes, model.stage_widths, NUM_CLASSES)
    weights = {weight.path: np.asarray(weight) for weight in twin.weights}
    if name == "a.npz":
        np.savez(tmp_path / name, **weights)
    else:
        twin.save_weights(tmp_path / name)
    params = read_weights(model, tmp_path / name)["params"]
    np.testing.assert_array_equal(params["head"]["kernel"], weights["predictions/kernel"])
    np.testing.assert_array_equal(
        params["stage2"]["block1"]["shortcut"]["conv"]["kernel"],
        weights["conv3_block1_0_conv/kernel"],
    )
