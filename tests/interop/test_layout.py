"""What a model's variables are, without computing them, and names and axes to and fro."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import WeightsError
from resnet_jax.interop import layout
from tests.interop.nets import assert_identical, small_pair


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"stem": "imagenet", "shortcut": "C"}, {"folded": True}])
def test_shapes_are_those_of_the_initial_variables(options, channels):
    folded = {"folded": options["folded"]} if "folded" in options else {}
    model = small_pair(**{name: options[name] for name in options if name != "folded"})[0]
    model = model.clone(**folded)
    images = jnp.zeros((1, 8, 8, channels))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    shapes = layout.variable_shapes(model, channels)
    flat = layout.flatten(variables)
    assert {".".join(path): shape for path, shape in shapes.items()} == {
        name: array.shape for name, array in flat.items()
    }


def test_axes_to_and_fro():
    naming = layout.Naming("/".join, {4: (3, 2, 0, 1), 2: (1, 0)})
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # height, width, in, out
    theirs = naming.to_theirs(kernel)
    assert theirs.shape == naming.shape_in_theirs(kernel.shape) == (5, 4, 2, 3)
    assert theirs[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    np.testing.assert_array_equal(naming.to_ours(theirs), kernel)
    path = ("params", "stem", "conv", "kernel")
    entries = {"params/stem/conv/kernel": theirs}
    assert naming.shape_in_ours(entries, path) == kernel.shape
    assert naming.shape_in_ours({}, path) == ()


def test_variables_of_flax_core_are_dictionaries_too():
    from flax.core import freeze

    variables = {"params": {"a": {"b": 1}}, "batch_stats": {"c": 2}}
    assert layout.flatten(freeze(variables)) == {"params.a.b": 1, "batch_stats.c": 2}


@pytest.mark.usefixtures("unchecked")
def test_a_list_is_no_variables():
    with pytest.raises(WeightsError, match="variables must be a dictionary as from model.init"):
        layout.flatten([{"params": {}}])


def test_a_new_head_is_that_of_init_and_nothing_else_changes():
    model = small_pair()[0]
    images = jnp.zeros((1, 8, 8, 2))
    old, new = (jax.jit(model.init)(jax.random.key(seed), images) for seed in (0, 1))
    variables = layout.with_new_head(model, old, jax.random.key(1))
    assert_identical(variables["params"]["head"], new["params"]["head"])
    assert_identical(variables["params"]["stage1"], old["params"]["stage1"])
    assert_identical(variables["batch_stats"], old["batch_stats"])
