"""Orbax checkpoints: the whole state, the data's position and the evaluations' errors."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from resnet_jax.data.sources.listing import is_system_name
from resnet_jax.errors import ConfigError
from resnet_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of a work directory, `checkpoints/STEP/`.

    The newest `keep` are kept, and the best: the one with the lowest evaluation error. Each is
    written under a temporary name, gets the digests of its files and is then renamed.

    Attributes:
      errors: step → evaluation error, of the checkpoints saved and restored.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens the checkpoints in `directory` (absolute), which is created if missing."""
        self.errors: dict[int, float] = {}
        self._directory, self._saving = directory, 0
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [checkpoint_managers.LatestN(keep), _Best(self)]
                ),
                cleanup_tmp_directories=True,
                # Called on the first host once all files are written, before the renaming.
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sums),
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, position: dict[str, Any], error: float | None
    ) -> None:
        """Writes a checkpoint in the background, once; the state may be donated afterwards.

        Args:
          step: number of completed updates.
          state: the state after them.
          position: what else is needed to resume there, as JSON; without `errors`.
          error: the evaluation error, if any; may be given for a step already saved.
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
          step: step of an existing checkpoint.
          like: a state with the structure, shapes and shardings to restore.
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
        """Waits until the last checkpoint is complete.

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
        """Waits until the last checkpoint is complete."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def best_step(steps: Iterable[int], errors: Mapping[int, float]) -> int | None:
    """Returns the step with the lowest error, the last if tied; None if none was evaluated."""
    evaluated = [step for step in steps if step in errors]
    return min(evaluated, key=lambda step: (errors[step], -step), default=None)


class _Best:
    """Orbax policy that keeps the best checkpoint; its error may arrive after it was written."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = best_step((info.step for info in checkpoints), self._checkpoints.errors)
        return [info.step == best for info in checkpoints]


def set_damaged_aside(directory: Path) -> list[str]:
    """Renames damaged checkpoints to `STEP.damaged`, so that the latest remaining one is intact.

    Args:
      directory: a work directory's `checkpoints`.

    Returns:
      A line per damaged checkpoint that describes the damage.

    Raises:
      ConfigError: all are damaged; none is renamed.
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
            f"checkpoint {step} is damaged ({text}): it is now {aside.name}; the latest intact one "
            f"is {good[-1]}"
        )
    return lines


def no_good_one(directory: Path, damage: dict[int, str]) -> ConfigError:
    """Returns the error for a directory whose checkpoints are all damaged."""
    newest = max(damage)
    return ConfigError(
        f"all checkpoints in {directory} are damaged: {newest} ({damage[newest]})"
        + "".join(f", {step}" for step in sorted(damage, reverse=True)[1:4])
        + "; nothing was changed; restore a backup, or choose another --workdir"
    )


def _free_name(path: Path) -> Path:
    names = itertools.chain([path], (path.with_name(f"{path.name}{n}") for n in itertools.count(2)))
    return next(name for name in names if not name.exists())


SUMS = "SHA256SUMS"
"""The file of digests in a checkpoint, in the format of `sha256sum`."""

_WRITTEN_LATER = {SUMS, "commit_success.txt", "_CHECKPOINT_METADATA"}
"""Files without a digest: the list itself, and two files that Orbax writes around the renaming and
that restoring does not need."""

MARK = {"digests": SUMS}
"""Entry of the data's position that marks a checkpoint with digests. It tells a checkpoint whose
list is missing from one of an older version, which wrote no digests."""


def write_sums(directory: Path) -> None:
    """Writes `SHA256SUMS`, the digest of every file below `directory`."""
    lines = [f"{_sha256(path)}  {name}\n" for name, path in sorted(_files(directory).items())]
    with open(directory / SUMS, "w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def find_damage(directory: Path) -> str | None:
    """Returns a description of a checkpoint's damage, or None if it is intact.

    Every file must exist, match its digest and be in the list. A checkpoint of an older version,
    which wrote no digests, passes.
    """
    try:
        text = (directory / SUMS).read_text(encoding="utf-8")
        sums = [line.split("  ", 1) for line in text.splitlines()]
        expected = {name: digest for digest, name in sums if not _is_foreign(Path(name))}
        files = _files(directory)
        for name in sorted(expected.keys() | files.keys()):
            if name not in files:
                return f"{name[:80]} is missing"
            if name not in expected:
                return f"{name[:80]} is not in its {SUMS}"
            if _sha256(files[name]) != expected[name]:
                return f"{name[:80]} has changed"
    except FileNotFoundError:
        return None if _is_of_older_version(directory) else f"{SUMS} is missing"
    except ValueError:
        return f"{SUMS} has changed"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def find_steps(directory: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a directory."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())


def _files(directory: Path) -> dict[str, Path]:
    """Returns relative path → path of each file of a checkpoint that needs a digest."""
    paths = {path.relative_to(directory): path for path in directory.rglob("*")}
    return {
        name.as_posix(): path
        for name, path in paths.items()
        if path.is_file() and name.as_posix() not in _WRITTEN_LATER and not _is_foreign(name)
    }


def _is_foreign(name: Path) -> bool:
    """Whether a system left a file in a checkpoint's folder, such as `.DS_Store`."""
    return any(map(is_system_name, name.parts))


def _is_of_older_version(directory: Path) -> bool:
    try:
        position = json.loads((directory / "data" / "metadata").read_text(encoding="utf-8"))
        return not position.keys() & MARK.keys()
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
