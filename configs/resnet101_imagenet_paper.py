"""ResNet-101 on ImageNet, the paper's recipe: 21.75 % top-1 error (10-crop) in Table 3.

Usage, with TFDS's `imagenet2012` in DIR (we have not run it to its end):

    python train.py --config configs/resnet101_imagenet_paper.py --workdir runs/resnet101 \
        --config.data_dir=DIR

The stride is on a block's first 1x1 convolution, as in the paper.
"""

from ml_collections import ConfigDict

from configs.recipes.imagenet_paper import imagenet_paper


def get_config() -> ConfigDict:
    """Returns the experiment."""
    return imagenet_paper("resnet101_v1")
