"""Layer responses: how strongly each 3x3 layer of a network answers (the paper's Figure 7)."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from ..data import EvalBatch, Normalization
from ..models import BatchNorm
from ..parallel import jit, replicate, shard_batch
from .errors import EvaluationError
from .moments import ImageMoments, Moments, image_moments
from .network import Network, normalize
from .watching import watching


def layer_responses(network: Network, batches: Iterable[EvalBatch], mesh: Mesh) -> dict[str, float]:
    """Returns the standard deviation of each 3x3 layer's response, in the order of the layers.

    A response is a layer's output after batch normalisation and before what follows, an activation
    or an addition. Its deviation is over all images, positions and channels. The network
    normalises with its running statistics.

    Args:
      network: with batch normalisation.
      batches: of `data.eval_batches`.
      mesh: the devices.

    Returns:
      Layer (`stage1.block1.conv1`) → standard deviation. Bottlenecks have one 3x3 layer each; the
      7x7 layer of the ImageNet stem is none.

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
    """The moments of each layer's response to each image."""
    found = _find(model, variables, normalize(normalization, images))
    return [image_moments(response, over_channels=True) for response in found.values()]


def _layers(network: Network, image_shape: tuple[int, ...]) -> list[str]:
    images = jnp.zeros((1, *image_shape))
    names: list[str] = []
    # By the way, for JAX sorts the keys of what a traced function returns.
    jax.eval_shape(lambda: names.extend(_find(network.model, network.variables, images)))
    if not names:
        raise EvaluationError(
            "the network has no 3x3 layer with batch normalisation; take it as it was before it "
            "was folded"
        )
    return names


def _find(model: nn.Module, variables: Any, x: Float[Array, "n h w c"]) -> dict[str, Array]:
    """The outputs of the normalisations behind 3x3 convolutions, in the order of the calls."""
    found: dict[str, Array] = {}

    def note(module: nn.Module, _: Any, out: Array) -> None:
        *block, norm = module.path
        layer = (*block, norm.replace("bn", "conv"))
        params = variables["params"]
        for name in layer:
            params = params[name]
        if params["kernel"].shape[:2] == (3, 3):
            found[".".join(layer)] = out

    with watching(BatchNorm, note):
        # What happens inside of a rematerialised block cannot be kept.
        model.clone(remat=False).apply(variables, x, train=False)
    return found


def format_responses(runs: Mapping[str, Mapping[str, float]]) -> str:
    """Lays out responses as a table: in the order of the layers, and sorted.

    Args:
      runs: name → what `layer_responses` returns.

    Returns:
      A block of lines for each run; no line end after the last.
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


def plot_responses(runs: Mapping[str, Mapping[str, float]], output: str | Path) -> None:
    """Draws responses as the paper's Figure 7: above in the order of the layers, below sorted.

    Plain networks, whose names hold "plain", are dashed.

    Args:
      runs: name → what `layer_responses` returns.
      output: the picture's path; its ending (`.png`, `.pdf`, `.svg`) names the format.

    Raises:
      OSError: the picture cannot be written.
      ValueError: its ending names no format that matplotlib writes.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1)
    for index, (name, responses) in enumerate(runs.items()):
        values = list(responses.values())
        style: dict[str, Any] = {
            "color": colormaps["tab10"](index % 10),
            "linestyle": "--" if "plain" in name else "-",
            "linewidth": 1.5,
            "marker": "o" if len(values) <= 60 else None,
            "markersize": 3,
        }
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
    above.legend(framealpha=0.85, edgecolor="none", handlelength=2.6)
    figure.savefig(output)
