"""Weights from Keras: both namings, every file, biases and epsilon, against Keras itself."""

import h5py
import numpy as np
import pytest

from resnet_jax import WeightsError, create_model, from_keras
from resnet_jax.models import BasicBlock, BottleneckBlock, ResNet
from tests.interop import keras_twins
from tests.interop.keras_twins import keras
from tests.interop.nets import (
    NUM_CLASSES,
    assert_identical,
    logits,
    random_images,
    relative_error,
    small_pair,
)

# Keras's own way of copying its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMINGS = [keras_twins.new_names, keras_twins.old_names, keras_twins.numbered_names]
SIZES, WIDTHS = (1, 3), (4, 8)
MODEL = ResNet(
    stage_sizes=SIZES,
    block=BottleneckBlock,
    num_classes=NUM_CLASSES,
    stage_widths=WIDTHS,
    stride_on_first=True,
)


def by_path(model):
    return {weight.path: np.asarray(weight) for weight in model.weights}


@pytest.fixture(scope="module")
def resnet50():
    """keras.applications' own ResNet-50 with random weights, images, and its logits."""
    model = keras.applications.ResNet50(
        weights=None,
        input_shape=(32, 32, 3),
        classes=NUM_CLASSES,
        classifier_activation=None,
    )
    images = random_images(2, 32, 32)
    keras_twins.randomise(model, seed=0)
    return model, images, keras_twins.logits(model, images)


@pytest.fixture(scope="module")
def expected(resnet50):
    weights = {weight.path: weight for weight in resnet50[0].weights}
    return from_keras(create_model("resnet50_v1", NUM_CLASSES), weights)


def test_keras_applications_resnet50_has_the_same_logits(resnet50, expected):
    _, images, theirs = resnet50
    ours = logits(create_model("resnet50_v1", NUM_CLASSES), expected, images)
    assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    "name", ["weights.weights.h5", "model.h5", "model.keras", "weights.npz", "lists"]
)
def test_files_of_keras_applications(name, resnet50, expected, tmp_path):
    keras_model, _, _ = resnet50
    keras_model.compile(optimizer="adam", loss="mse")  # Its state goes into the files.
    source = tmp_path / name
    if name == "weights.weights.h5":
        keras_model.save_weights(source)
    elif name.startswith("model."):
        keras_model.save(source)
    elif name == "weights.npz":
        np.savez(source, **by_path(keras_model))
    else:
        source = {layer.name: layer.get_weights() for layer in keras_model.layers}
    assert_identical(from_keras(create_model("resnet50_v1", NUM_CLASSES), source), expected)


def test_keras_files_that_name_no_layer(resnet50, expected, tmp_path):
    # Keras 3 files layers as conv2d, conv2d_1, ...; their names are an attribute of late.
    path = tmp_path / "weights.weights.h5"
    resnet50[0].save_weights(path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    assert_identical(from_keras(create_model("resnet50_v1", NUM_CLASSES), path), expected)


@pytest.mark.parametrize("naming", NAMINGS)
def test_logits_agree_for_every_naming(naming):
    twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES, naming)
    images = random_images(2, 37, 40)
    variables = from_keras(MODEL, by_path(twin))
    assert relative_error(logits(MODEL, variables, images), keras_twins.logits(twin, images)) < 1e-5


def test_biases_and_epsilon_go_into_the_statistics():
    for naming, epsilon in [(keras_twins.new_names, 1.001e-5), (keras_twins.old_names, 1e-3)]:
        twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES, naming)
        conv, norm = (twin.get_layer(name) for name in naming(3, 1, 2))
        stats = from_keras(MODEL, by_path(twin))["batch_stats"]["stage2"]["block1"]["bn2"]
        _, bias = map(np.float64, conv.get_weights())
        _, _, mean, var = map(np.float64, norm.get_weights())
        np.testing.assert_array_equal(stats["mean"], (mean - bias).astype(np.float32))
        expected = (var + epsilon - 1e-5).astype(np.float32)
        np.testing.assert_array_equal(stats["var"], expected)


def legacy_file(path, model, rename):
    """Writes weights as Keras 1 and 2 do: a group a layer, and the weight's full name in it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [rename(layer.name, weight.name) for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = np.asarray(weight)


KERAS_1 = {
    "kernel": "W",
    "bias": "b",
    "moving_mean": "running_mean",
    "moving_variance": "running_std",
}


@pytest.mark.parametrize(
    "rename",
    [
        lambda layer, weight: f"{layer}/{weight}:0",
        lambda layer, weight: f"{layer}_{KERAS_1.get(weight, weight)}:0",
        lambda layer, weight: f"{layer}_{KERAS_1.get(weight, weight)}_1:0",
        lambda layer, weight: f"{layer}_2/{weight}:0",
    ],
    ids=["Keras 2", "Keras 1", "Keras 1 again", "Keras 2 again"],
)
@pytest.mark.parametrize("naming", NAMINGS[:2])
def test_files_of_earlier_keras(naming, rename, tmp_path):
    twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES, naming)
    path = tmp_path / "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
    legacy_file(path, twin, rename)
    assert_identical(from_keras(MODEL, path), from_keras(MODEL, by_path(twin)))


def test_a_convolution_may_lack_its_bias():
    # The authors' ResNet-101 and 152 have none.
    twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES, keras_twins.numbered_names)
    weights = by_path(twin)
    for name in weights:
        if name.endswith("bias") and not name.startswith("fc"):
            weights[name] = np.zeros_like(weights[name])
    without = {
        name: value
        for name, value in weights.items()
        if not name.endswith("bias") or name.startswith("fc")
    }
    assert_identical(from_keras(MODEL, without), from_keras(MODEL, weights))


@pytest.mark.parametrize("name", ["resnet101_v1", "resnet152_v1"])
@pytest.mark.parametrize("naming", NAMINGS[::2])
def test_every_layer_of_the_deeper_nets_has_its_place(name, naming):
    model = create_model(name, NUM_CLASSES)
    weights = keras_twins.numbered_arrays(model.stage_sizes, NUM_CLASSES, naming)
    params = from_keras(model, weights)["params"]
    for stage in range(1, 5):
        for block, modules in params[f"stage{stage}"].items():
            assert (modules["conv2"]["kernel"] == int(block.removeprefix("block"))).all()
            for part in (1, 2, 3):
                assert (modules[f"bn{part}"]["scale"] == part).all()


def test_one_error_lists_all_that_differs():
    twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES, keras_twins.old_names)
    weights = by_path(twin)
    del weights["bn2a_branch2b/moving_mean"]
    weights["scale2a_branch2b/gamma"] = np.ones(4)
    weights["res3b_branch2a/bias"] = np.ones(5)
    with pytest.raises(WeightsError) as info:
        from_keras(MODEL, weights)
    assert str(info.value) == (
        "the mapping cannot be fitted to the model: 1 missing (bn2a_branch2b/moving_mean);"
        " 1 unexpected (scale2a_branch2b/gamma); 1 of another shape (res3b_branch2a/bias [5],"
        " not [8])"
    )


def test_two_nets_in_one_file():
    twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES)
    weights = {
        f"{net}/{name}": value for net in ("left", "right") for name, value in by_path(twin).items()
    }
    with pytest.raises(WeightsError) as info:
        from_keras(MODEL, weights)
    assert len(info.value.unexpected) == len(twin.weights)
    assert "right/conv1_conv/kernel" in info.value.unexpected
    left = {name: value for name, value in weights.items() if name.startswith("left")}
    assert_identical(from_keras(MODEL, left), from_keras(MODEL, by_path(twin)))
    bare = by_path(twin)
    for both in (bare | left, left | bare):
        with pytest.raises(WeightsError) as info:
            from_keras(MODEL, both)
        assert sorted(info.value.unexpected) == sorted(left)


@pytest.mark.parametrize("name", ["two.weights.h5", "two.keras", "two.h5"])
@pytest.mark.parametrize("skip_head", [False, True])
def test_a_file_of_two_towers_is_refused(name, skip_head, tmp_path):
    towers = [keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES) for _ in range(2)]
    images = keras.layers.Input((32, 32, 3))
    model = keras.Model(images, keras.layers.Concatenate()([tower(images) for tower in towers]))
    path = tmp_path / name
    (model.save_weights if name == "two.weights.h5" else model.save)(path)
    with pytest.raises(WeightsError, match="unexpected") as info:
        from_keras(MODEL, path, skip_head=skip_head)
    assert len(info.value.unexpected) == len(towers[1].weights) - (2 if skip_head else 0)


def test_all_layers_of_a_head_are_skipped():
    twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES)
    expected = from_keras(MODEL, by_path(twin), skip_head=True)
    weights = {name: value for name, value in by_path(twin).items() if "predictions" not in name}
    for layer in ("dense", "dense_1", "net/dense_2"):
        weights |= {f"{layer}/kernel": np.ones((32, 5)), f"{layer}/bias": np.ones(5)}
    assert_identical(from_keras(MODEL, weights, skip_head=True), expected)


def test_another_number_of_classes():
    twin = keras_twins.make_resnet(SIZES, WIDTHS, NUM_CLASSES)
    model = MODEL.clone(num_classes=3)
    with pytest.raises(WeightsError, match=r"predictions/kernel \[32, 7\], not \[32, 3\]"):
        from_keras(model, by_path(twin))
    variables = from_keras(model, by_path(twin), skip_head=True)
    assert variables["params"]["head"]["kernel"].shape == (32, 3)
    notop = {name: value for name, value in by_path(twin).items() if "predictions" not in name}
    assert_identical(from_keras(model, notop, skip_head=True), variables)


def test_the_stride_must_be_where_keras_has_it():
    with pytest.raises(WeightsError, match="create 'resnet50_v1'"):
        from_keras(create_model("resnet50"), {})
    with pytest.raises(WeightsError, match="call fold_batch_norm afterwards"):
        from_keras(MODEL.clone(folded=True), {})


def test_basic_blocks_in_keras_names():
    model, _ = small_pair("basic", stem="imagenet")
    assert model.block is BasicBlock
    with pytest.raises(WeightsError) as info:
        from_keras(model, {})
    assert "conv3_block1_0_conv/kernel" in info.value.missing
    assert "conv3_block1_3_conv/kernel" not in info.value.missing
