"""ResNet-1202 on CIFAR-10, the paper's recipe: 7.93 % test error in its Table 6.

Usage, with TFDS's `cifar10` in DIR; append `:45k` to the file name to hold out 5,000 images:

    python train.py --config configs/cifar10_resnet1202.py --workdir runs/cifar10_resnet1202 \
        --config.data_dir=DIR

The learning rate is 0.01 until the training error is below 80 %, then 0.1 as for the others.
The backward pass recomputes activations (`remat`); otherwise, they would not fit in memory.
"""

from ml_collections import ConfigDict

from configs.recipes.cifar10_paper import cifar10_paper


def get_config(split: str = "50k") -> ConfigDict:
    """Returns the experiment; `split` is `"50k"` or `"45k"`."""
    config = cifar10_paper("resnet1202_cifar", split)
    config.warmup_learning_rate = 0.01
    config.warmup_until_error = 0.8
    config.remat = True
    return config
