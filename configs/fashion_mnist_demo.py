"""ResNet-20 on the 6,000 bundled Fashion-MNIST images: nothing to download.

    python train.py --config configs/fashion_mnist_demo.py --workdir runs/demo

Expect a test error of about 12 % (at most 13 %) on the 1,000 bundled test images, in less than 90
seconds on two cores.
"""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()

    config.model = "resnet20_cifar"

    config.dataset = "fashion_mnist_mini"
    config.train_split = "train"
    config.eval_split = "test"
    config.augmentation = "none"
    config.preprocess = "cifar"

    config.batch_size = 64
    config.num_steps = 560
    config.learning_rate = 0.1
    config.schedule = "cosine"
    config.warmup_steps = 50
    config.weight_decay = 1e-3

    config.log_every = 20
    config.eval_every = 80
    config.checkpoint_every = 80
    return config
