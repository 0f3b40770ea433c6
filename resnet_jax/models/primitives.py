"""Operations that are one program on the CPU and another one everywhere else."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
from jax import sharding
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array


def has_sharding_in_type(*arrays: Array) -> bool:
    """Whether how an array lies on a mesh is part of its type, as on `jax.make_mesh`'s by default.

    JAX then wants a rule for the sharding of every result, which only its own operations have.
    """
    meshes = [jax.typeof(array).sharding.mesh for array in arrays]
    return any(sharding.AxisType.Explicit in mesh.axis_types for mesh in meshes)


def primitive(
    name: str, plain: Callable[..., Array], on_cpu: Callable[..., Array | None]
) -> Primitive:
    """Returns a primitive that has no derivatives yet.

    Which program it stands for is settled when it is lowered for a platform, not before: a file
    that `jax.export` writes for several platforms holds each one's own.

    It does not take arrays that have their sharding in their type.

    Args:
        name: what programs show.
        plain: the operation on arrays of one type, with hashable keyword arguments.
        on_cpu: the same for the CPU, or None where `plain` is to stand there as well. It is not
            asked where a size is zero or a symbol (`jax.export.symbolic_shape`).
    """
    result = Primitive(name)

    @cache
    def compiled(**params: Any) -> Callable[..., Array]:
        return jax.jit(partial(result.bind, **params))

    def result_type(*avals: Any, **params: Any) -> Any:
        arrays = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        return avals[0].update(shape=jax.eval_shape(partial(plain, **params), *arrays).shape)

    def batched(
        args: Sequence[Array], axes: Sequence[int | None], **params: Any
    ) -> tuple[Array, int]:
        return jax.vmap(partial(plain, **params), axes)(*args), 0

    def lower_for_cpu(*args: Array, **params: Any) -> Array:
        asked = all(isinstance(size, int) and size > 0 for arg in args for size in arg.shape)
        y = on_cpu(*args, **params) if asked else None
        return plain(*args, **params) if y is None else y

    result.def_impl(lambda *args, **params: compiled(**params)(*args))
    result.def_abstract_eval(result_type)
    batching.primitive_batchers[result] = batched
    lowering = partial(mlir.lower_fun, multiple_results=False)
    mlir.register_lowering(result, lowering(plain))
    mlir.register_lowering(result, lowering(lower_for_cpu), platform="cpu")
    return result
