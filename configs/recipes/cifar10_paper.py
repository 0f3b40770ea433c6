"""The paper's CIFAR-10 recipe (Section 4.2), shared by all `cifar10_*.py`."""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def cifar10_paper(model: str, split: str) -> ConfigDict:
    """Returns the recipe for one of the CIFAR networks.

    Args:
      model: the network's name.
      split: `"50k"` trains on all 50,000 training images and evaluates on the test images;
        `"45k"` is the paper's split into 45,000 for training and 5,000 for validation, which does
        not use the test images.
    """
    if split not in ("45k", "50k"):
        raise ValueError(f"the split must be 45k or 50k, not {split!r}")
    config = default_config()

    config.model = model

    config.dataset = "cifar10"
    config.train_split = "train" if split == "50k" else "train[:45000]"
    config.eval_split = "test" if split == "50k" else "train[45000:]"
    config.augmentation = "cifar"
    config.preprocess = "cifar"

    config.batch_size = 128
    config.num_steps = 64_000
    config.learning_rate = 0.1
    config.schedule = "step"
    config.boundaries = (32_000, 48_000)
    config.decay_factor = 0.1
    config.momentum = 0.9
    config.weight_decay = 1e-4

    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 500
    return config
