"""Reports on a run to its log and its observers, without waiting for the devices."""

import collections
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.runtime.devices import replicated
from resnet_jax.runtime.interrupts import Stop
from resnet_jax.runtime.progress import Progress
from resnet_jax.runtime.tensorboard import TensorBoard
from resnet_jax.training.dispatch import MAX_STEPS_AHEAD, is_ready
from resnet_jax.training.records import MetricsLog
from resnet_jax.training.state import Health, TrainState
from resnet_jax.training.step import StepMetrics
from resnet_jax.training.task import Task

BOTTLENECK = 0.2
"""Fraction of the time that devices may wait for data before the run prints a warning."""

MAX_STEPS_KEPT = 1000
"""Number of an interval's steps that are kept to find the first one that diverged."""

EXPLODED = 1e4
"""A mean training loss above this, over a logging interval, counts as divergence: it is a thousand
times the loss of guessing among 10,000 classes."""


class Diverged(FloatingPointError):
    """Loss, gradients or running statistics are no longer finite, or the loss exploded."""


class RunStart(NamedTuple):
    """A run that starts or resumes, as observers receive it in `on_start`.

    Attributes:
      workdir: the run's work directory.
      config: its configuration, by key.
      start_step: the step of the checkpoint that it resumes from, or 0.
      num_steps: its last step.
      eval_split: the evaluated split.
      evaluated: whether the evaluation at `start_step` is already complete.
    """

    workdir: Path
    config: Mapping[str, Any]
    start_step: int
    num_steps: int
    eval_split: str
    evaluated: bool


class Observers:
    """Calls the observers of a run, on the first host.

    An observer is an object with any of `on_start(run)`, `on_train_metrics(step, metrics)`,
    `on_evaluation(step, metrics)`, which returns True to end the run, `on_checkpoint(step, path)`
    and `on_end(records)`. They are called once numbers have arrived from the devices, which keep
    computing meanwhile.

    Attributes:
      failure: the error of an observer; the run saves its state and ends.
    """

    def __init__(self, observers: Sequence[Any], stop: Stop) -> None:
        self.failure: Exception | None = None
        self._observers = list(observers) if jax.process_index() == 0 else []
        self._stop = stop

    def call(self, event: str, *arguments: Any) -> None:
        """Calls a method on all observers that have it."""
        for observer in list(self._observers):
            method = getattr(observer, event, None)
            if method is None:
                continue
            name = type(observer).__name__
            try:
                if method(*arguments) is True and event == "on_evaluation":
                    self._stop.request(f"{name} ended the run")
            except Exception as error:
                error.add_note(f"raised by {name}.{event}; the run's state is saved")
                self.failure = self.failure or error
                self._observers.remove(observer)
                self._stop.request(f"{name}.{event} raised {type(error).__name__}")


class _Interval(NamedTuple):
    """The sums of a logging interval, in transit from the device, and its steps' metrics."""

    step: int
    sums: Any
    steps: collections.deque[StepMetrics]
    bad_images: int


class Report:
    """Collects the training sums every `log_every` steps and writes them once they have arrived.

    Between two lines the sums stay on the device and are part of the state, so a resumed run writes
    the same lines as an uninterrupted one. `Diverged` ends a run whose numbers are no longer finite
    or whose loss has exploded.
    """

    def __init__(
        self,
        run: RunStart,
        task: Task,
        observers: Observers,
        mesh: Mesh,
        *,
        log_every: int,
        batch_size: int,
        started: float,
    ) -> None:
        """Opens the records of a work directory; drops their lines after the checkpoint.

        Args:
          run: the run.
          task: provides the zero sums and the headline metric.
          observers: the user's observers.
          mesh: the devices.
          log_every: steps between two lines.
          batch_size: images per step.
          started: start time of the run by `time.monotonic()`.
        """
        self._records: list[Any] = []
        self._progress: Progress | None = None
        if jax.process_index() == 0:
            step, split = run.start_step, run.eval_split
            self._progress = Progress(run.num_steps, step, eval_split=split, headline=task.headline)
            self._records = [
                MetricsLog(run.workdir, step, run.evaluated, split),
                TensorBoard(run.workdir / "tensorboard", step, split),
                self._progress,
            ]
        self._observers = observers
        self._log_every, self._batch_size = log_every, batch_size
        self._num_steps = run.num_steps
        self._zero_sums = jax.jit(task.zero_sums, out_shardings=replicated(mesh))
        self._arriving: collections.deque[_Interval] = collections.deque()
        self._steps: collections.deque[StepMetrics] = collections.deque(maxlen=MAX_STEPS_KEPT)
        self._step = self._written_step = run.start_step
        self._done = collections.deque([(run.start_step, time.monotonic())])
        self._waited, self._started = 0.0, started
        self._compiled = self._warned = False

    def step(
        self,
        step: int,
        state: TrainState,
        metrics: StepMetrics,
        done_step: int = 0,
        waited: float = 0.0,
        bad_images: int = 0,
    ) -> TrainState:
        """Records one dispatch to the devices, of one step or several.

        Args:
          step: number of updates after this dispatch.
          state: the state after it.
          metrics: the step's metrics; stacked for several steps.
          done_step: number of updates that are known to be complete.
          waited: seconds that the devices waited for its data.
          bad_images: number of images so far that could not be decoded and were replaced.

        Returns:
          The state to continue with; its sums are reset to zero where an interval ends.

        Raises:
          Diverged: an interval whose sums have arrived diverged.
        """
        self._waited += waited
        if not self._compiled:
            # Wait for the first step, so that the speed does not include compilation.
            jax.block_until_ready(metrics)
            self.say(f"first step after {time.monotonic() - self._started:.1f} s")
            self.restart_clock(step)
            self._layers = layers(state.params), layers(state.batch_stats)
            self._compiled = True
        self._note_done(done_step)
        self._step = step
        self._steps.append(metrics)
        if step % self._log_every == 0 or step == self._num_steps:
            self._arriving.append(_Interval(step, state.sums, self._steps, bad_images))
            self._steps = collections.deque(maxlen=MAX_STEPS_KEPT)
            state = state.replace(sums=self._zero_sums())
        while self._arriving and self._is_due(self._arriving[0]):
            self._write_interval(self._arriving.popleft())
        if self._progress is not None:
            self._progress.update(step)
        return state

    def flush(self) -> None:
        """Waits for all outstanding sums and writes them, before an evaluation or a checkpoint.

        Raises:
          Diverged: one of the steps so far diverged.
        """
        while self._arriving:
            self._write_interval(self._arriving.popleft())
        self._check(self._step, self._steps)

    def restart_clock(self, step: int) -> None:
        """Excludes the time until now from `images_per_second`."""
        self._done.clear()
        self._done.append((step, time.monotonic()))
        self._written_step, self._waited = step, 0.0

    def evaluation(self, step: int, result: Mapping[str, float]) -> None:
        """Writes an evaluation's result."""
        self._write("on_evaluation", step, result)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the progress bar."""
        if self._progress is not None:
            self._progress.write(text)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.flush()
        for record in reversed(self._records):
            record.close()

    def _note_done(self, step: int) -> None:
        if step > self._done[-1][0]:
            self._done.append((step, time.monotonic()))
        while len(self._done) > 1 and self._done[1][0] <= step - self._log_every:
            self._done.popleft()

    def _speed(self) -> tuple[int, float]:
        """Returns steps and seconds between two observations of the devices' progress.

        They are the last observation, and the last one that is at least `log_every` steps earlier.
        The time between two lines would mislead, since two intervals often arrive together.
        """
        (first, begin), (last, end) = self._done[0], self._done[-1]
        return last - first, end - begin

    def _write_interval(self, interval: _Interval) -> None:
        values = interval.sums.means()  # The only line that may wait.
        self._note_done(interval.step)
        steps = interval.step - self._written_step
        self._written_step = interval.step
        if "learning_rate" in interval.steps[-1]:
            values["learning_rate"] = float(np.ravel(interval.steps[-1]["learning_rate"])[-1])
        if interval.bad_images:
            values["bad_images"] = interval.bad_images
        done, seconds = self._speed()
        if steps and done:
            seconds_per_step = seconds / done
            values["images_per_second"] = self._batch_size / seconds_per_step
            values["seconds_per_step"] = seconds_per_step
            values["data_seconds_per_step"] = self._waited / steps
            share = self._waited / (steps * seconds_per_step)
            if share > BOTTLENECK and not self._warned:
                self._warned = True
                self.say(
                    f"the loader is the bottleneck: {min(share, 1):.0%} of the time the devices "
                    "waited for data; see docs/data.md"
                )
        self._waited = 0.0
        self._write("on_train_metrics", interval.step, values)
        self._check(interval.step, interval.steps, values["loss"])

    def _is_due(self, interval: _Interval) -> bool:
        """Whether an interval can be written without waiting.

        Several hosts decide by the step number, so that all detect divergence at the same step.
        """
        if jax.process_count() > 1:
            return self._step >= interval.step + MAX_STEPS_AHEAD
        return is_ready(interval.sums)

    def _check(self, last: int, steps: collections.deque[StepMetrics], loss: float = 0.0) -> None:
        """Raises `Diverged` if a step up to `last`, or their mean `loss`, shows divergence."""
        if not steps or (steps[-1]["health"].is_finite() and loss <= EXPLODED):
            return
        each = [metrics for sent in steps for metrics in _per_step(sent)]
        bad = len(each) - 1
        for index, metrics in enumerate(each):
            if not metrics["health"].is_finite():
                bad = index
                break
        raise diverged(last - len(each) + 1 + bad, each[bad], *self._layers)

    def _write(self, event: str, step: int, values: Mapping[str, float]) -> None:
        for record in self._records:
            getattr(record, event)(step, values)
        self._observers.call(event, step, dict(values))


def _per_step(metrics: StepMetrics) -> list[StepMetrics]:
    """Splits the metrics of a dispatch into those of each step."""
    if not np.ndim(metrics["stop"]):
        return [metrics]
    arrays = jax.device_get(metrics)
    count = len(arrays["stop"])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], arrays) for i in range(count)]


def layers(tree: Any) -> list[str]:
    """Returns the layer of each leaf of `params` or statistics, such as `stage1/block1/conv1`."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [jax.tree_util.keystr(path[:-1], simple=True, separator="/") for path in paths]


def diverged(
    step: int, metrics: StepMetrics, parameters: list[str], statistics: list[str]
) -> Diverged:
    """Returns the error for the first step that diverged.

    Args:
      step: number of updates after it.
      metrics: the step's metrics.
      parameters: `layers` of the parameters.
      statistics: `layers` of the running statistics.
    """
    health = jax.device_get(metrics["health"])
    norm = float(np.sqrt(np.sum(np.asarray(health.gradients))))
    rate = metrics.get("learning_rate")
    layer = _first_bad_layer(health, parameters, statistics)
    return Diverged(
        f"training diverged at step {step}: loss {float(health.loss):.4g}, "
        + (f"learning rate {float(rate):.4g}, " if rate is not None else "")
        + f"gradient norm {norm:.4g}"
        + (f", first bad layer {layer}" if layer else "")
        + "; lower config.learning_rate, or set config.on_nan=rollback"
    )


def _first_bad_layer(health: Health, parameters: list[str], statistics: list[str]) -> str | None:
    """Returns the first layer with a non-finite output, or else with a non-finite gradient.

    Non-finite activations show in the running statistics of the normalisation after them.
    Gradients flow backwards, so the first non-finite one is that of the last such layer.
    """
    activations = _bad_layers(health.statistics, statistics)
    if activations:
        return activations[0]
    if not np.isfinite(health.loss):
        return "head"
    gradients = _bad_layers(health.gradients, parameters)
    return gradients[-1] if gradients else None


def _bad_layers(values: Any, names: list[str]) -> list[str]:
    """Returns the layers with non-finite values, in forward order."""
    bad = {name for name, value in zip(names, values, strict=True) if not np.isfinite(value)}
    return sorted(bad, key=_forward_order)


def _forward_order(layer: str) -> list[tuple[int, int, int]]:
    """The sort key of a layer: stem, stages, head; conv1, bn1, conv2, …, shortcut in a block."""
    order = ("stem", "stage", "block", "conv", "bn", "shortcut", "head")
    key = []
    for part in layer.split("/"):
        name, number = part.rstrip("0123456789"), re.sub(r"\D", "", part)
        rank = order.index(name) if name in order else len(order)
        if name in ("conv", "bn"):  # Each normalisation follows its convolution.
            key.append((order.index("conv"), int(number or 0), rank))
        else:
            key.append((rank, int(number or 0), 0))
    return key
