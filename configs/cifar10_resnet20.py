"""ResNet-20 on CIFAR-10, the paper's recipe (Section 4.2): 8.75 % test error in its Table 6.

    python train.py --config configs/cifar10_resnet20.py --workdir runs/cifar10_resnet20 \
        --config.data_dir=DIR

DIR holds TFDS's `cifar10`. This trains on all 50,000 images and reports the test error as it goes.
With the paper's split into 45,000 for training and 5,000 for validation, which leaves the test
images alone:

    --config configs/cifar10_resnet20.py:45k
"""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def get_config(split: str = "50k") -> ConfigDict:
    """Returns the experiment; `split` is `"50k"` or `"45k"`."""
    config = default_config()

    config.model = "resnet20_cifar"

    config.dataset = "cifar10"
    if split == "45k":
        config.train_split = "train[:45000]"
        config.eval_split = "train[45000:]"
    elif split == "50k":
        config.train_split = "train"
        config.eval_split = "test"
    else:
        raise ValueError(f"split must be 45k or 50k, not {split!r}")
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
