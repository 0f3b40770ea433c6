"""ResNet-50 on ImageNet: 90 epochs, warm-up, cosine, label smoothing, decay of kernels only.

    python train.py --config configs/resnet50_imagenet.py --workdir runs/resnet50 \
        --config.data_dir=DIR [--config.batch_size=1024]

DIR holds TFDS's `imagenet2012`. The learning rate is 0.1 for 256 images per step and scales with
the batch. Published runs of this recipe reach about 24 % top-1 error (76 % accuracy) on the centre
crop; we have not run this file to its end.
"""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()

    config.model = "resnet50"
    config.model_options.zero_init_residual = True

    config.dataset = "imagenet2012"
    config.train_split = "train"
    config.eval_split = "validation"
    config.image_size = 224
    config.augmentation = "imagenet"
    config.preprocess = "torchvision"

    config.batch_size = 256
    config.num_epochs = 90.0
    config.learning_rate = 0.1
    config.learning_rate_batch_size = 256
    config.schedule = "cosine"
    config.warmup_epochs = 5.0
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.decay_scales_and_biases = False
    config.label_smoothing = 0.1

    config.log_every = 100
    config.eval_every_epochs = 1.0
    config.checkpoint_every = 1000
    return config
