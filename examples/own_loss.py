"""A loss of your own, the focal loss, on images mixed in pairs (mixup), with soft targets.

    python train.py --config configs/fashion_mnist_demo.py --workdir runs/own_loss \
        --import examples/own_loss.py --config.loss=focal --config.batch_augmentation=mixup
    python -m resnet_jax evaluate --workdir runs/own_loss

Expect a test error of about 12 %, in the demo's time. The training error is that of the mixed
images, against the label with the larger share. `python examples/own_loss.py` mixes four images and
prints their targets.
"""

import jax
import jax.numpy as jnp
from jax import Array

from resnet_jax import data
from resnet_jax.training import register_batch_augmentation, register_loss

CLASSES = 10


@register_batch_augmentation("mixup")
def mixup(key: Array, images: Array, targets: Array) -> tuple[Array, Array]:
    """Mixes each image and its label with another one's (arXiv 1710.09412, alpha 0.2)."""
    share_key, order_key = jax.random.split(key)
    share = jax.random.beta(share_key, 0.2, 0.2)
    order = jax.random.permutation(order_key, len(images))
    soft = jax.nn.one_hot(targets, CLASSES)
    return (
        share * images + (1 - share) * images[order],
        share * soft + (1 - share) * soft[order],
    )


@register_loss("focal")
def focal(logits: Array, targets: Array) -> Array:
    """Returns the focal loss of each image (arXiv 1708.02002, gamma 2) for labels or shares."""
    soft = jax.nn.one_hot(targets, logits.shape[-1]) if targets.ndim == 1 else targets
    log_scores = jax.nn.log_softmax(logits)
    return -jnp.sum(soft * (1 - jnp.exp(log_scores)) ** 2 * log_scores, axis=-1)


def main() -> None:
    """Prints the targets of a mixed batch, and its loss for logits that prefer no class."""
    train = data.open_source("fashion_mnist_mini", "train[:4]")
    images = jnp.asarray(train.images) / 255
    images, targets = mixup(jax.random.key(1), images, jnp.asarray(train.labels))
    print(targets.round(2))
    print(focal(jnp.zeros([4, CLASSES]), targets))


if __name__ == "__main__":
    main()
