"""ResNet-20 on CIFAR-10, the paper's recipe: 8.75 % test error in its Table 6, 8.74 % by us (45k).

Usage, with TFDS's `cifar10` in DIR; `:45k` behind the file's name sets 5,000 images apart:

    python train.py --config configs/cifar10_resnet20.py --workdir runs/cifar10_resnet20 \
        --config.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs.recipes.cifar10_paper import cifar10_paper


def get_config(split: str = "50k") -> ConfigDict:
    """Returns the experiment; `split` is `"50k"` or `"45k"`."""
    return cifar10_paper("resnet20_cifar", split)
