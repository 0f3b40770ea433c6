"""Features of a trained network for another head: clothes by a network that knows CIFAR-10.

    python examples/features.py [WORKDIR]

Expect a test error of about 19 % in a few seconds: the features of the pretrained ResNet-20, under
a linear classifier by least squares. With a work directory, those of its network, which must take
images of one channel.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import resnet_jax
from resnet_jax import data, training


def main(workdir: str | None = None, num_images: int = 5000) -> float:
    """Fits the classifier, prints its test error and returns it."""
    train = data.open_source("fashion_mnist_mini", f"train[:{num_images}]")
    test = data.open_source("fashion_mnist_mini", "test")
    if workdir is None:
        model, variables = resnet_jax.load_pretrained("resnet20_cifar10")
        channels = 3
        # Its recipe subtracted the mean training image.
        mean = np.repeat(train.images.mean(axis=0) / 255, channels, axis=-1)
        normalization = data.make_normalization("cifar", channels, mean)
    else:
        network = training.open_run(workdir).network
        model, variables, normalization = network.model, network.variables, network.normalization
        channels = 1

    @jax.jit
    def pooled(images: jax.Array) -> jax.Array:
        """Returns the mean over each of the stages' maps, `[n, 16 + 32 + 64]`."""
        images = normalization(jnp.repeat(images, channels, axis=-1))
        maps = model.apply(variables, images, train=False, method="features")
        stages = [maps[name] for name in maps if name.startswith("stage")]
        return jnp.concatenate([stage.mean(axis=(1, 2)) for stage in stages], axis=-1)

    def features(source: data.ArraySource) -> jax.Array:
        parts = np.split(source.images, range(500, len(source), 500))
        pooled_parts = [pooled(part) for part in parts]
        return jnp.concatenate(pooled_parts)

    inputs, targets = features(train), jax.nn.one_hot(train.labels, train.num_classes)
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    inputs = (inputs - mean) / deviation
    # Ridge regression: (X'X + I) W = X'Y.
    kernel = jnp.linalg.solve(inputs.T @ inputs + jnp.eye(len(mean)), inputs.T @ targets)
    bias = targets.mean(axis=0)
    scores = (features(test) - mean) / deviation @ kernel + bias
    error = float(jnp.mean(scores.argmax(axis=-1) != test.labels))
    print(f"test error {error:.1%} on {len(test)} images, by {len(mean)} features")
    return error


if __name__ == "__main__":
    main(*sys.argv[1:])
