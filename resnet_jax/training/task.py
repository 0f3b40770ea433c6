"""Tasks: the loss of a batch, its gradients, and the evaluation of a network.

The step, the loop and the records use only the protocol `Task` and know nothing of classes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from resnet_jax import data, evaluation
from resnet_jax.evaluation.metrics import ErrorSums, cross_entropy, error_sums, smoothed
from resnet_jax.registry import Registry

Loss = Callable[[Array, Array], Array]
"""(logits `[n, classes]`, targets `[n]` or `[n, classes]`) → loss per example `[n]`."""

BatchAugmentation = Callable[[PRNGKeyArray, Array, Array], tuple[Array, Array]]
"""(key, images `[n, h, w, c]`, targets `[n]`) → (images, targets), which may be `[n, classes]`."""

LOSSES = Registry("loss")
BATCH_AUGMENTATIONS = Registry("batch augmentation")
register_loss = LOSSES.register
"""Decorates a `Loss` by a name."""

register_batch_augmentation = BATCH_AUGMENTATIONS.register
"""Decorates a `BatchAugmentation` by a name."""

register_loss("cross_entropy")(cross_entropy)


@register_loss("bce")
def binary_cross_entropy(
    logits: Float[Array, "n classes"], targets: Int[Array, " n"] | Float[Array, "n classes"]
) -> Float[Array, " n"]:
    """Returns the sigmoid cross-entropy with the targets, summed over classes, in nats."""
    soft = smoothed(targets, logits.shape[-1])
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, soft), axis=-1)


@runtime_checkable
class Task(Protocol):
    """The protocol of a learning task, as a training run uses it.

    Attributes:
      headline: the evaluation metric that selects the best checkpoint; a fraction, lower is better.
    """

    headline: ClassVar[str]

    @property
    def forms(self) -> Mapping[str, tuple[str, str]]:
        """Name of each metric to show, the headline included → (title, format)."""
        ...

    def initialize(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Returns the initial variables, `{"params", "batch_stats"}`."""
        ...

    def inputs(
        self,
        normalization: data.Normalization,
        batch: Mapping[str, Array],
        key: PRNGKeyArray,
        device: Int[Array, ""],
        num_devices: int,
    ) -> Any:
        """Returns the inputs of `gradients` for this device: a tree of arrays `[n, ...]`.

        Args:
          normalization: the images' normalisation.
          batch: this device's part of the loader's batch.
          key: the step's key, the same on all devices.
          device: index of this device.
          num_devices: number of devices.
        """
        ...

    def gradients(self, params: Any, batch_stats: Any, inputs: Any) -> tuple[Any, Any, Any]:
        """Returns the gradients of the mean loss, new batch statistics, and sums to report."""
        ...

    def zero_sums(self) -> Any:
        """Returns the sums over no examples; sums have `count`, `loss`, `+` and `means()`."""
        ...

    def error(self, sums: Any) -> Float[Array, ""]:
        """Returns the training error of a batch, a fraction, as feedback to the learning rate."""
        ...

    def evaluator(self, mesh: Mesh) -> Callable[..., dict[str, float]]:
        """Returns a function of (variables, normalization, batches) that evaluates a split."""
        ...


@dataclasses.dataclass(frozen=True)
class Classification:
    """The task of assigning one class to each image.

    Attributes:
      model: the network.
      loss: (logits, targets) → loss per example.
      label_smoothing: the fraction of each label's weight that is spread evenly over all classes.
      batch_augmentation: changes images and targets inside the step, or None.
      color_shift: whether to shift each image's colours as AlexNet does (`data.pca_shift`).
    """

    headline: ClassVar[str] = "top1_error"
    model: nn.Module
    loss: Loss = cross_entropy
    label_smoothing: float = 0.0
    batch_augmentation: BatchAugmentation | None = None
    color_shift: bool = False

    @property
    def forms(self) -> dict[str, tuple[str, str]]:
        """The metrics to show; with fewer than six classes no top-5 error, which is zero."""
        forms = {"loss": ("loss", "{:.4f}"), "top1_error": ("top-1 error", "{:.2%}")}
        if getattr(self.model, "num_classes", 6) > 5:
            forms["top5_error"] = ("top-5 error", "{:.2%}")
        return forms

    def initialize(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Returns the model's initial variables for a key."""
        return dict(self.model.init(key, jnp.zeros((1, *image_shape)), train=False))

    def inputs(
        self,
        normalization: data.Normalization,
        batch: Mapping[str, Array],
        key: PRNGKeyArray,
        device: Int[Array, ""],
        num_devices: int,
    ) -> tuple[Float[Array, "n h w c"], Array]:
        """Returns normalised, augmented images and their targets."""
        pixels: UInt8[Array, "n h w c"] = batch["image"]
        targets, shift = batch["label"], None
        if self.color_shift:
            # Drawn for the whole batch, so that it does not depend on the number of devices.
            shifts = data.pca_shift(key, len(pixels) * num_devices)
            shift = jax.lax.dynamic_slice_in_dim(shifts, device * len(pixels), len(pixels))
        images = normalization(pixels, shift)
        if self.batch_augmentation is not None:
            own = jax.random.fold_in(jax.random.fold_in(key, 1), device)
            images, targets = self.batch_augmentation(own, images, targets)
        return images, targets

    def gradients(
        self, params: Any, batch_stats: Any, inputs: tuple[Array, Array]
    ) -> tuple[Any, Any, ErrorSums]:
        """Returns gradients of the mean loss, new running statistics, sums of loss and errors."""
        images, targets = inputs

        def mean_loss(params: Any) -> tuple[Array, Any]:
            logits, updates = self.model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            losses = self._losses(logits, targets)
            return jnp.mean(losses), (updates.get("batch_stats", {}), logits, losses)

        grads, (new_stats, logits, losses) = jax.grad(mean_loss, has_aux=True)(params)
        return grads, new_stats, self._sums(logits, targets, losses)

    def _losses(self, logits: Array, targets: Array) -> Float[Array, " n"]:
        if not self.label_smoothing:
            return self.loss(logits, targets)
        if self.loss is cross_entropy:
            return cross_entropy(logits, targets, self.label_smoothing)
        return self.loss(logits, smoothed(targets, logits.shape[-1], self.label_smoothing))

    def _sums(self, logits: Array, targets: Array, losses: Array) -> ErrorSums:
        """Returns the sums to report; errors are counted against the heaviest target.

        The reported loss is the cross-entropy without smoothing, as in an evaluation, if that is
        the training loss and targets are labels; otherwise it is the training loss itself.
        """
        if targets.ndim == 1:
            sums = error_sums(logits, targets)
            if self.loss is cross_entropy:
                return sums
        else:
            sums = error_sums(logits, jnp.argmax(targets, axis=-1))
        return sums.replace(loss=jnp.sum(losses).astype(float))

    def zero_sums(self) -> ErrorSums:
        """Returns the sums over no images."""
        return ErrorSums.zero()

    def error(self, sums: ErrorSums) -> Float[Array, ""]:
        """Returns the top-1 error of a batch."""
        return sums.top1_wrong / sums.count

    def evaluator(self, mesh: Mesh) -> Callable[..., dict[str, float]]:
        """Returns a function that evaluates the batches of `data.eval_batches`."""
        eval_step = evaluation.make_eval_step(self.model, mesh)

        def evaluate(
            variables: Any,
            normalization: data.Normalization,
            batches: Iterable[data.EvalBatch],
        ) -> dict[str, float]:
            return evaluation.evaluate(eval_step, variables, normalization, batches, mesh)

        return evaluate
