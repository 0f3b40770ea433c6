"""Every file in configs/ can be read, checked and built, and says what the paper says."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from resnet_jax.models import create_model
from resnet_jax.training import TrainConfig, resolve

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))


def load(name: str, *variant: str) -> TrainConfig:
    return resolve(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](*variant))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_resolves_and_its_model_exists(name):
    config = load(name)
    create_model(config.model, 10, remat=config.remat, **config.model_options)
    assert config.num_epochs or config.eval_every % config.log_every == 0


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_gives_the_command(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert f"python train.py --config configs/{name}.py --workdir runs/" in text


# Section 4.2 of the paper.
@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
@pytest.mark.parametrize("kind", ["resnet", "plain"])
def test_the_papers_cifar_recipe(kind, depth):
    if (kind, depth) == ("plain", 1202):
        return
    config = load(f"cifar10_{kind}{depth}")
    assert config.model == f"{kind}{depth}_cifar"
    assert (config.batch_size, config.num_steps) == (128, 64_000)
    assert (config.learning_rate, config.boundaries) == (0.1, (32_000, 48_000))
    assert (config.momentum, config.weight_decay, config.decay_factor) == (0.9, 1e-4, 0.1)
    assert config.decay_scales_and_biases and config.label_smoothing == 0
    assert (config.augmentation, config.preprocess) == ("cifar", "cifar")
    assert config.model_options == {}  # Shortcut A is the CIFAR nets' own.
    warm_up = (config.warmup_until_error, config.warmup_learning_rate)
    assert warm_up == ((0.8, 0.01) if kind == "resnet" and depth >= 110 else (None, 0.01))
    split = load(f"cifar10_{kind}{depth}", "45k")
    assert (split.train_split, split.eval_split) == ("train[:45000]", "train[45000:]")
    assert (config.train_split, config.eval_split) == ("train", "test")


# Section 3.4 of the paper.
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_imagenet_paper")])
def test_the_papers_imagenet_recipe(name):
    config = load(name)
    depth = int(re.search(r"\d+", name)[0])
    assert config.model == name.removesuffix("_imagenet_paper") + ("_v1" if depth >= 50 else "")
    assert (config.batch_size, config.num_steps) == (256, 600_000)
    assert (config.learning_rate, config.schedule) == (0.1, "plateau")
    assert (config.momentum, config.weight_decay, config.decay_factor) == (0.9, 1e-4, 0.1)
    assert (config.augmentation, config.color_augmentation) == ("imagenet_paper", "pca")
    assert (config.preprocess, config.image_size) == ("per_pixel_mean", 224)
    assert config.decay_scales_and_biases and config.label_smoothing == 0


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="45k or 50k"):
        load("cifar10_resnet20", "40k")
