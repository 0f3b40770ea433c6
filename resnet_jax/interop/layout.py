"""Fits weights to a model by name and shape, and reports all differences in one error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict
from jaxtyping import Array, PRNGKeyArray

from resnet_jax.errors import WeightsError, shown
from resnet_jax.models import BottleneckBlock, ResNet, create_model, list_models
from resnet_jax.models.images import input_channels, stem_kernel

# The path of a variable, such as ("params", "stem", "conv", "kernel").
VariablePath = tuple[str, ...]

_HEAD_KERNEL: VariablePath = ("params", "head", "kernel")

# The intended length of a mismatch's line, and the number of entries that it always names in full.
_MAX_LINE = 300
_MAX_LISTED = 12


@dataclass(frozen=True)
class Naming:
    """A library's names of a model's variables, and the order of their axes.

    Attributes:
      name: returns the library's name of a variable.
      axes: number of axes → the library's order of our axes; by default our order.
      conv_biases: whether convolutions may have biases, though the model's have none.
      heads: beginnings of the names of a classifier's entries, of whatever layers it has.
    """

    name: Callable[[VariablePath], str]
    axes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    conv_biases: bool = False
    heads: tuple[str, ...] = ()

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the model in the library's order of axes."""
        return array.transpose(self._axes(array.ndim))

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the library in the model's order of axes."""
        return array.transpose(np.argsort(self._axes(array.ndim)))

    def shape_in_theirs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the library's shape of a variable with this shape in the model."""
        return tuple(shape[axis] for axis in self._axes(len(shape)))

    def shape_in_ours(self, entries: Mapping[str, Any], path: VariablePath) -> tuple[int, ...]:
        """Returns the model's shape of an entry, or () if there is none."""
        shape = np.shape(entries.get(self.name(path), 0))
        return tuple(shape[axis] for axis in np.argsort(self._axes(len(shape))))

    def _axes(self, num_axes: int) -> tuple[int, ...]:
        return self.axes.get(num_axes, tuple(range(num_axes)))


OURS = Naming(".".join, heads=("params.head.",))


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays of nested dictionaries under the names of `OURS`.

    Raises:
      WeightsError: the variables are not nested dictionaries.
    """
    if not isinstance(variables, dict | FrozenDict):
        kind = type(variables).__name__
        raise WeightsError(f"variables must be a dictionary as from model.init, not a {kind}")
    return {".".join(path): array for path, array in traverse_util.flatten_dict(variables).items()}


def renamed(entries: Mapping[Any, Any], new_name: Callable[[str], str]) -> dict[str, Any]:
    """Returns the entries under new names; an entry whose new name is taken keeps its own."""
    own = {str(name): value for name, value in entries.items()}
    result: dict[str, Any] = {}
    for name, value in own.items():
        new = new_name(name)
        is_anothers = new in result or (new in own and new != name)
        result[name if is_anothers else new] = value
    return result


def variable_shapes(model: ResNet, channels: int) -> dict[VariablePath, tuple[int, ...]]:
    """Returns the shape of each variable of a model for images with a number of channels."""
    tree = jax.eval_shape(lambda: _init(model, channels, jax.random.key(0)))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def fit(
    model: ResNet,
    naming: Naming,
    entries: Mapping[str, Any],
    source: str,
    *,
    skip_head: bool = False,
) -> dict[VariablePath, np.ndarray]:
    """Returns the variables in the entries if they match the model's exactly.

    Args:
      model: the model.
      naming: the naming of the entries.
      entries: arrays or PyTorch tensors by name.
      source: the entries' name in a message.
      skip_head: whether to ignore the classifiers of the model and the entries, all of whose
        layers count.

    Returns:
      Arrays in the model's layout, float64 where the entries are, otherwise float32.

    Raises:
      WeightsError: entries are missing, unexpected, wrongly shaped or not floating-point numbers.
    """
    shapes = variable_shapes(model, _num_channels(model, naming, entries))
    head = {naming.name(path) for path in shapes if _is_head(path)}
    if skip_head:
        shapes = {path: shape for path, shape in shapes.items() if not _is_head(path)}
        entries = {
            name: value
            for name, value in entries.items()
            if name not in head and not name.startswith(naming.heads)
        }
    if naming.conv_biases:
        biases = {(*path[:-1], "bias"): shape[-1:] for path, shape in _kernels(shapes).items()}
        shapes |= {path: shape for path, shape in biases.items() if naming.name(path) in entries}

    variables, missing, misshaped = {}, [], {}
    for path, shape in shapes.items():
        name = naming.name(path)
        if name not in entries:
            missing.append(name)
            continue
        value, expected = entries[name], naming.shape_in_theirs(shape)
        # Copied only if the size is right: a tensor may claim to be far larger than its file.
        fits = tuple(getattr(value, "shape", expected)) == expected
        array = _to_numpy(value) if fits else np.broadcast_to(np.float32(), value.shape)
        if array is None:
            misshaped[name] = f"{name} is not an array of floating-point numbers"
        elif array.shape != expected:
            misshaped[name] = f"{name} {list(array.shape)}, not {list(expected)}"
        else:
            variables[path] = naming.to_ours(array)
    expected_names = {naming.name(path) for path in shapes}
    unexpected = [str(name) for name in entries if name not in expected_names]
    if missing or unexpected or misshaped:
        only_head = not missing and not unexpected and misshaped.keys() <= head
        theirs = naming.shape_in_ours(entries, _HEAD_KERNEL)
        ours = shapes.get(_HEAD_KERNEL, ())
        if only_head and theirs[:-1] == ours[:-1] and theirs[-1] != ours[-1]:
            hint = (
                f"; the weights have {theirs[-1]} classes but the model {model.num_classes}: create"
                f" it with num_classes={theirs[-1]}, or keep its own head by skip_head=True"
            )
        else:
            hint = _right_models(model, naming, entries)
        raise mismatch(source, missing, unexpected, list(misshaped.values()), hint)
    return variables


def check_variant(what: str, theirs: ResNet, ours: ResNet) -> None:
    """Checks that a model computes the same function as that of the weights.

    Only variants with the same blocks are compared: `fit` names all other differences.

    Args:
      what: the weights' name in a message.
      theirs: the model that the weights describe.
      ours: the model to read them into.

    Raises:
      WeightsError: they differ in the stem, residual connections, shortcuts or stride.
    """
    if (theirs.block, theirs.stage_sizes) != (ours.block, ours.stage_sizes):
        return
    options = ["stem", "residual"]
    options += ["shortcut"] if theirs.residual and ours.residual else []
    options += ["stride_on_first"] if theirs.block is BottleneckBlock else []
    for option in options:
        their, our = getattr(theirs, option), getattr(ours, option)
        if their != our:
            raise WeightsError(
                f"{what} is for a model with {option}={their!r}, this one has {shown(our)}, so the"
                f" logits would differ; take the file's own model, {_nearest(theirs)}"
            )


def _nearest(model: ResNet) -> str:
    """Returns the name of the model with the same kernels, and its other stem and shortcuts."""
    fields = ("block", "stage_sizes", "stage_widths", "groups", "width_per_group", "residual")
    for name in list_models():
        named = create_model(name)
        if all(
            getattr(named, field, None) == getattr(model, field)
            for field in (*fields, "stride_on_first")
        ):
            options = [
                f" with {option}={getattr(model, option)!r}"
                for option in ("stem", "shortcut")
                if getattr(model, option) != getattr(named, option)
            ]
            return repr(name) + " and".join(options)
    return "by load_model or from_hub"


def to_variables(variables: Mapping[VariablePath, np.ndarray]) -> dict[str, Any]:
    """Returns nested dictionaries of copies as JAX arrays."""
    # JAX may share the memory of a given array, which the source may change.
    copies = {path: jnp.asarray(np.array(array)) for path, array in variables.items()}
    tree = traverse_util.unflatten_dict(copies)
    return {name: tree[name] for name in ("params", "batch_stats") if name in tree}


def with_new_head(
    model: ResNet, variables: dict[str, Any], key: PRNGKeyArray | None
) -> dict[str, Any]:
    """Returns the variables with the head of `model.init(key, images)`; None is key 0."""
    channels = input_channels(model, variables)

    def head(key: PRNGKeyArray) -> dict[str, Array]:
        return _init(model, channels, key)["params"]["head"]

    # Compilation removes the rest of the initialisation.
    new = jax.jit(head)(jax.random.key(0) if key is None else key)
    return {**variables, "params": {**variables["params"], "head": new}}


def _init(model: ResNet, channels: int, key: PRNGKeyArray) -> Any:
    return model.init(key, jnp.zeros((1, 32, 32, channels)), train=False)


def _is_head(path: VariablePath) -> bool:
    return path[1] == "head"


def _kernels(shapes: Mapping[VariablePath, tuple[int, ...]]) -> dict[VariablePath, tuple[int, ...]]:
    return {path: shape for path, shape in shapes.items() if len(shape) == 4}


def _num_channels(model: ResNet, naming: Naming, entries: Mapping[str, Any]) -> int:
    """Returns the channels of the images, by the stem's first kernel; 3 without it."""
    shape = naming.shape_in_ours(entries, ("params", *stem_kernel(model)))
    return (shape[2] if len(shape) == 4 else 0) or 3


def _to_numpy(value: Any) -> np.ndarray | None:
    """Returns float64 unchanged, other floating-point numbers as float32, None for the rest."""
    if hasattr(value, "detach"):  # A PyTorch tensor, recognised without importing PyTorch.
        is_dense = str(value.layout) == "torch.strided" and not value.is_meta
        if not (is_dense and value.is_floating_point()):
            return None
        value = value.detach().cpu()
        value = (value if value.element_size() == 8 else value.float()).numpy()
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return None
    return array if array.dtype == np.float64 else array.astype(np.float32)


def _right_models(model: ResNet, naming: Naming, entries: Mapping[str, Any]) -> str:
    """Returns "; they fit NAME or NAME" for models with the same kernels, or ""."""
    theirs = {name: shape for name, value in entries.items() if len(shape := np.shape(value)) == 4}

    def fits(candidate: ResNet) -> bool:
        num_blocks = sum(candidate.stage_sizes)
        num_convs = 1 + num_blocks * (3 if candidate.block is BottleneckBlock else 2)
        # Rejects most models quickly, before computing their shapes.
        if not num_convs <= len(theirs) <= num_convs + num_blocks:
            return False
        channels = _num_channels(candidate, naming, entries)
        kernels = _kernels(variable_shapes(candidate, channels))
        shapes = {
            naming.name(path): naming.shape_in_theirs(shape) for path, shape in kernels.items()
        }
        return shapes == theirs

    if fits(model):
        return ""
    names = [name for name in list_models() if fits(create_model(name))]
    return f"; they fit {' or '.join(names)}" if names else ""


def mismatch(
    source: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    misshaped: Sequence[str],
    hint: str = "",
) -> WeightsError:
    """Returns the error that lists all differences between weights and a model.

    Args:
      source: the weights' name in the message.
      missing: as the error's attribute.
      unexpected: as the error's attribute.
      misshaped: as the error's attribute.
      hint: the remedy, which ends the sentence.
    """
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    kinds = {kind: sorted(entries) for kind, entries in kinds.items() if entries}
    num_entries = sum(len(entries) for entries in kinds.values())

    def message(limit: int) -> str:
        parts = (f"{len(kinds[kind])} {kind} ({_listed(kinds[kind], limit)})" for kind in kinds)
        return f"{source} cannot be fitted to the model: {'; '.join(parts)}{hint}"

    limits = [num_entries, 3, 2, 1]
    fitting = [limit for limit in limits if len(message(limit)) < _MAX_LINE]
    limit = num_entries if num_entries <= _MAX_LISTED else [*fitting, 1][0]
    error = WeightsError(message(limit))
    error.missing = tuple(sorted(missing))
    error.unexpected = tuple(sorted(unexpected))
    error.misshaped = tuple(sorted(misshaped))
    if limit < num_entries:
        for kind, entries in kinds.items():
            error.add_note("\n  ".join([f"{kind}:", *entries]))
    return error


def _listed(entries: Sequence[str], limit: int) -> str:
    rest = ", ..." if len(entries) > limit else ""
    return ", ".join(entries[:limit]) + rest
