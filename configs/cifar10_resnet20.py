"""ResNet-20 on CIFAR-10, the paper's recipe: 8.75 % test error in its Table 6, ours 8.74 % (45k).

Usage, with TFDS's `cifar10` in DIR; append `:45k` to the file name to hold out 5,000 images:

    python train.py --config configs/cifar10_resnet20.py --workdir runs/cifar10_resnet20 \
        --config.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs.recipes.cifar10_paper import cifar10_paper


def get_config(split: str = "50k") -> ConfigDict:
    """Returns the experiment; `split` is `"50k"` or `"45k"`."""
    return cifar10_paper("resnet20_cifar", split)
