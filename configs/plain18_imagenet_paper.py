"""Plain-18 on ImageNet, the paper's recipe: 27.94 % top-1 error (10-crop) in Table 2.

Usage, with TFDS's `imagenet2012` in DIR (we have not run it to its end):

    python train.py --config configs/plain18_imagenet_paper.py --workdir runs/plain18 \
        --config.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs.recipes.imagenet_paper import imagenet_paper


def get_config() -> ConfigDict:
    """Returns the experiment."""
    return imagenet_paper("plain18")
