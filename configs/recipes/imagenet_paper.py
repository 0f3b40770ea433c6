"""The paper's ImageNet recipe (Section 3.4), shared by all `*_imagenet_paper.py`."""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def imagenet_paper(model: str) -> ConfigDict:
    """Returns the recipe for one of the ImageNet networks.

    The paper divides the learning rate by 10 "when the error plateaus"; here, that is after three
    consecutive evaluations, 5,000 steps apart, without a new lowest validation error.
    """
    config = default_config()

    config.model = model

    config.dataset = "imagenet2012"
    config.train_split = "train"
    config.eval_split = "validation"
    config.image_size = 224
    config.augmentation = "imagenet_paper"
    config.color_augmentation = "pca"
    config.preprocess = "per_pixel_mean"

    config.batch_size = 256
    config.num_steps = 600_000
    config.learning_rate = 0.1
    config.schedule = "plateau"
    config.plateau_patience = 2
    config.decay_factor = 0.1
    config.momentum = 0.9
    config.weight_decay = 1e-4

    config.log_every = 100
    config.eval_every = 5000
    config.checkpoint_every = 1000
    return config
