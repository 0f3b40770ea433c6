"""The configuration keys: the type, range, default and meaning of each.

A file under `configs/` starts from `default_config()`, sets its experiment's keys and returns the
`ConfigDict`. `--config.KEY=VALUE` overrides a key. `resolve` checks the result and freezes it as a
`TrainConfig`.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from ml_collections import ConfigDict, config_dict
from pydantic import AfterValidator, Field

from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.runtime.interrupts import parse_duration


class _Changeable:
    """Marks a key that a resumed run may change."""


CHANGEABLE = _Changeable()


def _duration(text: str) -> str:
    parse_duration(text)
    return text


Count = Annotated[int, Field(gt=0, lt=2**31)]
NotNegative = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Duration = Annotated[str, AfterValidator(_duration)]


@pydantic.dataclasses.dataclass(
    frozen=True,
    kw_only=True,
    config=pydantic.ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True),
)
class TrainConfig:
    """One experiment. Steps count updates; errors are fractions; sizes are in pixels.

    Raises:
      ConfigError: a key is unknown, or a value has the wrong type or is out of range.
    """

    # The network.
    model: str = "resnet50"
    """A name of `resnet_jax.list_models()`."""
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of `create_model`, such as `shortcut` and `zero_init_residual`."""
    init_from: str | None = None
    """Weights to start from: a weights file in any supported format, or a work directory."""
    skip_head: bool = False
    """Whether to replace the classifier of `init_from` with a newly initialised one."""
    num_classes: Count | None = None
    """Outputs of the classifier; by default the data set's number of classes."""
    remat: bool = False
    """Whether to recompute activations in the backward pass: less memory, a third slower."""
    batch_norm: Literal["local", "global"] = "local"
    """`"local"`: statistics per device, as in the paper; `"global"`: shared by all devices."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of convolutions; parameters, statistics, logits and loss stay float32."""

    # The data.
    dataset: str = "imagenet2012"
    """A TFDS data set, a folder, the bundled `fashion_mnist_mini`, or a registered name."""
    data_dir: Annotated[str | None, CHANGEABLE] = None
    """The folder of TFDS data sets; by default TFDS's own (`~/tensorflow_datasets`)."""
    train_split: str = "train"
    """The training split in TFDS's syntax: `train`, `train[:45000]`, …"""
    eval_split: str = "validation"
    """The split to evaluate; each of its images counts exactly once."""
    image_size: Count | None = None
    """Side of the crops of the `imagenet` augmentations; the others keep the images' size."""
    channels: Literal[1, 3] | None = None
    """Converts images to colour (3) or greyscale (1); by default the data set's own channels."""
    augmentation: str = "imagenet"
    """`none`, `cifar` (pad 4, crop, mirror), `imagenet` (random resized crop, mirror),
    `imagenet_paper` (random scale, crop, mirror), or a name of `register_augmentation`."""
    preprocess: str = "torchvision"
    """`torchvision`, `caffe`, `cifar` (per-pixel mean subtracted), `none`, `weights` (that which
    comes with `init_from`, with its evaluation crop), or a registered name."""
    color_augmentation: Literal["none", "pca"] = "none"
    """`none`, or `pca`: shifts colours along ImageNet's principal components, as AlexNet does."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An undecodable image ends the run (`error`) or is replaced by the next one (`skip`); a
    resumed run may change `error` to `skip`."""
    on_changed_data: Annotated[Literal["error", "accept"], CHANGEABLE] = "error"
    """Whether a resumed run refuses (`error`) or accepts a data set whose files have changed."""
    loader_threads: Annotated[Count | None, CHANGEABLE] = None
    """Threads that prepare batches, one batch each; by default one per processor, at most 16."""
    loader_workers: Annotated[NotNegative, CHANGEABLE] = 0
    """Loader processes, each with its own threads; with 0 the threads run in the main process."""
    device_resident: Annotated[Literal["auto", "yes", "no"], CHANGEABLE] = "auto"
    """Whether the devices keep the training images and cut the same batches from them: `yes`,
    `no`, or `auto`, which means yes on accelerators for data sets of arrays of at most 1 GiB."""

    # The optimiser.
    optimizer: str = "sgd"
    """`sgd`, `adamw`, `lars`, `lamb`, `rmsprop`, or a name of `register_optimizer`."""
    optimizer_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further arguments of the optimiser, such as optax's `b1`, `b2` and `eps`."""
    train_parts: tuple[str, ...] = ()
    """Parts of the network to train, such as `("head",)`; all parts if empty."""
    loss: str = "cross_entropy"
    """`cross_entropy`, `bce`, or a name of `register_loss`."""
    batch_augmentation: str | None = None
    """A name of `register_batch_augmentation`; it changes images and targets inside the step."""
    batch_size: Count = 256
    """Images per step, over all devices."""
    accumulate_steps: Count = 1
    """Number of equal parts of each device's share of a batch, computed sequentially."""
    eval_batch_size: Annotated[Count | None, CHANGEABLE] = None
    """Images per evaluation step, by default `batch_size`; rounded up to fit the devices."""
    num_steps: Annotated[Count | None, CHANGEABLE] = None
    """Length of the run in steps; alternatively, set `num_epochs`."""
    num_epochs: Annotated[Positive | None, CHANGEABLE] = None
    """Length of the run in passes over the training split."""
    learning_rate: Positive = 0.1
    """The peak learning rate, for `learning_rate_batch_size` images per step."""
    learning_rate_batch_size: Count | None = None
    """If given, the learning rate is scaled by `batch_size / learning_rate_batch_size`."""
    schedule_steps: Count | None = None
    """Length of the schedule in steps, by default the config file's `num_steps`: a run shortened
    on the command line follows the start of the recipe's schedule."""
    schedule_epochs: Positive | None = None
    """Length of the schedule in passes over the training split."""
    scale_schedule: bool = False
    """Whether a run length from the command line stretches the schedule and its warm-up."""
    schedule: str = "cosine"
    """`constant`, `step` (times `decay_factor` at each of `boundaries`), `cosine` (to zero) or
    `plateau` (times `decay_factor` when the evaluation error stops falling)."""
    warmup_steps: NotNegative | None = None
    """Length of the linear warm-up in steps; alternatively, set `warmup_epochs`."""
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Length of the linear warm-up in passes over the training split."""
    warmup_until_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    """If given, use `warmup_learning_rate` until the training error is below this fraction."""
    warmup_learning_rate: Positive = 0.01
    """The learning rate until the training error is below `warmup_until_error`."""
    boundaries: tuple[Count, ...] = ()
    """Steps at which schedule `step` decays; alternatively, set `boundaries_epochs`."""
    boundaries_epochs: tuple[Positive, ...] = ()
    """Passes over the training split after which schedule `step` decays."""
    decay_factor: Positive = 0.1
    """Factor that multiplies the learning rate at each boundary or plateau."""
    plateau_patience: NotNegative = 2
    """Consecutive evaluations without a new lowest error that schedule `plateau` tolerates."""
    momentum: Share = 0.9
    """Momentum; in SGD, velocity = momentum * velocity + gradient."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    """Weight decay; SGD adds it times the parameter to the gradient before the momentum."""
    decay_scales_and_biases: bool = True
    """Whether weight decay also applies to batch normalisation and biases, as in the paper."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """If given, evaluates exponential moving averages of weights and statistics over steps."""
    label_smoothing: Share = 0.0
    """Fraction of each label's weight that training spreads evenly over all classes."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial parameters, the order and crops of images, and the steps' random keys."""

    # Records.
    log_every: Annotated[Count, CHANGEABLE] = 100
    """Steps between lines in `metrics.jsonl`."""
    eval_every: Annotated[Count | None, CHANGEABLE] = None
    """Steps between evaluations, by default 1000; alternatively, set `eval_every_epochs`. The last
    step is evaluated, too."""
    eval_every_epochs: Annotated[Positive | None, CHANGEABLE] = None
    """Passes over the training split between evaluations."""
    checkpoint_every: Annotated[Count | None, CHANGEABLE] = None
    """Steps between checkpoints, by default 1000; alternatively, set `checkpoint_every_epochs`.
    Each evaluation and the last step also write one."""
    checkpoint_every_epochs: Annotated[Positive | None, CHANGEABLE] = None
    """Passes over the training split between checkpoints."""
    stop_after: Annotated[Duration | None, CHANGEABLE] = None
    """A time such as `3h50m` after which the run saves its state and ends; it can be resumed."""
    on_nan: Annotated[Literal["stop", "rollback"], CHANGEABLE] = "stop"
    """Reaction to divergence: `stop`, or `rollback` to the last checkpoint with half the learning
    rate, at most 5 times."""
    profile_steps: Annotated[tuple[Count, ...], CHANGEABLE] = ()
    """First and last step to trace; TensorBoard and Perfetto open the trace in `profile/`."""
    compilation_cache: Annotated[str, CHANGEABLE] = "auto"
    """Folder that keeps compiled programs for the next start; or `auto`, or `none`."""
    keep_checkpoints: Annotated[Count, CHANGEABLE] = 3
    """Number of newest checkpoints to keep, besides the best by evaluation error."""


KEYS = tuple(field.name for field in dataclasses.fields(TrainConfig))

_HINTS = typing.get_type_hints(TrainConfig, include_extras=True)

CHANGEABLE_KEYS = tuple(key for key in KEYS if CHANGEABLE in typing.get_args(_HINTS[key]))
"""Keys that a resumed run may change, because they alter no update; `identity` has the exceptions.
"""

NULLABLE_KEYS = tuple(
    key
    for key, hint in typing.get_type_hints(TrainConfig).items()
    if type(None) in typing.get_args(hint)
)
"""Keys that may be None, which switches them off or selects a default."""

_UNITS = (
    ("num_steps", "num_epochs"),
    ("warmup_steps", "warmup_epochs"),
    ("schedule_steps", "schedule_epochs"),
    ("eval_every", "eval_every_epochs"),
    ("checkpoint_every", "checkpoint_every_epochs"),
    ("boundaries", "boundaries_epochs"),
)
"""Keys of one quantity in steps and in epochs, of which at most one is given."""

_MODEL_OPTIONS: dict[str, type] = {
    "shortcut": str,
    "stem": str,
    "zero_init_residual": bool,
    "replace_stride_with_dilation": tuple,
    "kernels": str,
}
"""Options that `--config.model_options.KEY=VALUE` can set even if the recipe does not."""


def default_config() -> ConfigDict:
    """Returns every key with its typed default, so that flags can override it."""
    config = ConfigDict()
    for field in dataclasses.fields(TrainConfig):
        if field.name == "model_options":
            options = {name: config_dict.placeholder(kind) for name, kind in _MODEL_OPTIONS.items()}
            config.model_options = ConfigDict(options)
        elif field.name == "optimizer_options":
            config.optimizer_options = ConfigDict()
        elif field.default is None:
            config[field.name] = config_dict.placeholder(_type_of_flag(field.name))
        else:
            config[field.name] = field.default
    return config


def resolve(config: ConfigDict, recipe: ConfigDict | None = None) -> TrainConfig:
    """Checks a configuration and freezes it.

    Args:
      config: the config file's result with the command line's changes.
      recipe: the config file's result without them. A length or period from the command line, in
        either unit, replaces the file's; the schedule keeps the length of the file's run.

    Raises:
      ConfigError: a key is unknown, or a value is invalid or contradicts another one.
    """
    values = config.to_dict()
    for key in values:
        check_key(key)
    options = values.get("model_options", {})
    if isinstance(options, dict):
        given = options.items()
        values["model_options"] = {name: value for name, value in given if value is not None}
    if recipe is not None:
        file = recipe.to_dict()
        for steps, epochs in _UNITS:
            changed = [key for key in (steps, epochs) if values.get(key) != file.get(key)]
            if len(changed) == 1:
                values[epochs if changed == [steps] else steps] = (
                    () if steps == "boundaries" else None
                )
    else:
        file = values
    if values.get("schedule_steps") is None and values.get("schedule_epochs") is None:
        length = file if file.get("num_steps") or file.get("num_epochs") else values
        values["schedule_steps"] = length.get("num_steps")
        values["schedule_epochs"] = length.get("num_epochs")
    resolved = checked(values)
    # A recipe's boundaries may lie past the end of a run that the command line shortens;
    # boundaries from the command line may not.
    own = list(resolved.boundaries) != list(file.get("boundaries", ()))
    end = resolved.num_steps if own and not resolved.scale_schedule else resolved.schedule_steps
    if end is not None and resolved.boundaries:
        check_boundaries(resolved, resolved.boundaries, end)
    return resolved


def checked(values: Mapping[str, Any]) -> TrainConfig:
    """Returns the configuration of some values by key, as in `config.json`; others get defaults.

    Raises:
      ConfigError: a value has the wrong type or is out of range, or values contradict each other.
    """
    tuples: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
    }
    if isinstance(parts := tuples.get("train_parts"), tuple) and len(parts) == 1:
        # A flag's text, `--config.train_parts=stage4,head`.
        tuples["train_parts"] = tuple(str(parts[0]).split(","))
    try:
        config = TrainConfig(**tuples)
    except pydantic.ValidationError as error:
        raise ConfigError(_message(error.errors()[0], tuples)) from None
    _check_together(config)
    return config


def check_boundaries(config: TrainConfig, boundaries: tuple[int, ...], end: int) -> None:
    """Raises a `ConfigError` if a boundary lies at or after the end of schedule `step`.

    Args:
      config: the run's configuration.
      boundaries: its boundaries, in steps.
      end: the step at which the schedule ends.
    """
    if config.schedule == "step" and boundaries[-1] >= end:
        given = f"config.boundaries={config.boundaries}"
        if config.boundaries_epochs:
            given = f"config.boundaries_epochs={config.boundaries_epochs} (steps {boundaries})"
        raise ConfigError(
            f"{given} do not all lie before the end, step {end}; remove the later ones, or "
            "lengthen the run"
        )


def check_key(key: str, prefix: str = "config.") -> None:
    """Raises a `ConfigError` that names the closest key if `key` is unknown."""
    name = key.partition(".")[0]
    if name not in KEYS:
        hint = did_you_mean(f"{prefix}{name}", [f"{prefix}{known}" for known in KEYS])
        raise ConfigError(f"unknown configuration key {prefix}{key}{hint}; see train.py --help")


def _type_of_flag(key: str) -> type:
    """Returns the flag type of a key: that of its values other than None."""
    hint = typing.get_type_hints(TrainConfig)[key]
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if is_union else (hint,)
    kind = next(member for member in members if member is not type(None))
    if typing.get_origin(kind) is Literal:
        return type(typing.get_args(kind)[0])
    return typing.get_origin(kind) or kind


def _message(error: Any, values: Mapping[str, Any]) -> str:
    """Returns the message for one of pydantic's errors."""
    key = error["loc"][0]
    value = values.get(key)
    if error["type"] == "literal_error":
        choices = _choices(_HINTS[key])
        hint, listed = did_you_mean(value, choices), ", ".join(map(repr, choices))
        return f"config.{key}={value!r} is unknown{hint}; choose one of {listed}"
    if error["type"] == "value_error":
        return f"config.{key}: {error['ctx']['error']}"
    wrong = error["msg"].replace("Input should be", "must be")
    return f"config.{key}={value!r} {wrong[0].lower()}{wrong[1:]}; see train.py --help"


def _choices(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(choice for part in typing.get_args(hint) for choice in _choices(part))


def _check_together(config: TrainConfig) -> None:
    """Raises a `ConfigError` if values contradict each other."""
    if config.profile_steps and (
        len(config.profile_steps) != 2 or config.profile_steps[0] > config.profile_steps[1]
    ):
        raise ConfigError(
            f"config.profile_steps={config.profile_steps} must be a first and last step like 10,20"
        )
    if config.preprocess == "weights" and config.init_from is None:
        raise ConfigError("config.preprocess='weights' needs config.init_from; set it too")
    if config.skip_head and config.init_from is None:
        raise ConfigError("config.skip_head needs weights to start from; set config.init_from too")
    for one, other in _UNITS:
        if getattr(config, one) not in (None, ()) and getattr(config, other) not in (None, ()):
            raise ConfigError(f"config.{one} and config.{other} are both given; keep one of them")
    if config.eval_split == "train":
        raise ConfigError(
            "config.eval_split='train' would clash with the training lines in metrics.jsonl; "
            "set 'train[:100%]' to evaluate the training images"
        )
    if config.num_steps is None and config.num_epochs is None:
        raise ConfigError("the run has no length; set config.num_steps or config.num_epochs")
    if config.schedule == "step" and not config.boundaries and not config.boundaries_epochs:
        raise ConfigError("config.schedule='step' needs config.boundaries, such as (32000, 48000)")
    for key in ("boundaries", "boundaries_epochs"):
        if list(given := getattr(config, key)) != sorted(set(given)):
            raise ConfigError(f"config.{key}={given} must be positive and increasing")
