"""Print and draw the learning rate of each step of a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from resnet_jax.commands import _recipes
from resnet_jax.commands._arguments import picture_file
from resnet_jax.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

USAGE = """\
usage: python -m resnet_jax schedule --config FILE|NAME|RUN [--config.KEY=VALUE ...]
           [--step N ...] [--train_size N] [--output FILE.png] [--import FILE|MODULE ...]

Prints the learning rate of some steps, and draws that of all. It ignores the effect of errors: the
plateau schedule and the warm-up until an error.

  --config ...      a recipe's file or name, or the config.json of a run
  --step N          a step, from 1; may be repeated (by default the steps where it changes)
  --train_size N    images in the training split, for lengths in epochs (the data set is opened)
  --output FILE.png the picture to write
"""

_SHOWN = 20


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax schedule --config FILE|NAME`.

    Args:
      argv: the arguments after `schedule`.

    Raises:
      ConfigError, DataError, UsageError: there is no such recipe, data set or step.
    """
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return
    values = _recipes.new_flags()
    flags.DEFINE_multi_integer("step", [], "Steps to print.", flag_values=values)
    flags.DEFINE_integer("train_size", None, "Training images.", flag_values=values)
    flags.DEFINE_string("output", None, "The picture.", flag_values=values)
    config, _ = _recipes.parse(values, argv)
    output = values["output"].value and picture_file(values["output"].value)

    # Not at the top: it takes seconds, and usage errors appear at once.
    import jax
    import jax.numpy as jnp
    import numpy as np

    from resnet_jax.runtime.pictures import drawing
    from resnet_jax.training.lengths import lengths
    from resnet_jax.training.optimizer import make_learning_rate, training_size

    size = values["train_size"].value or training_size(config)
    num_steps, _ = lengths(config, size)
    rate = make_learning_rate(config, size)
    rates = np.asarray(
        jax.jit(jax.vmap(rate, in_axes=(0, None)))(jnp.arange(num_steps), rate.start())
    )
    steps = values["step"].value or _interesting(rates)
    for step in steps:
        if not 1 <= step <= num_steps:
            raise UsageError(f"--step={step} is not one of the run's steps, 1 to {num_steps}")
        print(f"step {step:{len(str(num_steps))}}/{num_steps}  {rates[step - 1]:.6g}")
    if output:
        with drawing(output):
            _draw(rates, output)
        print(output)


def _interesting(rates: "np.ndarray") -> list[int]:
    """Returns the first and last step and those where the rate changes, or evenly spaced ones."""
    import numpy as np

    changes = np.flatnonzero(np.diff(rates)) + 2
    if len(changes) > _SHOWN:
        changes = np.linspace(1, len(rates), _SHOWN).round().astype(int)
    return sorted({1, len(rates), *changes.tolist()})


def _draw(rates: "np.ndarray", output: Path) -> None:
    from resnet_jax.runtime.pictures import new_figure

    figure = new_figure(figsize=(6.4, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(1, len(rates) + 1), rates, drawstyle="steps-mid")
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(output)
