"""What a run is told: every key with its type, its default and its check.

A file under `configs/` starts from `default_config()`, sets what its experiment is about and
returns the `ConfigDict`; `--config.KEY=VALUE` changes a key; `resolve` checks the whole and freezes
it as a `TrainConfig`, which is all that the trainer sees.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from ..data import AUGMENTATIONS, PREPROCESSES
from .stop import parse_duration


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and the remedy, in one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One experiment. Steps count updates; errors are fractions; sizes are in pixels."""

    # The network.
    model: str = "resnet50"
    """A name of `resnet_jax.list_models()`."""
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of `create_model`, such as `shortcut` and `zero_init_residual`."""
    init_from: str | None = None
    """Fine-tuning: a weights file of any origin, or a work directory, to begin with."""
    skip_head: bool = False
    """Whether the classifier of `init_from` is left out for a new one."""
    num_classes: int | None = None
    """Outputs of the classifier; as many as the data set has classes if not given."""
    remat: bool = False
    """Whether activations are computed anew in the backward pass: less memory, a third slower."""
    batch_norm: str = "local"
    """`"local"`: statistics per device, as in the paper; `"global"`: shared by all devices."""
    dtype: str = "float32"
    """What convolutions compute in; parameters, statistics, logits and loss stay float32."""

    # The data.
    dataset: str = "imagenet2012"
    """A TFDS data set in ArrayRecord form, or `fashion_mnist_mini`, which is bundled."""
    data_dir: str | None = None
    """Where TFDS data sets lie; TFDS's own default (`~/tensorflow_datasets`) if not given."""
    train_split: str = "train"
    """In TFDS's syntax: `train`, `train[:45000]`, …"""
    eval_split: str = "validation"
    """The split whose error is reported; every image of it counts exactly once."""
    image_size: int | None = None
    """Side of the crops of augmentation `imagenet`; the others keep the images' own size."""
    channels: int | None = None
    """3 or 1, to turn images into colour or grey; the data set's own if not given."""
    augmentation: str = "imagenet"
    """`none`, `cifar` (pad 4, crop, mirror) or `imagenet` (random resized crop, mirror)."""
    preprocess: str = "torchvision"
    """`torchvision`, `caffe`, `cifar` (per-pixel mean subtracted) or `none`."""
    color_augmentation: str = "none"
    """`none`, or `pca`: along the principal components of ImageNet's colours, as in AlexNet."""
    on_bad_image: str = "error"
    """`error`: an image that cannot be decoded ends the run; `skip`: the next one stands in."""
    loader_threads: int | None = None
    """Batches made ready at a time, a thread each; one a processor, at most 16, if not given."""
    loader_workers: int = 0
    """Processes that load, each with its threads; with 0 the threads are the run's own."""
    device_resident: str = "auto"
    """Whether the training images are kept on the devices, which cut the same batches from them:
    `yes`, `no`, or `auto`, on an accelerator where they are arrays of at most 1 GiB."""

    # The optimiser.
    batch_size: int = 256
    """Images a step, over all devices."""
    accumulate_steps: int = 1
    """Into how many parts, one after the other, each device's share of a batch is divided."""
    eval_batch_size: int | None = None
    """Images an evaluation step; `batch_size` if not given. Rounded up to the device count."""
    num_steps: int | None = None
    """Length of the run in steps; or give `num_epochs`."""
    num_epochs: float | None = None
    """Length of the run in passes over the training split."""
    learning_rate: float = 0.1
    """The highest learning rate, for `learning_rate_batch_size` images a step."""
    learning_rate_batch_size: int | None = None
    """If given, the learning rate is scaled by `batch_size / learning_rate_batch_size`."""
    schedule_steps: int | None = None
    """Steps that the schedule is laid out for: the config file's `num_steps` if not given, so that
    a run cut short on the command line follows the beginning of the recipe's schedule."""
    schedule_epochs: float | None = None
    """The same in passes over the training split."""
    scale_schedule: bool = False
    """Whether a length from the command line stretches the schedule's boundaries and warm-up."""
    schedule: str = "cosine"
    """`constant`, `step` (times `decay_factor` at each of `boundaries`), `cosine` (to zero) or
    `plateau` (times `decay_factor` when the evaluation error stops falling)."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises linearly; or give `warmup_epochs`."""
    warmup_epochs: float | None = None
    """Passes over the training split during which the learning rate rises linearly."""
    warmup_until_error: float | None = None
    """Warm-up by training error: until it is below this fraction, `warmup_learning_rate` holds."""
    warmup_learning_rate: float = 0.01
    """The learning rate while `warmup_until_error` is awaited."""
    boundaries: tuple[int, ...] = ()
    """Steps at which schedule `step` decays."""
    decay_factor: float = 0.1
    """What the learning rate is multiplied by at each boundary."""
    plateau_patience: int = 2
    """Evaluations in a row without a new lowest error that schedule `plateau` puts up with."""
    momentum: float = 0.9
    """Of SGD: velocity = momentum * velocity + gradient."""
    weight_decay: float = 1e-4
    """Times the parameter, added to the gradient before the momentum (PyTorch's order)."""
    decay_scales_and_biases: bool = True
    """Whether weight decay reaches batch normalisation and biases, too, as in the paper."""
    ema_decay: float | None = None
    """If given, weights and statistics are averaged over steps, and the averages evaluated."""
    label_smoothing: float = 0.0
    """The part of each label's weight that is spread evenly over all classes, in training."""
    seed: int = 0
    """Decides the initial parameters and the order and crops of the images; nothing else does."""

    # Records.
    log_every: int = 100
    """Steps between lines in `metrics.jsonl`."""
    eval_every: int = 1000
    """Steps between evaluations; one more follows the last step."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; evaluations and the last step make one, too."""
    stop_after: str | None = None
    """A time such as `3h50m` after which the run saves its state and ends, to be taken up again."""
    on_nan: str = "stop"
    """What a diverging run does: `stop`, or `rollback` to the last checkpoint with half the
    learning rate, at most 5 times."""
    profile_steps: tuple[int, ...] = ()
    """First and last step of a trace in `profile/` that TensorBoard and Perfetto open."""
    compilation_cache: str = "auto"
    """Where compiled programs are kept for the next start: a directory, `auto` or `none`."""
    keep_checkpoints: int = 3
    """How many of the newest to keep, besides the best by evaluation error."""


UNTIED = (
    "data_dir",
    "loader_threads",
    "loader_workers",
    "device_resident",
    "eval_batch_size",
    "num_steps",
    "num_epochs",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "stop_after",
    "on_nan",
    "profile_steps",
    "compilation_cache",
    "keep_checkpoints",
)
"""Keys that a run may change when it is taken up again: none of them alters an update.

With `scale_schedule` the length of the run does, and may not.
"""

_CHOICES = {
    "batch_norm": ("local", "global"),
    "dtype": ("float32", "bfloat16"),
    "schedule": ("constant", "step", "cosine", "plateau"),
    "color_augmentation": ("none", "pca"),
    "on_bad_image": ("error", "skip"),
    "device_resident": ("auto", "yes", "no"),
    "on_nan": ("stop", "rollback"),
    "channels": (1, 3),
    "augmentation": AUGMENTATIONS,
    "preprocess": PREPROCESSES,
}
_POSITIVE = (
    "num_classes",
    "image_size",
    "loader_threads",
    "batch_size",
    "accumulate_steps",
    "eval_batch_size",
    "num_steps",
    "num_epochs",
    "schedule_steps",
    "schedule_epochs",
    "learning_rate",
    "learning_rate_batch_size",
    "warmup_learning_rate",
    "decay_factor",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
)
_LENGTHS = (
    ("num_steps", "num_epochs"),
    ("warmup_steps", "warmup_epochs"),
    ("schedule_steps", "schedule_epochs"),
)
_NOT_NEGATIVE = (
    "loader_workers",
    "plateau_patience",
    "warmup_steps",
    "warmup_epochs",
    "weight_decay",
    "seed",
)

_MODEL_OPTIONS: dict[str, type] = {
    "shortcut": str,
    "stem": str,
    "zero_init_residual": bool,
    "replace_stride_with_dilation": tuple,
    "kernels": str,
}
"""Options that `--config.model_options.KEY=VALUE` can set."""

KEYS = tuple(field.name for field in dataclasses.fields(TrainConfig))
_TYPES = typing.get_type_hints(TrainConfig)


def default_config() -> ConfigDict:
    """Returns every key with its default, typed, so that flags can override any of them."""
    config = ConfigDict()
    for field in dataclasses.fields(TrainConfig):
        if field.name == "model_options":
            options = {name: config_dict.placeholder(kind) for name, kind in _MODEL_OPTIONS.items()}
            config.model_options = ConfigDict(options)
        elif field.default is None:
            config[field.name] = config_dict.placeholder(_value_types(field.name)[0])
        else:
            config[field.name] = field.default
    return config


def resolve(config: ConfigDict, recipe: ConfigDict | None = None) -> TrainConfig:
    """Checks a configuration and freezes it.

    Args:
      config: what the config file returned, with the command line's changes.
      recipe: what the config file returned, without them. A length that the command line gives
        replaces the file's, in whichever unit, but the learning rate's course stays the file's.

    Raises:
      ConfigError: an unknown key, a wrong type, a value out of range, a contradiction.
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
        for steps, epochs in _LENGTHS:
            changed = [key for key in (steps, epochs) if values.get(key) != file.get(key)]
            if len(changed) == 1:
                values[epochs if changed == [steps] else steps] = None
    else:
        file = values
    if values.get("schedule_steps") is None and values.get("schedule_epochs") is None:
        length = file if file.get("num_steps") or file.get("num_epochs") else values
        values["schedule_steps"] = length.get("num_steps")
        values["schedule_epochs"] = length.get("num_epochs")
    resolved = checked(values)
    # A recipe's boundaries may lie behind the end of a run that the command line cuts short; those
    # that the command line itself gives may not.
    own = list(resolved.boundaries) != list(file.get("boundaries", ()))
    end = resolved.num_steps if own and not resolved.scale_schedule else resolved.schedule_steps
    if end is not None:
        check_boundaries(resolved, end)
    return resolved


def checked(values: Mapping[str, Any]) -> TrainConfig:
    """Returns a configuration of values by key, such as `config.json` has, the others' the default.

    Raises:
      ConfigError: a wrong type, a value out of range, a contradiction.
    """
    config = TrainConfig(**{key: _typed(key, value) for key, value in values.items()})
    _check_ranges(config)
    return config


def in_steps(steps: int | None, epochs: float | None, config: TrainConfig, train_size: int) -> int:
    """Returns a length in steps, given in steps or else in passes over `train_size` images."""
    if steps is not None:
        return steps
    return round((epochs or 0) * train_size / config.batch_size)


def lengths(config: TrainConfig, train_size: int) -> tuple[int, int]:
    """Returns the steps of the run, and those that its schedule is laid out for."""
    return (
        max(1, in_steps(config.num_steps, config.num_epochs, config, train_size)),
        in_steps(config.schedule_steps, config.schedule_epochs, config, train_size),
    )


def check_boundaries(config: TrainConfig, end: int) -> None:
    """Raises a `ConfigError` if the learning rate is to decay at a step that never comes.

    Args:
      config: the run.
      end: the step at which the schedule ends.
    """
    if config.schedule == "step" and config.boundaries[-1] >= end:
        raise ConfigError(
            f"config.boundaries={config.boundaries} do not all lie before the end, step {end}; "
            "leave out those that do not, or lengthen the run"
        )


def check_key(key: str, prefix: str = "config.") -> None:
    """Raises a `ConfigError` that names the nearest right key if `key` is not one."""
    name, *rest = key.split(".")
    if name not in KEYS:
        near = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.5)
        hint = f"did you mean {prefix}{near[0]}?" if near else "see resnet_jax/training/config.py"
        raise ConfigError(f"unknown configuration key {prefix}{key}; {hint}")
    if rest and name == "model_options" and rest[0] not in _MODEL_OPTIONS:
        raise ConfigError(
            f"unknown model option {prefix}{key}; the options are {', '.join(_MODEL_OPTIONS)}"
        )


def _value_types(key: str) -> list[type]:
    """The types that a key's value may have, None left out."""
    hint = _TYPES[key]
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return [typing.get_origin(m) or m for m in members if m is not type(None)]


def _typed(key: str, value: Any) -> Any:
    """Returns `value` as the key's type; whole numbers pass for floats, lists for tuples."""
    allowed = _value_types(key)
    if value is None and type(None) in typing.get_args(_TYPES[key]):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed:
        return float(value)
    if isinstance(value, list) and tuple in allowed:
        value = tuple(value)
    right = any(type(value) is kind for kind in allowed)
    if right and isinstance(value, tuple):
        right = all(type(item) is int for item in value)
    if not right:
        wanted = "tuple of int" if tuple in allowed else allowed[0].__name__
        raise ConfigError(f"config.{key} must be of type {wanted}, not {value!r}")
    return value


def _check_ranges(config: TrainConfig) -> None:
    for key, choices in _CHOICES.items():
        value = getattr(config, key)
        if value is not None and value not in choices:
            near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            listed = ", ".join(repr(choice) for choice in choices)
            raise ConfigError(f"config.{key}={value!r} is unknown; {hint}choose one of {listed}")
    for key in _POSITIVE:
        value = getattr(config, key)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"config.{key}={value} must be greater than 0")
    for key in _NOT_NEGATIVE:
        value = getattr(config, key)
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"config.{key}={value} must not be negative")
    for key, value in vars(config).items():
        limit = 2**32 if key == "seed" else 2**31
        if type(value) is int and value >= limit:
            raise ConfigError(f"config.{key}={value} must be below {limit}")
    if config.profile_steps and (
        len(config.profile_steps) != 2 or not 0 < config.profile_steps[0] <= config.profile_steps[1]
    ):
        raise ConfigError(
            f"config.profile_steps={config.profile_steps} must be a first and a last step, as 10,20"
        )
    if config.stop_after is not None:
        try:
            parse_duration(config.stop_after)
        except ValueError as error:
            raise ConfigError(f"config.stop_after: {error}") from error
    for key in ("momentum", "label_smoothing"):
        value = getattr(config, key)
        if not 0 <= value < 1:
            raise ConfigError(f"config.{key}={value} must be at least 0 and below 1")
    if config.ema_decay is not None and not 0 < config.ema_decay < 1:
        raise ConfigError(f"config.ema_decay={config.ema_decay} must be between 0 and 1")
    if config.skip_head and config.init_from is None:
        raise ConfigError("config.skip_head leaves out a part of config.init_from; give that, too")
    if config.warmup_until_error is not None and not 0 < config.warmup_until_error < 1:
        raise ConfigError(
            f"config.warmup_until_error={config.warmup_until_error} must be between 0 and 1"
        )
    for one, other in _LENGTHS:
        if getattr(config, one) is not None and getattr(config, other) is not None:
            raise ConfigError(f"config.{one} and config.{other} are both given; keep one of them")
    if config.eval_split == "train":
        raise ConfigError(
            "config.eval_split='train' is what the training's own lines are called; to evaluate on "
            "the training images write 'train[:100%]'"
        )
    if config.num_steps is None and config.num_epochs is None:
        raise ConfigError("the length of the run is not given; set config.num_steps or num_epochs")
    if config.schedule == "step" and not config.boundaries:
        raise ConfigError("config.schedule='step' needs config.boundaries, such as (32000, 48000)")
    if (
        list(config.boundaries) != sorted(set(config.boundaries))
        or min(config.boundaries, default=1) < 1
    ):
        raise ConfigError(f"config.boundaries={config.boundaries} must be positive and increasing")
