"""Keras's ResNets, on the JAX back end: small ones with either naming, and random weights."""

import os
from pathlib import Path

import numpy as np

# Read when Keras is imported; it writes a configuration file in its home.
os.environ["KERAS_BACKEND"] = "jax"
os.environ["KERAS_HOME"] = str(Path(__file__).parents[2] / ".cache" / "keras")

import keras  # noqa: E402
from keras import layers  # noqa: E402


def new_names(stage, block, part):
    """Returns the names of a convolution and its normalisation; part 0 is the shortcut."""
    name = f"conv{stage}_block{block}_{part}"
    return f"{name}_conv", f"{name}_bn"


def old_names(stage, block, part):
    name = f"{stage}{chr(ord('a') + block - 1)}_branch{'1' if part == 0 else '2' + 'abc'[part - 1]}"
    return f"res{name}", f"bn{name}"


def numbered_names(stage, block, part):
    """The authors' names in their deeper networks: a, b1, b2, ..."""
    letter = "a" if block == 1 else f"b{block - 1}"
    name = f"{stage}{letter}_branch{'1' if part == 0 else '2' + 'abc'[part - 1]}"
    return f"res{name}", f"bn{name}"


def make_resnet(stage_sizes, widths, num_classes, naming=new_names, channels=3):
    """Returns a bottleneck net with the stride on the first 1x1, biases, and Keras's epsilon."""
    is_new = naming is new_names
    stem = ("conv1_conv", "conv1_bn") if is_new else ("conv1", "bn_conv1")
    options = {"epsilon": 1.001e-5} if is_new else {}

    def conv(x, names, features, size=1, stride=1, padding="valid"):
        x = layers.Conv2D(features, size, stride, padding, name=names[0])(x)
        return layers.BatchNormalization(name=names[1], **options)(x)

    images = layers.Input((None, None, channels))
    x = conv(layers.ZeroPadding2D(3)(images), stem, widths[0], 7, 2)
    x = layers.ZeroPadding2D(1)(layers.ReLU()(x))
    x = layers.MaxPooling2D(3, 2)(x)
    for stage, (size, width) in enumerate(zip(stage_sizes, widths, strict=True), start=2):
        for block in range(1, size + 1):
            stride = 2 if stage > 2 and block == 1 else 1
            y = layers.ReLU()(conv(x, naming(stage, block, 1), width, 1, stride))
            y = layers.ReLU()(conv(y, naming(stage, block, 2), width, 3, padding="same"))
            if block == 1:
                x = conv(x, naming(stage, block, 0), 4 * width, 1, stride)
            y = conv(y, naming(stage, block, 3), 4 * width)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(num_classes, name="predictions" if is_new else "fc1000")(x)
    return randomise(keras.Model(images, logits), seed=0)


def randomise(model, seed):
    """Gives a model random weights, biases and statistics, as `torch_twins.randomise` does."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        is_last = layer.name.endswith(("_3_bn", "branch2c"))
        values = {
            "kernel": lambda shape: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape),
            "gamma": lambda shape, high=0.6 if is_last else 1.5: rng.uniform(high / 3, high, shape),
            "moving_variance": lambda shape: rng.uniform(0.01, 2.0, shape),
        }
        for weight in layer.weights:
            value = values.get(weight.name, lambda shape: rng.normal(0, 0.3, shape))
            weight.assign(value(weight.shape))
    return model


def numbered_arrays(stage_sizes, num_classes, naming):
    """Returns arrays under the names of a net of full width; kernels hold the number of the block,
    normalisations that of the convolution before them."""
    conv, norm, head = ("conv1", "bn_conv1", "fc1000")
    if naming is new_names:
        conv, norm, head = ("conv1_conv", "conv1_bn", "predictions")
    arrays = {
        f"{head}/kernel": np.zeros((2048, num_classes)),
        f"{head}/bias": np.zeros(num_classes),
    }

    def add(conv, norm, shape, block, part):
        arrays[f"{conv}/kernel"] = np.full(shape, block, np.float32)
        for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            arrays[f"{norm}/{kind}"] = np.full(shape[-1], part, np.float32)

    add(conv, norm, (7, 7, 3, 64), 0, 0)
    for stage, size in enumerate(stage_sizes, start=2):
        width = 2 ** (stage + 4)
        for block in range(1, size + 1):
            channels = (64 if stage == 2 else 2 * width) if block == 1 else 4 * width
            if block == 1:
                add(*naming(stage, block, 0), (1, 1, channels, 4 * width), block, 0)
            add(*naming(stage, block, 1), (1, 1, channels, width), block, 1)
            add(*naming(stage, block, 2), (3, 3, width, width), block, 2)
            add(*naming(stage, block, 3), (1, 1, width, 4 * width), block, 3)
    return arrays


def logits(model, images):
    return np.asarray(model.predict(images, verbose=0))
