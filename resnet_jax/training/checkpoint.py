"""Checkpoints through Orbax: the whole state, the data's position and the last evaluation."""

import itertools
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from .config import ConfigError
from .digest import MARK, find_damage, find_steps, write_sums
from .state import TrainState

METRIC = "top1_error"
"""What decides which checkpoint is the best: the lowest evaluation error."""


class Checkpoints:
    """The checkpoints of a work directory, `checkpoints/STEP/`.

    Kept are the newest `keep` and the one with the lowest evaluation error. Each is written under
    another name, gets the digests of its files and is renamed.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens the checkpoints in `directory` (absolute), which is made if it is not there."""
        policies = checkpoint_managers
        self._directory, self._saving = directory, 0
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(
                            get_metric_fn=lambda metrics: metrics[METRIC],
                            reverse=True,
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                # The policy decides, but without these the errors are not written beside the
                # states, and a run that is taken up again forgets which was the best.
                best_fn=lambda metrics: metrics[METRIC],
                best_mode="min",
                cleanup_tmp_directories=True,
                # Called on the first host when all files are there, before the renaming.
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sums),
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        data_position: dict[str, Any],
        metrics: dict[str, float] | None,
    ) -> None:
        """Writes a checkpoint in the background, once; the state may be donated right after.

        Args:
          step: number of updates done.
          state: the state after them.
          data_position: what the data iterator says of its position after them.
          metrics: the evaluation at this step, if there was one.
        """
        if step in self._manager.all_steps():
            return
        self._manager.wait_until_finished()
        self._saving = step
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data_position | MARK),
            ),
            metrics=metrics,
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns the state and the data's position at `step`.

        Args:
          step: of a checkpoint that is there.
          like: a state of the same structure; what is restored takes its shapes and shardings.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.data

    def _write_sums(self) -> None:
        (unfinished,) = self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        write_sums(unfinished)

    def close(self) -> None:
        """Waits for the last checkpoint to be complete."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def set_damaged_aside(directory: Path) -> list[str]:
    """Renames damaged checkpoints to `STEP.damaged`, so that the newest good one is the newest.

    Args:
      directory: a work directory's `checkpoints`.

    Returns:
      A line for each, which says what is wrong with it.

    Raises:
      ConfigError: there is no good one; all are left as they are.
      OSError: one cannot be renamed.
    """
    steps = find_steps(directory)
    damage = {step: text for step in steps if (text := find_damage(directory / str(step)))}
    good = [step for step in steps if step not in damage]
    if damage and not good:
        raise no_good_one(directory, damage)
    lines = []
    for step, text in damage.items():
        aside = _free_name(directory / f"{step}.damaged")
        (directory / str(step)).rename(aside)
        lines.append(
            f"checkpoint {step} is damaged ({text}): it is now {aside.name}; the newest good one "
            f"is {good[-1]}"
        )
    return lines


def no_good_one(directory: Path, damage: dict[int, str]) -> ConfigError:
    """Returns the error that says that all checkpoints are damaged, and what the newest has."""
    newest = max(damage)
    return ConfigError(
        f"all checkpoints in {directory} are damaged: {newest} ({damage[newest]})"
        + "".join(f", {step}" for step in sorted(damage, reverse=True)[1:4])
        + "; nothing was changed; put a copy back, or choose another --workdir"
    )


def _free_name(path: Path) -> Path:
    names = itertools.chain([path], (path.with_name(f"{path.name}{n}") for n in itertools.count(2)))
    return next(name for name in names if not name.exists())
