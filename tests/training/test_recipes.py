"""Recipes by path and by name."""

import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.training import load_recipe, resolve
from resnet_jax.training.recipes import shipped_recipes


def test_every_shipped_recipe_is_found_by_its_name():
    assert {"fashion_mnist_demo", "cifar10_resnet20", "resnet50_imagenet"} <= set(shipped_recipes())
    for name in shipped_recipes():
        assert resolve(load_recipe(name)).model


def test_variants_and_files(tmp_path):
    assert load_recipe("cifar10_resnet20:45k").eval_split == "train[45000:]"
    text = shipped_recipes()["fashion_mnist_demo"].read_text()
    (tmp_path / "mine.py").write_text(text)
    assert load_recipe(str(tmp_path / "mine.py")).model == "resnet20_cifar"
    with pytest.raises(ConfigError, match="did you mean 'fashion_mnist_demo'"):
        load_recipe("fashion_mnist_dem")
