"""Trains ResNet-18 on your own photographs, from scratch: no weights are needed.

    python train.py --config configs/folder.py --workdir runs/folder --config.dataset=DATA

DATA is a folder with `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, a folder with `CLASS/*.jpg`, or a
table (`.csv`, `.parquet`) of files and labels; without a split of its own for the evaluation, add
`--config.train_split='train[:80%]' --config.eval_split='train[80%:]'`. The error depends on the
images; with fewer than about a thousand per class, fine-tuning (`configs/finetune_folder.py`) is
better.
"""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()

    config.model = "resnet18"
    config.model_options.zero_init_residual = True

    config.dataset = "DATA"
    config.train_split = "train"
    config.eval_split = "val"
    config.image_size = 160
    config.channels = 3
    config.augmentation = "imagenet"
    config.preprocess = "torchvision"

    config.batch_size = 64
    config.num_epochs = 90.0
    config.learning_rate = 0.1
    config.learning_rate_batch_size = 256
    config.schedule = "cosine"
    config.warmup_epochs = 5.0
    config.weight_decay = 1e-4
    config.label_smoothing = 0.1

    config.log_every = 10
    config.eval_every_epochs = 1.0
    return config
