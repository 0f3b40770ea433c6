"""Checkpoints through Orbax: the whole state, the data's position and the evaluations' errors."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from .config import ConfigError
from .digest import MARK, find_damage, find_steps, write_sums
from .state import TrainState


class Checkpoints:
    """The checkpoints of a work directory, `checkpoints/STEP/`.

    Kept are the newest `keep` and the best, the one with the lowest evaluation error. Each is
    written under another name, gets the digests of its files and is renamed.

    Attributes:
      errors: step → evaluation error, of what was saved and restored.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens the checkpoints in `directory` (absolute), which is made if it is not there."""
        self.errors: dict[int, float] = {}
        self._directory, self._saving = directory, 0
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [checkpoint_managers.LatestN(keep), _Best(self)]
                ),
                cleanup_tmp_directories=True,
                # Called on the first host when all files are there, before the renaming.
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sums),
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, position: dict[str, Any], error: float | None
    ) -> None:
        """Writes a checkpoint in the background, once; the state may be donated right after.

        Args:
          step: number of updates done.
          state: the state after them.
          position: what else is to be known to go on there, as JSON; without `errors`.
          error: of the evaluation after them, if there was one; of a step that is there, too.
        """
        if error is not None:
            self.errors[step] = error
        if step in self._manager.all_steps():
            return
        self._manager.wait_until_finished()
        self._saving = step
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(position | {"errors": self._errors_of_kept()} | MARK),
            ),
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns the state and the position at `step`; sets `errors`.

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
        position = restored.data
        self.errors = {int(key): error for key, error in position.get("errors", {}).items()}
        return restored.state, position

    def wait(self) -> None:
        """Waits for the last checkpoint to be complete.

        Raises:
          OSError: it could not be written.
        """
        self._manager.wait_until_finished()

    def _errors_of_kept(self) -> dict[str, float]:
        steps = {*self._manager.all_steps(), self._saving}
        return {str(step): error for step, error in self.errors.items() if step in steps}

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


def best_step(steps: Iterable[int], errors: Mapping[int, float]) -> int | None:
    """Returns the step of the lowest error, the last of several; None if none was evaluated."""
    evaluated = [step for step in steps if step in errors]
    return min(evaluated, key=lambda step: (errors[step], -step), default=None)


class _Best:
    """Keeps the best checkpoint, by errors that may be found out after it was written."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = best_step((info.step for info in checkpoints), self._checkpoints.errors)
        return [info.step == best for info in checkpoints]


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
