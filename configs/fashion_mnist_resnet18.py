"""ResNet-18 with a stem for small images on Fashion-MNIST.

    python train.py --config configs/fashion_mnist_resnet18.py --workdir runs/resnet18 \
        --config.data_dir=DIR

DIR holds TFDS's `fashion_mnist`. The network is the ImageNet one (11.2 million parameters) with one
input channel, a 3x3 stem and no pooling before the first stage. On 20,000 of the training images,
with one device per core of two CPU cores, it reaches 6.9 % test error in an hour and three quarters
(docs/results/fashion_mnist.md).
"""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()

    config.model = "resnet18"
    config.model_options.stem = "cifar"

    config.dataset = "fashion_mnist"
    config.train_split = "train"
    config.eval_split = "test"
    config.augmentation = "cifar"
    config.preprocess = "cifar"

    config.batch_size = 128
    config.num_epochs = 30.0
    config.learning_rate = 0.1
    config.schedule = "cosine"
    config.warmup_epochs = 1.0
    config.weight_decay = 5e-4

    config.log_every = 50
    config.eval_every_epochs = 1.0
    return config
