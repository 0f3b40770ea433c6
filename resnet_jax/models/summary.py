"""Summaries of networks: outputs, parameters and multiply-adds per stage (Table 1)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.checks import check_count
from resnet_jax.models.images import image_sides
from resnet_jax.models.layers import Conv
from resnet_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class StageSummary:
    """One line of the table of a network's stages.

    Attributes:
      name: "stem", "stage1", ... or "head".
      num_blocks: number of residual blocks; 0 for stem and head.
      output_shape: (height, width, channels) of the stage's map, (num_classes,) of the head. The
        stem's is the map before the max pool, as `features` returns it.
      num_parameters: number of trainable parameters: kernels, biases, and the scales and biases
        of batch normalisation; without running statistics.
      num_multiply_adds: multiply-adds per image; see `count_multiply_adds`.
    """

    name: str
    num_blocks: int
    output_shape: tuple[int, ...]
    num_parameters: int
    num_multiply_adds: int


def summarize(
    model: ResNet, image_size: int | tuple[int, int] | None = None, channels: int = 3
) -> list[StageSummary]:
    """Returns the network's stages from the stem to the head, with their sizes and costs.

    It computes and allocates nothing: the network is only traced with shapes.

    Args:
      model: a model of `create_model`.
      image_size: height and width of the images, or one number for both; by default the paper's:
        224, or 32 for the "cifar" stem.
      channels: number of channels of the images.

    Raises:
      ModelError: a size is not an integer of at least 1.
    """
    height, width = image_sides(model, image_size)
    check_count("channels", channels)
    shapes: dict[str, tuple[int, ...]] = {}
    multiply_adds: dict[tuple[str, ...], int] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        if isinstance(module, Conv | nn.Dense) and context.method_name == "__call__":
            kernel = module.variables["params"]["kernel"]
            # Each output element is a sum over all of the kernel's axes but the last.
            multiply_adds[module.path] = output.size * math.prod(kernel.shape[:-1])
        elif context.method_name == "features":
            shapes.update((name, value.shape[1:]) for name, value in output.items())
        return output

    images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    with nn.intercept_methods(watch):
        params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return [
        StageSummary(
            name=name,
            num_blocks=sum(part.startswith("block") for part in params[name]),
            output_shape=shape,
            num_parameters=_size_of(params[name]),
            num_multiply_adds=sum(
                number for path, number in multiply_adds.items() if path[0] == name
            ),
        )
        for name, shape in {**shapes, "head": (model.num_classes,)}.items()
    ]


def count_parameters(model: ResNet, channels: int = 3) -> int:
    """Returns the number of a network's parameters, without running statistics.

    Args:
      model: a model of `create_model`.
      channels: number of channels of the images.
    """
    return sum(stage.num_parameters for stage in summarize(model, channels=channels))


def count_multiply_adds(
    model: ResNet, image_size: int | tuple[int, int] | None = None, channels: int = 3
) -> int:
    """Returns the number of multiply-adds for the logits of one image.

    It counts convolutions (including shortcuts and products with the padding's zeros) and the
    classifier, but not batch normalisation, activations, additions and pooling. The paper counts
    in the same way: the numbers equal Table 1 to its two digits, with option A for 18 and 34 layers
    and the "_v1" networks (it truncates 3.858e9 for 50 layers to 3.8e9).

    Args:
      model: a model of `create_model`.
      image_size: height and width of the images, or one number for both; by default 224, or 32
        for the "cifar" stem.
      channels: number of channels of the images.
    """
    return sum(stage.num_multiply_adds for stage in summarize(model, image_size, channels))


def format_summary(stages: Sequence[StageSummary]) -> str:
    """Formats the stages and their totals as a table, without a trailing newline."""
    total = StageSummary(
        name="total",
        num_blocks=sum(stage.num_blocks for stage in stages),
        output_shape=(),
        num_parameters=sum(stage.num_parameters for stage in stages),
        num_multiply_adds=sum(stage.num_multiply_adds for stage in stages),
    )
    header = ("stage", "blocks", "output", "parameters", "multiply-adds")
    rows = [
        (
            stage.name,
            str(stage.num_blocks or ""),
            " x ".join(map(str, stage.output_shape)),
            f"{stage.num_parameters:,}",
            f"{stage.num_multiply_adds:,}",
        )
        for stage in (*stages, total)
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _size_of(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
