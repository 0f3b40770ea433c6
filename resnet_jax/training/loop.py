"""A run from its configuration to its last evaluation, in the order in which it happens."""

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ..evaluation import evaluate, make_eval_step
from ..parallel import data_mesh, enable_compilation_cache, replicate, shard_batch
from .checkpoint import Checkpoints
from .config import TrainConfig
from .dataset import keep_dataset
from .experiment import (
    Experiment,
    compute_normalization,
    eval_batches,
    open_experiment,
    resident_dataset,
    steps_at_once,
    train_iterator,
)
from .health import Diverged
from .hosts import watched_hosts
from .optimizer import make_optimizer, make_schedule, unfitted_schedule
from .pace import Pace, Profile
from .records import plot_curves, read_metrics
from .report import Report
from .state import TrainState, create_state
from .step import make_train_step
from .stop import Stop, Stopped
from .warm_start import load_initial
from .workdir import open_workdir

MAX_ROLLBACKS = 5
"""How often a run may go back, with `on_nan="rollback"`, before it ends all the same."""

ROLLBACK_FACTOR = 0.5
"""What each of them multiplies the learning rate by."""


def train(
    config: TrainConfig, workdir: str | Path, mesh: Mesh | None = None
) -> dict[str, dict[str, float]]:
    """Trains a network, or goes on where the last checkpoint in `workdir` stands.

    SIGTERM, SIGUSR1, SIGINT and `config.stop_after` end it after the current step, its state saved.

    Args:
      config: the run, from `resolve`.
      workdir: gets `config.json`, `dataset.json`, `metrics.jsonl`, `checkpoints/`, `tensorboard/`,
        `curves.png`.
      mesh: the devices, `data_mesh()` of all there are if not given.

    Returns:
      The last line of `metrics.jsonl` of each split: `step`, `loss`, `top1_error`, `top5_error`;
      nothing on other hosts than the first.

    Raises:
      ConfigError, ModelError, DataError: the configuration, the model's name and options, the data
        or the work directory are not as they must be; nothing has been written then.
      Diverged: the loss is not finite any more, or has exploded (see `Report`).
      HostDied: another host's process ended in the middle of the run.
      KeyboardInterrupt: SIGINT ended the run; its state is saved.
    """
    started, workdir = time.monotonic(), Path(workdir).absolute()
    enable_compilation_cache(config.compilation_cache)
    mesh = data_mesh() if mesh is None else mesh
    experiment = open_experiment(config, mesh)
    initial = load_initial(config, experiment.model, experiment.image_shape[2])
    with (
        open_workdir(workdir, config) as notices,
        watched_hosts(workdir),
        Stop(config.stop_after) as stop,
    ):
        keep_dataset(workdir, experiment)
        run = _Run(config, workdir, mesh, experiment, initial, stop, started)
        while True:
            try:
                run.go_on(notices)
                break
            except Diverged as error:
                notices = [run.roll_back(error)]

    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if jax.process_index() != 0:
        return {}
    records = read_metrics(workdir)
    plot_curves({workdir.name: records}, workdir / "curves.png")
    return {record["split"]: record for record in records}


class _Run:
    """The parts of a run, made once, and what goes on from the newest checkpoint with them."""

    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        mesh: Mesh,
        experiment: Experiment,
        initial: dict[str, Any] | None,
        stop: Stop,
        started: float,
    ) -> None:
        self._config, self._workdir, self._mesh = config, workdir, mesh
        self._experiment, self._initial = experiment, initial
        self._stop, self._started = stop, started
        self._optimizer = make_optimizer(config)
        schedule = make_schedule(config, len(experiment.train_source))
        model = experiment.model
        arrays = resident_dataset(config, experiment, mesh)
        self._dataset: tuple[Any, ...] = replicate(arrays, mesh) if arrays else ()
        self._steps_at_once = steps_at_once(config, mesh) if arrays else 1
        self._train_step = make_train_step(
            config, model, self._optimizer, schedule, mesh, experiment.train_transform
        )
        self._eval_step = make_eval_step(model, mesh)
        self._rollbacks = 0

    def go_on(self, notices: list[str]) -> None:
        """Trains from the newest checkpoint, or the beginning, until the end or a wish to stop.

        Args:
          notices: lines to begin with.
        """
        config, mesh, num_steps = self._config, self._mesh, self._experiment.num_steps
        state = self._first_state()
        with (
            contextlib.closing(
                train_iterator(config, self._experiment, pixels=not self._dataset)
            ) as batches,
            Checkpoints(self._workdir / "checkpoints", config.keep_checkpoints) as checkpoints,
        ):
            step, evaluated, rollbacks = checkpoints.latest_step() or 0, True, 0
            if step:
                state, position = checkpoints.restore(step, like=state)
                batches.set_state(position["data"])
                # Not where a signal ended the evaluation, or the run was to be longer.
                evaluated = not self._is_evaluated_after(step) or step in checkpoints.errors
                rollbacks = position.get("rollbacks", 0)
            else:
                normalization = compute_normalization(config, self._experiment)
                state = state.replace(normalization=replicate(normalization, mesh))
                train_size = len(self._experiment.train_source)
                notices = [*notices, *unfitted_schedule(config, train_size)]
            state = self._lower_learning_rate(state, rollbacks)

            pace, profile = (
                Pace(self._stop),
                Profile(self._workdir / "profile", config.profile_steps, step),
            )
            report = Report(config, self._workdir, step, num_steps, mesh, evaluated, self._started)
            with report, profile:
                for notice in notices:
                    report.say(notice)
                while True:
                    result = None
                    if not evaluated:
                        report.flush()
                        result = self._evaluate(state)
                        if result:
                            report.evaluation(step, config.eval_split, result)
                            feedback = jax.device_get(state.feedback)
                            feedback = feedback.after_evaluation(config, result["top1_error"])
                            state = state.replace(feedback=replicate(feedback, mesh))
                            evaluated = True
                    stopping = pace.told_to_stop()
                    if step and (result or stopping or step % config.checkpoint_every == 0):
                        report.flush()
                        position = {"data": batches.get_state(), "rollbacks": self._rollbacks}
                        error = result["top1_error"] if result else None
                        checkpoints.save(step, state, position, error)
                        report.restart_clock(step)
                    if stopping or step >= num_steps:
                        break

                    steps = self._steps_at_once
                    if step % steps or step + steps > num_steps:
                        steps = 1
                    batch = shard_batch(pace.next_batch(batches, steps), mesh, steps > 1)
                    state, metrics = self._train_step(state, batch, self._dataset)
                    step += steps
                    pace.sent(metrics)
                    profile.sent(step, metrics)
                    waited, bad_images = pace.take_waited(), batches.bad_images
                    state = report.step(step, state, metrics, waited, bad_images)
                    evaluated = not self._is_evaluated_after(step)
                if stopping and not (step >= num_steps and evaluated):
                    checkpoints.wait()
                    what = "nothing to save yet; the same command begins anew"
                    if step:
                        what = f"saved at step {step}; the same command goes on there"
                    report.say(f"{self._stop.reason()}: {what}")

    def roll_back(self, error: Diverged) -> str:
        """Notes that the run is to go on with a lower learning rate; returns what to say of it.

        Raises:
          Diverged: it is not to, or has been tried often enough.
        """
        if self._config.on_nan == "stop" or self._rollbacks >= MAX_ROLLBACKS:
            raise error
        self._rollbacks += 1
        what = str(error).partition(";")[0]
        return f"{what}; back to the last checkpoint, learning rate times {ROLLBACK_FACTOR}"

    def _is_evaluated_after(self, step: int) -> bool:
        return step % self._config.eval_every == 0 or step == self._experiment.num_steps

    def _first_state(self) -> TrainState:
        state = create_state(
            self._config,
            self._experiment.model,
            self._optimizer,
            self._experiment.normalization,
            self._experiment.image_shape,
            self._initial,
        )
        return replicate(state, self._mesh)

    def _lower_learning_rate(self, state: TrainState, rollbacks: int) -> TrainState:
        """Applies the rollbacks that came after the checkpoint, which counts those before it.

        A process that takes the run up again from there comes to the same, by the same way.
        """
        self._rollbacks = max(self._rollbacks, rollbacks)
        if self._rollbacks == rollbacks:
            return state  # Without waiting for it: it may be being computed.
        factor = ROLLBACK_FACTOR ** (self._rollbacks - rollbacks)
        feedback = jax.device_get(state.feedback)
        feedback = feedback.replace(scale=feedback.scale * np.float32(factor))
        return state.replace(feedback=replicate(feedback, self._mesh))

    def _evaluate(self, state: TrainState) -> dict[str, float] | None:
        """The evaluation's result; None if the run is to stop before it has one."""
        split = self._stop.unless_asked(eval_batches(self._config, self._experiment))
        try:
            return evaluate(
                self._eval_step, state.variables, state.normalization, split, self._mesh
            )
        except Stopped:
            return None
