"""Layer responses against a walk through the network by hand."""

import jax
import numpy as np
import pytest
from matplotlib import image as matplotlib_image

from resnet_jax import data
from resnet_jax.evaluation import (
    EvaluationError,
    Network,
    format_responses,
    layer_responses,
    plot_responses,
)
from resnet_jax.models import BottleneckBlock
from resnet_jax.runtime.devices import data_mesh
from tests.evaluation.networks import random_variables, small_model


def make(channels=3, **options):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 12, 12, channels), dtype=np.uint8)
    source = data.ArraySource(images, np.zeros(7, np.int32), ("a",))
    model = small_model(**options)
    normalization = data.make_normalization("none", channels)
    return source, Network(model, random_variables(model, channels), normalization)


def responses(source, network, batch_size=4, devices=1):
    mesh = data_mesh(jax.devices()[:devices])
    batches = data.eval_batches(source, data.eval_transform("none"), batch_size=batch_size)
    return layer_responses(network, batches, mesh)


def convolve(x, kernel, stride=1):
    padding = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", windows[:, ::stride, ::stride], kernel)


def by_hand(source, network):
    """The network of `make(stem="cifar", shortcut="A", residual=...)` in NumPy, float64."""
    params, stats = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64),
        (network.variables["params"], network.variables["batch_stats"]),
    )

    def layer(x, *place, norm, conv, stride=1):
        own, own_stats = params, stats
        for name in place:
            own, own_stats = own[name], own_stats[name]
        y = convolve(x, own[conv]["kernel"], stride)
        y = (y - own_stats[norm]["mean"]) / np.sqrt(own_stats[norm]["var"] + 1e-5)
        y = y * own[norm]["scale"] + own[norm]["bias"]
        found[".".join((*place, conv))] = y.std()
        return y

    found = {}
    x = np.maximum(layer(source.images / 255.0, "stem", norm="bn", conv="conv"), 0)
    for stage, stride in (("stage1", 1), ("stage2", 2)):
        place = (stage, "block1")
        y = np.maximum(layer(x, *place, norm="bn1", conv="conv1", stride=stride), 0)
        y = layer(y, *place, norm="bn2", conv="conv2")
        if network.model.residual:
            missing = y.shape[-1] - x.shape[-1]
            y = y + np.pad(
                x[:, ::stride, ::stride],
                ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)),
            )
        x = np.maximum(y, 0)
    return found


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("batch_size", "devices"), [(4, 1), (8, 2)])
def test_deviations_before_activation_and_addition(residual, batch_size, devices):
    source, network = make(stem="cifar", shortcut="A", residual=residual, remat=residual)
    found = responses(source, network, batch_size, devices)
    expected = by_hand(source, network)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-5)


def test_only_3x3_layers_count():
    source, network = make(block=BottleneckBlock, stage_sizes=(1, 2))
    assert list(responses(source, network)) == [
        "stage1.block1.conv2",
        "stage2.block1.conv2",
        "stage2.block2.conv2",
    ]
    source, network = make(shortcut="C")
    assert [name.split(".")[-1] for name in responses(source, network)] == ["conv1", "conv2"] * 2


def test_a_folded_network_has_no_responses():
    with pytest.raises(EvaluationError, match="no 3x3 layer with batch normalisation"):
        responses(*make(folded=True))


def test_a_table_in_order_and_sorted():
    table = format_responses({"a": {"stem.conv": 0.5, "stage1.block1.conv1": 1.25}})
    assert table.splitlines() == [
        "a: standard deviations of 2 3x3 layers, mean 0.8750",
        "        layer                 deviation      sorted                deviation",
        "    1   stem.conv                0.5000      stage1.block1.conv1      1.2500",
        "    2   stage1.block1.conv1      1.2500      stem.conv                0.5000",
    ]


def test_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    runs = {
        name: {f"layer{i}": float(value) for i, value in enumerate(rng.uniform(size=n))}
        for name, n in [("plain20", 19), ("resnet20", 19), ("resnet110", 109)]
    }
    plot_responses(runs, tmp_path / "responses.png")
    pixels = matplotlib_image.imread(tmp_path / "responses.png")
    assert pixels.shape[2] == 4 and pixels.std() > 0.05
    with pytest.raises(ValueError, match="not supported"):
        plot_responses(runs, tmp_path / "responses.bmp8")
