"""ResNet-34 on ImageNet, the paper's recipe: 24.52 % top-1 error (10-crop, shortcut B) in Table 3.

Usage, with TFDS's `imagenet2012` in DIR (we have not run it to its end):

    python train.py --config configs/resnet34_imagenet_paper.py --workdir runs/resnet34 \
        --config.data_dir=DIR

For shortcut A, as in the paper's Table 2, add `--config.model_options.shortcut=A`.
"""

from ml_collections import ConfigDict

from configs.recipes.imagenet_paper import imagenet_paper


def get_config() -> ConfigDict:
    """Returns the experiment."""
    return imagenet_paper("resnet34")
