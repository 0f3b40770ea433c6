"""Fine-tunes an ImageNet network on a folder of images.

    python train.py --config configs/finetune_folder.py --workdir runs/finetune \
        --config.dataset=FOLDER --config.init_from=WEIGHTS

FOLDER holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`; WEIGHTS is a ResNet-50 weights file
(`.safetensors`, `.pth`, `.h5`, ...) or a work directory. A new classifier with as many outputs as
FOLDER has classes replaces the old one. The error depends on the images.
"""

from ml_collections import ConfigDict

from resnet_jax.training import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()

    config.model = "resnet50"
    config.skip_head = True
    config.init_from = "WEIGHTS"

    config.dataset = "FOLDER"
    config.train_split = "train"
    config.eval_split = "val"
    config.image_size = 224
    config.channels = 3
    config.augmentation = "imagenet"
    config.preprocess = "weights"

    config.batch_size = 64
    config.num_epochs = 10.0
    config.learning_rate = 0.01
    config.schedule = "cosine"
    config.warmup_epochs = 0.5
    config.weight_decay = 1e-4

    config.log_every = 10
    config.eval_every_epochs = 1.0
    return config
