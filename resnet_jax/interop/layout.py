"""How weights are fitted to a model: by name and shape, with all differences in one error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict
from jaxtyping import Array, PRNGKeyArray

from ..models import BottleneckBlock, ResNet, create_model, list_models
from .errors import WeightsError, mismatch

# Where a variable stands, such as ("params", "stem", "conv", "kernel").
Path = tuple[str, ...]

_STEM_KERNEL: Path = ("params", "stem", "conv", "kernel")
_HEAD_KERNEL: Path = ("params", "head", "kernel")


@dataclass(frozen=True)
class Naming:
    """How a library names the variables of a model and orders their axes.

    Attributes:
      name: returns the library's name of a variable.
      axes: for a number of axes, which of ours stand where in theirs; all in our order by default.
      conv_biases: whether convolutions may have biases, though the model's have none.
    """

    name: Callable[[Path], str]
    axes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    conv_biases: bool = False

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the model in the library's order of axes."""
        return array.transpose(self._axes(array.ndim))

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the library in the model's order of axes."""
        return array.transpose(np.argsort(self._axes(array.ndim)))

    def shape_in_theirs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the library's shape of a variable that has this shape in the model."""
        return tuple(shape[axis] for axis in self._axes(len(shape)))

    def shape_in_ours(self, entries: Mapping[str, Any], path: Path) -> tuple[int, ...]:
        """Returns the model's shape of an entry, () if there is none."""
        shape = np.shape(entries.get(self.name(path), 0))
        return tuple(shape[axis] for axis in np.argsort(self._axes(len(shape))))

    def _axes(self, num_axes: int) -> tuple[int, ...]:
        return self.axes.get(num_axes, tuple(range(num_axes)))


OURS = Naming(".".join)


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays of nested dictionaries under the names of `OURS`.

    Raises:
      WeightsError: the variables are no nested dictionaries.
    """
    if not isinstance(variables, dict | FrozenDict):
        kind = type(variables).__name__
        raise WeightsError(f"variables are a dictionary, as model.init returns it, not a {kind}")
    return {".".join(path): array for path, array in traverse_util.flatten_dict(variables).items()}


def renamed(entries: Mapping[Any, Any], new_name: Callable[[str], str]) -> dict[str, Any]:
    """Returns the entries under new names; one whose new name is another's keeps its own."""
    own = {str(name): value for name, value in entries.items()}
    result: dict[str, Any] = {}
    for name, value in own.items():
        new = new_name(name)
        is_anothers = new in result or (new in own and new != name)
        result[name if is_anothers else new] = value
    return result


def variable_shapes(model: ResNet, channels: int) -> dict[Path, tuple[int, ...]]:
    """Returns the shape of every variable of a model for images of so many channels."""
    tree = jax.eval_shape(lambda: _init(model, channels, jax.random.key(0)))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def fit(
    model: ResNet,
    naming: Naming,
    entries: Mapping[str, Any],
    source: str,
    *,
    skip_head: bool = False,
) -> dict[Path, np.ndarray]:
    """Returns the variables that the entries hold, if these are the model's, all and no others.

    Args:
      model: the model.
      naming: how the entries are named.
      entries: arrays or PyTorch tensors by name.
      source: what the entries are called in a message.
      skip_head: leave the classifier out, the model's and the entries'.

    Returns:
      Arrays in the model's layout, float64 where the entries are, otherwise float32.

    Raises:
      WeightsError: entries are missing, unexpected, wrongly shaped or no floating-point numbers.
    """
    shapes = variable_shapes(model, _num_channels(naming, entries))
    head = {naming.name(path) for path in shapes if _is_head(path)}
    if skip_head:
        shapes = {path: shape for path, shape in shapes.items() if not _is_head(path)}
        entries = {name: value for name, value in entries.items() if name not in head}
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
        # Copied only if it is of the right size: a tensor may claim to be far larger than its file.
        fits = tuple(getattr(value, "shape", expected)) == expected
        array = _to_numpy(value) if fits else np.broadcast_to(np.float32(), value.shape)
        if array is None:
            misshaped[name] = f"{name} is no array of floating-point numbers"
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
                f"; the weights tell {theirs[-1]} classes apart and the model {model.num_classes}:"
                f" create it with num_classes={theirs[-1]}, or skip_head=True keeps its own head"
            )
        else:
            hint = _right_models(model, naming, entries)
        raise mismatch(source, missing, unexpected, list(misshaped.values()), hint)
    return variables


def to_variables(variables: Mapping[Path, np.ndarray]) -> dict[str, Any]:
    """Returns nested dictionaries of JAX arrays, copies of these."""
    # JAX may take over the memory of an array that it is given, and the source's may change.
    copies = {path: jnp.asarray(np.array(array)) for path, array in variables.items()}
    tree = traverse_util.unflatten_dict(copies)
    return {name: tree[name] for name in ("params", "batch_stats") if name in tree}


def with_new_head(
    model: ResNet, variables: dict[str, Any], key: PRNGKeyArray | None
) -> dict[str, Any]:
    """Returns the variables with the head that `model.init(key, images)` gives; key 0 if None."""
    channels = variables["params"]["stem"]["conv"]["kernel"].shape[2]

    def head(key: PRNGKeyArray) -> dict[str, Array]:
        return _init(model, channels, key)["params"]["head"]

    # Compiled, the rest of the initialisation is left out.
    new = jax.jit(head)(jax.random.key(0) if key is None else key)
    return {**variables, "params": {**variables["params"], "head": new}}


def _init(model: ResNet, channels: int, key: PRNGKeyArray) -> Any:
    return model.init(key, jnp.zeros((1, 32, 32, channels)), train=False)


def _is_head(path: Path) -> bool:
    return path[1] == "head"


def _kernels(shapes: Mapping[Path, tuple[int, ...]]) -> dict[Path, tuple[int, ...]]:
    return {path: shape for path, shape in shapes.items() if len(shape) == 4}


def _num_channels(naming: Naming, entries: Mapping[str, Any]) -> int:
    shape = naming.shape_in_ours(entries, _STEM_KERNEL)
    return (shape[2] if len(shape) == 4 else 0) or 3


def _to_numpy(value: Any) -> np.ndarray | None:
    """Returns float64 as it is and other floating-point numbers as float32; None for the rest."""
    if hasattr(value, "detach"):  # A PyTorch tensor, told without importing PyTorch.
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
    """Returns "; they are those of NAME or NAME", nothing if the kernels are those of none."""
    theirs = {name: shape for name, value in entries.items() if len(shape := np.shape(value)) == 4}

    def fits(candidate: ResNet) -> bool:
        num_blocks = sum(candidate.stage_sizes)
        num_convs = 1 + num_blocks * (3 if candidate.block is BottleneckBlock else 2)
        # Says no at once for most, before the shapes are worked out.
        if not num_convs <= len(theirs) <= num_convs + num_blocks:
            return False
        kernels = _kernels(variable_shapes(candidate, _num_channels(naming, entries)))
        shapes = {
            naming.name(path): naming.shape_in_theirs(shape) for path, shape in kernels.items()
        }
        return shapes == theirs

    if fits(model):
        return ""
    names = [name for name in list_models() if fits(create_model(name))]
    return f"; they are those of {' or '.join(names)}" if names else ""
