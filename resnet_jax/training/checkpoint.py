"""Checkpoints through Orbax: the whole state, the data's position and the last evaluation."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from .config import ConfigError
from .state import TrainState

METRIC = "top1_error"
"""What decides which checkpoint is the best: the lowest evaluation error."""


class Checkpoints:
    """The checkpoints of a work directory, `checkpoints/STEP/`.

    Kept are the newest `keep` and the one with the lowest evaluation error. Each is written under
    another name and renamed when it is complete.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens the checkpoints in `directory` (absolute), which is made if it is not there."""
        policies = checkpoint_managers
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
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data_position),
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

    def close(self) -> None:
        """Waits for the last checkpoint to be complete."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_variables(directory: Path, step: int | None = None) -> dict[str, Any]:
    """Returns what a checkpoint would be evaluated with: `{"params", "batch_stats"}`, on the host.

    Args:
      directory: a work directory's `checkpoints`.
      step: which; the newest if not given.

    Raises:
      ConfigError: there is none.
    """
    steps = sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdecimal())
    if not steps or (step is not None and step not in steps):
        which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise ConfigError(f"{directory} holds {which}; give a work directory of train.py")
    path = directory / str(steps[-1] if step is None else step) / "state"
    state = ocp.StandardCheckpointer().restore(path.absolute())
    average = state.get("average")
    return average or {"params": state["params"], "batch_stats": state["batch_stats"]}
