"""ResNet-34 on ImageNet, the paper's recipe: 24.52 % top-1 error (10-crop, shortcut B) in Table 3.

Usage, with TFDS's `imagenet2012` in DIR (not run to its end by us):

    python train.py --config configs/resnet34_imagenet_paper.py --workdir runs/resnet34 \
        --config.data_dir=DIR

Shortcut A, as in the paper's Table 2: `--config.model_options.shortcut=A`; here B.
"""

from ml_collections import ConfigDict

from configs.recipes.imagenet_paper import imagenet_paper


def get_config() -> ConfigDict:
    """Returns the experiment."""
    return imagenet_paper("resnet34")
