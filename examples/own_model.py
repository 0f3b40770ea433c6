"""A network of your own: ResNet-20 with the stem of ResNet-D, three 3x3 convolutions and a pool.

    python train.py --config configs/fashion_mnist_demo.py --workdir runs/own_model \
        --import examples/own_model.py --config.model=resnet20d_cifar
    python -m resnet_jax evaluate --workdir runs/own_model --import examples/own_model.py \
        --recompute_batch_norm 2000
    python examples/own_model.py runs/own_model

Expect a test error of about 11 %, in less time than the demo takes. The last command folds batch
normalisation into the convolutions, and says whether the weights can go to PyTorch.
"""

import sys
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

import resnet_jax
from resnet_jax import data, training
from resnet_jax.models import BasicBlock, ResNet


class DeepStem(nn.Module):
    """Three 3x3 convolutions and a max pool (Bag of Tricks, arXiv 1812.01187, Figure 2c)."""

    conv: Any  # (features, kernel_size, stride) -> a convolution
    norm: Any  # () -> a normalisation
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns a map of half the images' height and width."""
        widths = (self.features // 2, self.features // 2, self.features)
        for index, width in enumerate(widths, start=1):
            # "bn1" follows "conv1": by these names batch normalisation is folded.
            x = self.conv(width, 3, 1, name=f"conv{index}")(x)
            x = nn.relu(self.norm(name=f"bn{index}")(x))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@resnet_jax.register_model("resnet20d_cifar")
def resnet20d_cifar(num_classes: int, **options: Any) -> ResNet:
    """Returns the network; `options` are `dtype`, `norm_axis_name` and what else a run sets."""
    return ResNet(
        stage_sizes=(3, 3, 3),
        stage_widths=(16, 32, 64),
        block=BasicBlock,
        stem=DeepStem,
        shortcut="A",
        num_classes=num_classes,
        **options,
    )


def main(workdir: str) -> None:
    """Folds the batch normalisation of a trained network, and converts it to PyTorch."""
    run = training.open_run(workdir)
    model, variables = run.network.model, run.network.variables
    test = data.open_source(run.config.dataset, run.config.eval_split)
    images = run.network.normalization(jnp.asarray(test.images[:16]))
    logits = model.apply(variables, images)
    folded, folded_variables = resnet_jax.fold_batch_norm(model, variables)
    difference = jnp.abs(folded.apply(folded_variables, images) - logits).max()
    print(f"folded: no logit differs by more than {difference:.1e}")
    try:
        print(f"to PyTorch: {len(resnet_jax.to_torch(model, variables))} tensors")
    except resnet_jax.WeightsError as error:
        print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
