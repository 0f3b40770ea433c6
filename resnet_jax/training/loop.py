"""The training loop: a run from its configuration to its last evaluation, in order."""

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.errors import one_line
from resnet_jax.runtime.console import unfailing
from resnet_jax.runtime.devices import data_mesh, replicate, shard_batch
from resnet_jax.runtime.files import local_path
from resnet_jax.runtime.hosts import watched_hosts
from resnet_jax.runtime.interrupts import Stop, Stopped
from resnet_jax.runtime.pictures import NotDrawn, drawing
from resnet_jax.runtime.profiler import Profile
from resnet_jax.training.checkpoint import Checkpoints, find_steps
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.curves import draw_curves
from resnet_jax.training.dispatch import Dispatch
from resnet_jax.training.experiment import (
    Experiment,
    compute_normalization,
    eval_batches,
    initial_normalization,
    resident_arrays,
    steps_at_once,
    train_iterator,
)
from resnet_jax.training.identity import facts_of
from resnet_jax.training.lengths import (
    idle_schedule,
    is_due,
    other_batch_size,
    unfitted_schedule,
)
from resnet_jax.training.optimizer import of_parts
from resnet_jax.training.records import RunRecords, read_metrics
from resnet_jax.training.report import Diverged, Observers, Report, RunStart
from resnet_jax.training.start import prepare
from resnet_jax.training.state import TrainState, create_state
from resnet_jax.training.step import make_train_step
from resnet_jax.training.workdir import keep_dataset, keep_preprocessing, open_workdir

MAX_ROLLBACKS = 5
"""Maximum number of rollbacks of a run with `on_nan="rollback"`."""

ROLLBACK_FACTOR = 0.5
"""Factor that multiplies the learning rate at each rollback."""


def train(
    experiment: Experiment | TrainConfig | ConfigDict,
    workdir: str | Path,
    mesh: Mesh | None = None,
    observers: Sequence[Any] = (),
    recipe: TrainConfig | None = None,
) -> RunRecords:
    """Trains a network, or resumes from the latest checkpoint in `workdir`.

    SIGTERM, SIGUSR1, SIGINT, SIGHUP and `config.stop_after` end it after the current step; state is
    saved. A terminal or a pipe that is gone does not end it.

    Args:
      experiment: the run's parts, or a recipe from which to make them.
      workdir: receives `config.json`, `dataset.json`, `metrics.jsonl`, `checkpoints/`,
        `tensorboard/` and `curves.png`.
      mesh: the devices; by default `data_mesh()`, all of them.
      observers: see `Observers`; called on the first host.
      recipe: the configuration without the command line's changes, for a notice about them.

    Returns:
      The last line of `metrics.jsonl` of each split: `step`, `loss`, `top1_error`, `top5_error`;
      empty on all hosts but the first.

    Raises:
      ConfigError, ModelError, DataError: the configuration, the model, the data or the work
        directory is invalid, or differs between hosts; no step has been done.
      BadData: images of a later step cannot be used; the run's state is saved.
      Diverged: the run diverged (see `Report`).
      HostDied: another host's process ended during the run.
      KeyboardInterrupt: SIGINT ended the run; its state is saved.
      Exception: the error of an observer; the run's state is saved.
    """
    started, workdir = time.monotonic(), local_path(workdir).absolute()
    mesh = data_mesh() if mesh is None else mesh
    experiment, initial, fingerprints, preprocessing = prepare(experiment, workdir, mesh)
    config = experiment.config
    with (
        open_workdir(workdir, config, experiment.recorded, facts_of(experiment)) as notices,
        watched_hosts(workdir),
        Stop(config.stop_after) as stop,
    ):
        notices += data.notices(*experiment.sources.values())
        if preprocessing is not None:
            keep_preprocessing(workdir, preprocessing)
            notices.append(f"preprocessing of the weights: {preprocessing.describe()}")
        notices += keep_dataset(
            workdir, experiment.sources, fingerprints, on_changed_data=config.on_changed_data
        )
        if recipe is not None and not find_steps(workdir / "checkpoints"):
            notices += other_batch_size(config, recipe, len(experiment.train_source))
        run_observers = Observers(observers, stop)
        run = _Run(experiment, workdir, mesh, initial, stop, run_observers, started)
        while True:
            try:
                run.resume(notices)
                break
            except Diverged as error:
                notices = [run.roll_back(error)]

    records = _last_records(workdir, run.task.headline, run.task.forms)
    run_observers.call("on_end", records)
    if run_observers.failure is not None:
        raise run_observers.failure
    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt
    return records


def _last_records(workdir: Path, headline: str, forms: Any) -> RunRecords:
    """Returns the last record of each split; draws `curves.png` if it can."""
    if jax.process_index() != 0:
        return RunRecords({}, forms, workdir)
    records = read_metrics(workdir)
    picture = workdir / "curves.png"
    try:
        with drawing(picture):
            draw_curves({workdir.name: records}, picture, headline=headline)
    except NotDrawn as error:  # No picture is worth a run.
        print(f"resnet_jax: {error}", file=unfailing(sys.stderr))
    return RunRecords({record["split"]: record for record in records}, forms, workdir)


class BadData(OSError):
    """Images of a step after the first cannot be used; the run's state is saved."""


class _Run:
    """A run: its parts, made once, and the loop that resumes from the latest checkpoint."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        mesh: Mesh,
        initial: dict[str, Any] | None,
        stop: Stop,
        observers: Observers,
        started: float,
    ) -> None:
        self.task = experiment.make_task()
        self._experiment, self._config = experiment, experiment.config
        self._workdir, self._mesh, self._initial = workdir, mesh, initial
        self._stop, self._observers, self._started = stop, observers, started
        self._learning_rate, self._periods = experiment.learning_rate, experiment.periods
        self._optimizer = of_parts(experiment.optimizer, self._config.train_parts)
        arrays = resident_arrays(experiment, mesh)
        self._resident: tuple[Any, ...] = replicate(arrays, mesh) if arrays else ()
        self._steps_at_once = steps_at_once(self._config, mesh) if arrays else 1
        self._train_step = make_train_step(
            self.task,
            self._optimizer,
            self._learning_rate,
            mesh,
            accumulate_steps=self._config.accumulate_steps,
            ema_decay=self._config.ema_decay,
            transform=experiment.train_transform,
        )
        self._evaluate = self.task.evaluator(mesh)
        self._rollbacks = 0

    def resume(self, notices: list[str]) -> None:
        """Trains from the latest checkpoint, or the beginning, until the end or a stop request.

        Args:
          notices: lines to print first.
        """
        state = self._first_state()
        with (
            contextlib.closing(
                train_iterator(self._experiment, pixels=not self._resident)
            ) as batches,
            Checkpoints(self._workdir / "checkpoints", self._config.keep_checkpoints) as kept,
        ):
            start_step, evaluated = kept.latest_step() or 0, True
            if start_step:
                state, evaluated = self._restored(start_step, state, batches, kept)
            else:
                state = self._new_state(state)
            notices = [*notices, *self._length_notices(start_step)]
            run = RunStart(
                self._workdir,
                dataclasses.asdict(self._config),
                start_step,
                self._experiment.num_steps,
                self._config.eval_split,
                evaluated,
            )
            profile = Profile(self._workdir / "profile", self._config.profile_steps, start_step)
            with self._report(run) as report, profile:
                for notice in notices:
                    report.say(notice)
                self._observers.call("on_start", run)
                self._train(run, state, batches, kept, report, profile)

    def _train(
        self,
        run: RunStart,
        state: TrainState,
        batches: data.TrainIterator,
        checkpoints: Checkpoints,
        report: Report,
        profile: Profile,
    ) -> None:
        """Repeats evaluation, checkpoint and step, in this order, until the run ends."""
        step, evaluated = run.start_step, run.evaluated
        dispatch = Dispatch(self._stop, step)
        while True:
            result, position = None, batches.get_state()
            if not evaluated:
                with self._saves(step, state, position, checkpoints, report):
                    state, result = self._evaluated(step, state, report)
                evaluated = result is not None
            stopping = dispatch.told_to_stop()
            if step and (result or stopping or is_due(step, self._periods.checkpoint)):
                self._save(step, state, position, checkpoints, report, result)
            if stopping or step >= run.num_steps:
                break

            steps = self._steps_at_once
            if step % steps or step + steps > min(run.num_steps, self._periods.next_due(step)):
                steps = 1
            with self._saves(step, state, position, checkpoints, report):
                taken = dispatch.next_batch(batches, steps)
            batch = shard_batch(taken, self._mesh, steps > 1)
            state, metrics = self._train_step(state, batch, self._resident)
            step += steps
            dispatch.sent(step, metrics)
            profile.sent(step, metrics)
            waited, bad_images = dispatch.take_waited(), batches.bad_images
            state = report.step(step, state, metrics, dispatch.done_step, waited, bad_images)
            evaluated = not self._is_evaluated_after(step)
        if stopping and not (step >= run.num_steps and evaluated):
            checkpoints.wait()
            what = "nothing to save yet; the same command starts from the beginning"
            if step:
                what = f"saved at step {step}; the same command resumes there"
            report.say(f"{self._stop.reason()}: {what}")

    def roll_back(self, error: Diverged) -> str:
        """Makes the run resume with a lower learning rate; returns a notice.

        Raises:
          Diverged: rollback is off, or `MAX_ROLLBACKS` is reached.
        """
        if self._config.on_nan == "stop" or self._rollbacks >= MAX_ROLLBACKS:
            raise error
        self._rollbacks += 1
        what = str(error).partition(";")[0]
        return f"{what}; resuming from the last checkpoint, learning rate times {ROLLBACK_FACTOR}"

    def _report(self, run: RunStart) -> Report:
        return Report(
            run,
            self.task,
            self._observers,
            self._mesh,
            log_every=self._config.log_every,
            batch_size=self._config.batch_size,
            started=self._started,
        )

    def _first_state(self) -> TrainState:
        state = create_state(
            self.task,
            self._optimizer,
            self._learning_rate,
            initial_normalization(self._experiment),
            self._experiment.image_shape,
            seed=self._config.seed,
            averaged=self._config.ema_decay is not None,
            variables=self._initial,
        )
        return replicate(state, self._mesh)

    def _new_state(self, state: TrainState) -> TrainState:
        """Returns the state before the first step."""
        normalization = compute_normalization(self._experiment)
        state = state.replace(normalization=replicate(normalization, self._mesh))
        return self._lower_learning_rate(state, 0)

    def _length_notices(self, start_step: int) -> list[str]:
        """Returns notices about a schedule that does not fit the run's length."""
        experiment = self._experiment
        if start_step and callable(experiment.optimizer):
            return idle_schedule(
                experiment.schedule, start_step, experiment.num_steps, self._workdir
            )
        if start_step or "schedule" in experiment.handed_in:
            return []
        size = len(experiment.train_source)
        return unfitted_schedule(self._config, size, experiment.num_steps)

    def _restored(
        self, step: int, like: TrainState, batches: data.TrainIterator, checkpoints: Checkpoints
    ) -> tuple[TrainState, bool]:
        """Returns a checkpoint's state and whether it was evaluated; moves `batches` there."""
        state, position = checkpoints.restore(step, like=like)
        batches.set_state(position["data"])
        # False if the evaluation due at this step was interrupted, or if the earlier run was meant
        # to end later.
        evaluated = not self._is_evaluated_after(step) or step in checkpoints.errors
        return self._lower_learning_rate(state, position.get("rollbacks", 0)), evaluated

    def _lower_learning_rate(self, state: TrainState, rollbacks: int) -> TrainState:
        """Applies the rollbacks since the checkpoint, which holds the number of earlier ones.

        A new process that resumes from the checkpoint gets the same learning rate.
        """
        self._rollbacks = max(self._rollbacks, rollbacks)
        if self._rollbacks == rollbacks:
            return state  # Without waiting: it may still be being computed.
        factor = ROLLBACK_FACTOR ** (self._rollbacks - rollbacks)
        feedback = jax.device_get(state.feedback)
        feedback = feedback.replace(scale=feedback.scale * np.float32(factor))
        return state.replace(feedback=replicate(feedback, self._mesh))

    def _is_evaluated_after(self, step: int) -> bool:
        return is_due(step, self._periods.evaluation) or step == self._experiment.num_steps

    def _evaluated(
        self, step: int, state: TrainState, report: Report
    ) -> tuple[TrainState, dict[str, float] | None]:
        """Evaluates; the result is None if a stop request interrupts the evaluation."""
        report.flush()
        split = self._stop.unless_asked(eval_batches(self._experiment, self._mesh))
        try:
            result = self._evaluate(state.variables, state.normalization, split)
        except Stopped:
            return state, None
        report.evaluation(step, result)
        feedback = self._learning_rate.after_evaluation(
            jax.device_get(state.feedback), result[self.task.headline]
        )
        return state.replace(feedback=replicate(feedback, self._mesh)), result

    @contextlib.contextmanager
    def _saves(
        self,
        step: int,
        state: TrainState,
        position: dict[str, int],
        checkpoints: Checkpoints,
        report: Report,
    ) -> Iterator[None]:
        """Saves the state before images that cannot be used end a run that has done steps.

        A single one of several hosts cannot save: the last checkpoint stays.
        """
        try:
            yield
        except data.DataError as error:
            if not step:
                raise
            kept = "the last checkpoint stays"
            if jax.process_count() == 1:
                self._save(step, state, position, checkpoints, report, None)
                checkpoints.wait()
                kept = f"saved at step {step}"
            what = one_line(getattr(error, "description", "") or str(error), 100)
            raise BadData(
                f"{what}; {kept}; set --config.on_bad_image=skip, or mend or remove the file and "
                "set --config.on_changed_data=accept"
            ) from error

    def _save(
        self,
        step: int,
        state: TrainState,
        position: dict[str, int],
        checkpoints: Checkpoints,
        report: Report,
        result: dict[str, float] | None,
    ) -> None:
        """Writes a checkpoint in the background; `position` is that of the data."""
        report.flush()
        whole = {"data": position, "rollbacks": self._rollbacks}
        checkpoints.save(step, state, whole, result[self.task.headline] if result else None)
        report.restart_clock(step)
        self._observers.call("on_checkpoint", step, self._workdir / "checkpoints" / str(step))
