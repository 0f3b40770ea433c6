"""One update: a pure function of (state, batch), the same program on every device."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from resnet_jax.data import Transform, cut
from resnet_jax.runtime.devices import DATA_AXIS, compiler_options
from resnet_jax.training.optimizer import LearningRate, Optimizer, transformation
from resnet_jax.training.state import Health, TrainState
from resnet_jax.training.task import Task

StepMetrics = dict[str, Any]
"""The metrics of a step: `learning_rate`, `health` and `stop`."""

TrainStep = Callable[..., tuple[TrainState, StepMetrics]]
Gradients = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


def make_train_step(
    task: Task,
    optimizer: Optimizer,
    learning_rate: LearningRate,
    mesh: Mesh,
    *,
    accumulate_steps: int = 1,
    ema_decay: float | None = None,
    transform: Transform | None = None,
) -> TrainStep:
    """Returns the compiled `train_step(state, batch, resident=()) -> (state, metrics)`.

    The new state reuses the old one's memory; the task's sums accumulate in `state.sums`. `metrics`
    holds the step's `learning_rate` (unless the optimiser has its own), its `health`, and `stop`:
    the number of devices whose host requests the end of the run (the sum of `batch["stop"]`).

    Each device runs the network on its own part of the batch. Batch statistics are per device
    unless the model was made with `norm_axis_name="data"`. Devices communicate once per step: they
    average gradients and running statistics and add up the sums. The state stays equal on all
    devices.

    Args:
      task: the loss, its gradients and its sums.
      optimizer: turns gradients into updates.
      learning_rate: gives the learning rate of each update.
      mesh: the devices; `state` is replicated over them, `batch` (arrays `[n, ...]`, such as
        `image` and `label`) is split. With `resident`, the replicated images and labels of the
        whole training split, `batch` holds what to cut from them (`data.train_batches`,
        `pixels=False`), also for several sequential steps (`[steps, n]`); then all `metrics` have
        that axis, too.
      accumulate_steps: number of sequential parts of each device's share of a batch.
      ema_decay: upper limit of the decay of the state's moving averages; None for no averages.
      transform: cuts batches from `resident`.
    """
    gradients = _accumulated(
        task,
        accumulate_steps,
        # XLA's CPU back end runs convolutions inside a loop many times slower than outside.
        unroll=mesh.devices.flat[0].platform == "cpu",
    )
    over_devices = _reduced_at_once if mesh.size > 1 and _is_gpu(mesh) else _reduced

    def device_step(
        state: TrainState, batch: Mapping[str, Any], resident: Any
    ) -> tuple[TrainState, StepMetrics]:
        stop = jnp.sum(batch["stop"]) if "stop" in batch else jnp.zeros((), jnp.int32)
        if transform is not None and resident:
            pixels, labels = cut(transform, resident, batch)
            batch = {"image": pixels, "label": labels}
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        device = jax.lax.axis_index(DATA_AXIS)
        inputs = task.inputs(state.normalization, batch, key, device, mesh.size)
        grads, batch_stats, sums = gradients(state.params, state.batch_stats, inputs)
        (grads, batch_stats), (sums, stop) = over_devices((grads, batch_stats), (sums, stop))

        rate = learning_rate(state.step, state.feedback)
        update = transformation(optimizer, rate).update
        updates, opt_state = update(grads, state.opt_state, state.params)
        new = {"params": optax.apply_updates(state.params, updates), "batch_stats": batch_stats}
        metrics = {"stop": stop, "health": Health.of(sums.loss / sums.count, grads, batch_stats)}
        if callable(optimizer):
            metrics["learning_rate"] = rate
        return state.replace(
            **new,
            step=state.step + 1,
            opt_state=opt_state,
            average=_update_average(state.average, new, state.step + 1, ema_decay),
            feedback=learning_rate.after_step(state.feedback, task.error(sums)),
            sums=state.sums + sums,
        ), metrics

    return _compiled(device_step, mesh)


def _compiled(device_step: TrainStep, mesh: Mesh) -> TrainStep:
    """Compiles a step for all devices; runs a loop of steps if the batch has an axis of steps."""
    step = jax.shard_map(
        device_step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS), PartitionSpec()),
        out_specs=PartitionSpec(),
        # Gradients stay per device until the explicit mean.
        check_vma=False,
    )

    def train_step(
        state: TrainState, batch: Any, resident: Any = ()
    ) -> tuple[TrainState, StepMetrics]:
        if resident and batch["index"].ndim == 2:
            return jax.lax.scan(lambda state, batch: step(state, batch, resident), state, batch)
        return step(state, batch, resident)

    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(train_step, donate_argnums=0, compiler_options=options)


def _is_gpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform in ("gpu", "cuda", "rocm")


def _reduced(means: Any, totals: Any) -> tuple[Any, Any]:
    """Averages `means` and sums `totals` over the devices; XLA combines the all-reduces."""
    return jax.lax.pmean(means, DATA_AXIS), jax.lax.psum(totals, DATA_AXIS)


def _reduced_at_once(means: Any, totals: Any) -> tuple[Any, Any]:
    """Does the same through one array; otherwise, XLA makes many all-reduces on a GPU.

    The totals are counts and a loss; float32 holds integers below 2^24 exactly.
    """
    numbers, restore = ravel_pytree((means, totals))
    means, totals = restore(jax.lax.psum(numbers, DATA_AXIS))
    return jax.tree.map(lambda leaf: leaf / jax.lax.axis_size(DATA_AXIS), means), totals


def _accumulated(task: Task, parts: int, unroll: bool) -> Gradients:
    """Computes gradients from equal parts sequentially; statistics are updated once per part."""
    if parts == 1:
        return task.gradients

    def accumulated(params: Any, batch_stats: Any, inputs: Any) -> tuple[Any, Any, Any]:
        def add(carry: Any, part: Any) -> tuple[Any, None]:
            total, batch_stats, sums = carry
            grads, batch_stats, part_sums = task.gradients(params, batch_stats, part)
            total = jax.tree.map(lambda a, b: a + b / parts, total, grads)
            return (total, batch_stats, sums + part_sums), None

        start = (jax.tree.map(jnp.zeros_like, params), batch_stats, task.zero_sums())
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), inputs)
        return jax.lax.scan(add, start, split, unroll=parts if unroll else 1)[0]

    return accumulated


def _update_average(average: Any, new: Any, count: Any, ema_decay: float | None) -> Any:
    """Returns the moving average after `count` steps; early steps use a smaller decay."""
    if ema_decay is None:
        return None
    decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
    return jax.tree.map(
        lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), average, new
    )
