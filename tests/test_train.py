"""The command `python train.py` from outside: a run that is taken up again."""

import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.commands import _recipes
from resnet_jax.training.config import NULLABLE_KEYS
from resnet_jax.training.records import read_metrics
from tests.resnet8 import environment

ROOT = Path(__file__).parents[1]
CONFIG = "tests/resnet8.py"  # The demo itself is part of .ci/run.


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )


def test_the_same_command_goes_on_where_it_stopped(tmp_path):
    def go(num_steps):
        arguments = [f"--config.num_steps={num_steps}", "--config.log_every=2"]
        result = start("--config", CONFIG, "--workdir", str(tmp_path), *arguments)
        assert result.returncode == 0 and result.stderr == "", result.stderr
        return result.stdout.splitlines()

    first, second = go(4), go(6)
    assert "the run ends after 4; --config.scale_schedule=True fits" in first[0]
    assert first[1].startswith("first step after")
    assert [line.split("  ")[0] for line in first[2:4]] == ["step 2/4", "step 4/4"]
    assert second[0].startswith("first step after") and second[1].startswith("step 6/6")
    assert second[-1] == f"curves: {tmp_path / 'curves.png'}"
    steps = [record["step"] for record in read_metrics(tmp_path) if record["split"] == "train"]
    assert steps == [2, 4, 6]


SET = {
    "init_from": "weights.pth",
    "num_classes": 20,
    "data_dir": "data",
    "image_size": 28,
    "channels": 1,
    "loader_threads": 2,
    "batch_augmentation": "mixup",
    "eval_batch_size": 8,
    "num_epochs": 2.0,
    "learning_rate_batch_size": 8,
    "schedule_epochs": 2.0,
    "warmup_epochs": 1.0,
    "warmup_until_error": 0.5,
    "ema_decay": 0.9,
    "eval_every_epochs": 0.5,
    "checkpoint_every_epochs": 0.5,
    "stop_after": "1h",
    **dict.fromkeys(("num_steps", "schedule_steps", "warmup_steps"), 50),
    **dict.fromkeys(("eval_every", "checkpoint_every"), 50),
}
RECIPE = """
from resnet_jax.training import default_config

def get_config(key=""):
    config = default_config()
    config.num_steps = None if key == "num_epochs" else 10
    if key:
        config[key] = {values}[key]
    return config
"""


@pytest.mark.parametrize("flag", [["--config.{}=None"], ["--config.{}", "None"]], ids=["=", " "])
@pytest.mark.parametrize("recipe", ["recipe.py", "recipe.py:{}"], ids=["unset", "set"])
@pytest.mark.parametrize("key", NULLABLE_KEYS)
def test_none_switches_any_key_off_that_may_be_none(tmp_path, key, recipe, flag):
    (tmp_path / "recipe.py").write_text(RECIPE.replace("{values}", repr(SET)))
    arguments = ["--config", str(tmp_path / recipe.format(key)), *(f.format(key) for f in flag)]
    if key in ("num_steps", "num_epochs"):
        arguments.append(f"--config.{'num_epochs' if key == 'num_steps' else 'num_steps'}=3")
    config, _ = _recipes.parse(_recipes.new_flags(), arguments)
    # The schedule's default is the run's length.
    assert getattr(config, key) == (10 if key == "schedule_steps" else None)


def test_the_last_of_two_values_counts():
    def parsed(*flags):
        return _recipes.parse(_recipes.new_flags(), ["--config", "fashion_mnist_demo", *flags])[0]

    assert parsed("--config.ema_decay=None", "--config.ema_decay=0.5").ema_decay == 0.5
    assert parsed("--config.ema_decay=0.5", "--config.ema_decay=None").ema_decay is None
    options = parsed("--config.model_options.stem=cifar", "--config.model_options.stem=None")
    assert options.model_options == {}
