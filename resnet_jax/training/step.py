"""One update: a pure function of (state, batch), the same program on every device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ..data import Transform, cut, pca_shift
from ..evaluation.metrics import ErrorSums, cross_entropy, error_sums
from ..parallel import DATA_AXIS, compiler_options
from .config import TrainConfig
from .health import Health
from .state import TrainState

Metrics = dict[str, Any]
TrainStep = Callable[..., tuple[TrainState, Metrics]]
Gradients = Callable[[Any, Any, Array, Array], tuple[Any, Any, ErrorSums]]


def make_train_step(
    config: TrainConfig,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    transform: Transform | None = None,
) -> TrainStep:
    """Returns the compiled `train_step(state, batch, dataset=()) -> (state, metrics)`.

    The old state's memory is reused for the new one; loss and errors add up in `state.sums`.
    `metrics` holds the step's `learning_rate`, its `health` and `stop`, the number of devices whose
    host wants to end the run (the sum of `batch["stop"]`, where it is given).

    Each device runs the network on its own part of the batch: batch statistics are its own unless
    the model was made with `norm_axis_name="data"`. Then gradients and running statistics are
    averaged over the devices, and the sums of loss and errors added up: the one point of the step
    where devices talk. The state stays equal on all of them.

    Args:
      config: the run: label smoothing, colour augmentation and warm-up by error are part of a step.
      model: the network.
      optimizer: what turns gradients into updates, for a learning rate of one.
      schedule: the learning rate as a function of the number of updates done.
      mesh: the devices; `state` comes replicated over them, `batch` (`image` uint8 `[n, h, w, c]`,
        `label` int32 `[n]`) split. With a `dataset`, the images and labels of the whole training
        split, replicated, `batch` says what to cut from it (`data.train_batches`, `pixels=False`),
        and may do so for several steps (`[steps, n]`), which are then done one after the other;
        all of `metrics` have that axis too.
      transform: what a `dataset`'s batches are cut by.
    """
    gradients = _accumulated(
        partial(_gradients, model, config.label_smoothing),
        config.accumulate_steps,
        # XLA's CPU back end runs convolutions inside a loop many times slower than outside.
        unroll=mesh.devices.flat[0].platform == "cpu",
    )

    shared = _shared_at_once if mesh.size > 1 and _is_gpu(mesh) else _shared

    def device_step(state: TrainState, batch: Any, dataset: Any) -> tuple[TrainState, Metrics]:
        if transform is not None and dataset:
            pixels, labels = cut(transform, dataset, batch)
        else:
            pixels, labels = batch["image"], batch["label"]
        shift = None
        if config.color_augmentation == "pca":
            shift = _color_shift(state, len(pixels), mesh.size)
        images = state.normalization(pixels, shift)
        grads, batch_stats, sums = gradients(state.params, state.batch_stats, images, labels)
        wishes = jnp.sum(batch["stop"]) if "stop" in batch else jnp.zeros((), jnp.int32)
        (grads, batch_stats), (sums, wishes) = shared((grads, batch_stats), (sums, wishes))

        learning_rate = state.feedback.learning_rate(config, schedule(state.step))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda update: learning_rate * update, updates)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=_moved(config, state, params, batch_stats),
            feedback=state.feedback.after_step(config, sums.top1_wrong / sums.count),
            sums=state.sums + sums,
        )
        health = Health.of(sums.loss / sums.count, grads, batch_stats)
        return state, {"learning_rate": learning_rate, "stop": wishes, "health": health}

    step = jax.shard_map(
        device_step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS), PartitionSpec()),
        out_specs=PartitionSpec(),
        # Gradients stay each device's own until the explicit mean above.
        check_vma=False,
    )

    def train_step(state: TrainState, batch: Any, dataset: Any = ()) -> tuple[TrainState, Metrics]:
        if dataset and batch["index"].ndim == 2:
            return jax.lax.scan(lambda state, batch: step(state, batch, dataset), state, batch)
        return step(state, batch, dataset)

    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(train_step, donate_argnums=0, compiler_options=options)


def _is_gpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform in ("gpu", "cuda", "rocm")


def _shared(means: Any, totals: Any) -> tuple[Any, Any]:
    """Averages `means` over the devices and adds `totals` up; XLA makes few all-reduces of it."""
    return jax.lax.pmean(means, DATA_AXIS), jax.lax.psum(totals, DATA_AXIS)


def _shared_at_once(means: Any, totals: Any) -> tuple[Any, Any]:
    """The same through one array, for on a GPU XLA makes an all-reduce for each kernel.

    The totals are counts and a loss; float32 holds whole numbers below 2^24 exactly.
    """
    numbers, restore = ravel_pytree((means, totals))
    means, totals = restore(jax.lax.psum(numbers, DATA_AXIS))
    return jax.tree.map(lambda leaf: leaf / jax.lax.axis_size(DATA_AXIS), means), totals


def _color_shift(
    state: TrainState, num_images: int, num_devices: int
) -> Float[Array, "num_images 3"]:
    """This device's part of the colour shifts of the whole batch, a function of the step."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    shifts = pca_shift(key, num_images * num_devices)
    start = jax.lax.axis_index(DATA_AXIS) * num_images
    return jax.lax.dynamic_slice_in_dim(shifts, start, num_images)


def _gradients(
    model: nn.Module,
    label_smoothing: float,
    params: Any,
    batch_stats: Any,
    images: Float[Array, "n h w c"],
    labels: Int[Array, " n"],
) -> tuple[Any, Any, ErrorSums]:
    """Gradients of the mean loss, new running statistics, sums of loss and errors."""

    def loss_fn(params: Any) -> tuple[Float[Array, ""], tuple[Any, Float[Array, "n classes"]]]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        loss = jnp.mean(cross_entropy(logits, labels, label_smoothing))
        return loss, (updates["batch_stats"], logits)

    grads, (new_stats, logits) = jax.grad(loss_fn, has_aux=True)(params)
    return grads, new_stats, error_sums(logits, labels)


def _accumulated(gradients: Gradients, parts: int, unroll: bool) -> Gradients:
    """The same from equal parts of the batch, one after the other; statistics move once a part."""
    if parts == 1:
        return gradients

    def accumulated(
        params: Any, batch_stats: Any, images: Array, labels: Array
    ) -> tuple[Any, Any, ErrorSums]:
        def add(carry: Any, part: Any) -> tuple[Any, None]:
            total, batch_stats, sums = carry
            grads, batch_stats, part_sums = gradients(params, batch_stats, *part)
            total = jax.tree.map(lambda a, b: a + b / parts, total, grads)
            return (total, batch_stats, sums + part_sums), None

        start = (jax.tree.map(jnp.zeros_like, params), batch_stats, ErrorSums.zero())
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), (images, labels))
        return jax.lax.scan(add, start, split, unroll=parts if unroll else 1)[0]

    return accumulated


def _moved(config: TrainConfig, state: TrainState, params: Any, batch_stats: Any) -> Any:
    """The moving average of weights and statistics after a step; its memory grows from short."""
    if config.ema_decay is None:
        return None
    count = state.step + 1
    decay = jnp.minimum(config.ema_decay, (1 + count) / (10 + count))
    new = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(
        lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.average, new
    )
