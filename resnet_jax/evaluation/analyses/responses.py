"""Layer responses: the standard deviation of each 3x3 layer's output (the paper's Figure 7)."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from resnet_jax.data import EvalBatch, Normalization
from resnet_jax.errors import EvaluationError
from resnet_jax.evaluation.analyses.capture import capturing, without_remat
from resnet_jax.evaluation.analyses.moments import ImageMoments, Moments, image_moments
from resnet_jax.evaluation.network import Network, normalize
from resnet_jax.models import BatchNorm
from resnet_jax.runtime.devices import jit, replicate, shard_batch
from resnet_jax.runtime.pictures import add_legend, curve_style, new_figure, shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer_responses(network: Network, batches: Iterable[EvalBatch], mesh: Mesh) -> dict[str, float]:
    """Returns the standard deviation of each 3x3 layer's response, in the order of the layers.

    A response is a layer's output after batch normalisation, before the following activation or
    addition. Its deviation is over all images, positions and channels. The network normalises with
    its running statistics.

    Args:
      network: a network with batch normalisation.
      batches: batches of `data.eval_batches`.
      mesh: the devices.

    Returns:
      Layer (`stage1.block1.conv1`) → standard deviation. Bottlenecks have one 3x3 layer each; the
      7x7 layer of the ImageNet stem is not included.

    Raises:
      EvaluationError: the network has no 3x3 layer with batch normalisation.
    """
    variables, normalization = replicate((network.variables, network.normalization), mesh)
    names: list[str] = []
    moments: list[Moments] = []
    for batch in batches:
        images = shard_batch({"image": batch["image"]}, mesh)["image"]
        if not names:
            names = _layers(network, batch["image"].shape[1:])
            moments = [Moments() for _ in names]
        parts = _responses(network.model, variables, normalization, images)
        for total, part in zip(moments, parts, strict=True):
            total.add(part, batch["mask"])
    return {
        name: float(np.sqrt(total.variance)) for name, total in zip(names, moments, strict=True)
    }


@partial(jit, static_argnames="model")
def _responses(
    model: nn.Module,
    variables: Any,
    normalization: Normalization,
    images: UInt8[Array, "n h w c"],
) -> list[ImageMoments]:
    """Returns the moments of each layer's response to each image."""
    found = _find(model, variables, normalize(normalization, images))
    return [image_moments(response, over_channels=True) for response in found.values()]


def _layers(network: Network, image_shape: tuple[int, ...]) -> list[str]:
    images = jnp.zeros((1, *image_shape))
    names: list[str] = []
    # As a side effect, because JAX sorts the keys of a traced function's result.
    jax.eval_shape(lambda: names.extend(_find(network.model, network.variables, images)))
    if not names:
        raise EvaluationError(
            "the network has no 3x3 layer with batch normalisation; use the network before folding"
        )
    return names


def _find(model: nn.Module, variables: Any, x: Float[Array, "n h w c"]) -> dict[str, Array]:
    """Returns the outputs of the normalisations after 3x3 convolutions, in the order of calls."""
    found: dict[str, Array] = {}

    def note(module: nn.Module, _: Any, out: Array) -> None:
        *block, norm = module.path
        layer = (*block, norm.replace("bn", "conv"))
        params = variables["params"]
        for name in layer:
            params = params.get(name, {})
        if np.shape(params.get("kernel", 0))[:2] == (3, 3):
            found[".".join(layer)] = out

    with capturing(BatchNorm, note):
        # Arrays inside a rematerialised block cannot be kept.
        without_remat(model).apply(variables, x, train=False)
    return found


def format_responses(runs: Mapping[str, Mapping[str, float]]) -> str:
    """Formats responses as a table, in the order of the layers and sorted.

    Args:
      runs: name → result of `layer_responses`.

    Returns:
      A block of lines per run, without a trailing newline.
    """
    blocks = []
    for name, responses in runs.items():
        width = max(map(len, responses))
        ranked = sorted(responses.items(), key=lambda item: -item[1])
        lines = [
            f"{name}: standard deviations of {len(responses)} 3x3 layers,"
            f" mean {np.mean(list(responses.values())):.4f}",
            f"{'':>5}   {'layer':{width}}   deviation      {'sorted':{width}}   deviation",
        ]
        for index, (own, best) in enumerate(zip(responses.items(), ranked, strict=True), start=1):
            lines.append(
                f"{index:5}   {own[0]:{width}}   {own[1]:9.4f}"
                f"      {best[0]:{width}}   {best[1]:9.4f}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def plot_responses(
    runs: Mapping[str, Mapping[str, float]], output: str | Path | None = None
) -> "Figure":
    """Draws responses as in the paper's Figure 7: above in the order of layers, below sorted.

    Networks with "plain" in their names are dashed.

    Args:
      runs: name → result of `layer_responses`.
      output: path to write the picture to, or None; its suffix (`.png`, `.pdf`, `.svg`) selects the
        format.

    Returns:
      The figure, which displays itself in a notebook.

    Raises:
      OSError: the picture cannot be written.
      ValueError: matplotlib does not write this format.
    """
    figure = new_figure(figsize=(6.4, 5.6), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1)
    for index, (name, responses) in enumerate(runs.items()):
        values = list(responses.values())
        style: dict[str, Any] = {
            **curve_style(index),
            "linestyle": "--" if "plain" in name else "-",
            "linewidth": 1.5,
            "markersize": 3,
        }
        if len(values) > 60 and index < 10:
            style["marker"] = None
        layers = range(1, len(values) + 1)
        above.plot(layers, values, label=name, **style)
        below.plot(layers, sorted(values, reverse=True), **style)
    for axes, label in ((above, "layer"), (below, "layers, sorted by their response")):
        axes.set_xlabel(label)
        axes.set_ylabel("standard deviation")
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    add_legend(above, list(map(shown_name, runs)))
    if output is not None:
        figure.savefig(output)
    return figure
