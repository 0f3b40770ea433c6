"""What belongs to a run, and what a resumed run may change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.training.config import CHANGEABLE_KEYS, KEYS
from resnet_jax.training.identity import Facts, changed_keys
from resnet_jax.training.optimizer import make_schedule
from tests.training.runs import CONFIG

FACTS = Facts(train_size=80, num_classes=10, channels=1, guarded=True)  # 10 steps an epoch.

STEP = {"schedule": "step", "boundaries": (10, 20)}
EPOCHS = {"schedule_steps": None, "schedule_epochs": 3.0}

# Changes of the recipe, the run's and those of the process that resumes it: the same updates.
SAME = {
    "a constant schedule's length": ({"schedule": "constant"}, {}, {"schedule_steps": 7}),
    "its length in epochs": ({"schedule": "constant"}, {}, EPOCHS),
    "its boundaries": ({"schedule": "constant"}, {}, {"boundaries": (3,)}),
    "its factor": ({"schedule": "constant"}, {}, {"decay_factor": 0.5}),
    "a step schedule's length": (STEP, {}, {"schedule_steps": 40}),
    "its patience": (STEP, {}, {"plateau_patience": 9}),
    "a plateau's length": ({"schedule": "plateau"}, {}, {"schedule_steps": 99}),
    "a cosine's boundaries": ({}, {}, {"boundaries_epochs": (0.5,)}),
    "a cosine's factor and patience": ({}, {}, {"decay_factor": 0.3, "plateau_patience": 1}),
    "a warm-up's rate without one": ({}, {}, {"warmup_learning_rate": 0.5}),
    "a warm-up of no steps": ({}, {}, {"warmup_steps": 0}),
    "a schedule in epochs": ({}, {}, EPOCHS),
    "a warm-up in epochs": ({}, {"warmup_steps": 5}, {"warmup_epochs": 0.5}),
    "boundaries in epochs": (STEP, {}, {"boundaries": (), "boundaries_epochs": (1.0, 2.0)}),
    "a schedule fitted to its own length": ({}, {}, {"scale_schedule": True}),
    "a rate scaled by its own batch size": ({}, {}, {"learning_rate_batch_size": 8}),
    "a rate scaled by another": (
        {},
        {"learning_rate": 0.1},
        {"learning_rate": 0.2, "learning_rate_batch_size": 16},
    ),
    "a run's length": ({}, {}, {"num_steps": 77}),
    "a run's length in epochs": ({}, {}, {"num_steps": None, "num_epochs": 9.0}),
    "evaluations": ({}, {}, {"eval_every_epochs": 1.0}),
    "a plateau's evaluations": (
        {"schedule": "plateau"},
        {"eval_every": 10},
        {"eval_every_epochs": 1.0},
    ),
    "the default of evaluations": ({"schedule": "plateau"}, {}, {"eval_every": 1000}),
    "the model's own shortcut": ({}, {}, {"model_options": {"shortcut": "A"}}),
    "the model's own options": (
        {"model": "resnet18"},
        {},
        {"model_options": {"shortcut": "B", "stem": "imagenet", "zero_init_residual": False}},
    ),
    "the data's classes": ({}, {}, {"num_classes": 10}),
    "the data's channels": ({}, {}, {"channels": 1}),
    "the images' own size": ({}, {}, {"image_size": 28}),
    "sgd's own option": ({}, {}, {"optimizer_options": {"nesterov": False}}),
    "adamw's own options": (
        {"optimizer": "adamw"},
        {},
        {"optimizer_options": {"b1": 0.9, "eps": 1e-8}},
    ),
    "adamw's momentum": ({"optimizer": "adamw"}, {}, {"momentum": 0.5}),
    "a mask of no decay": ({"weight_decay": 0.0}, {}, {"decay_scales_and_biases": False}),
    "bad images, none met": ({}, {}, {"on_bad_image": "skip"}),
    "changed data": ({}, {}, {"on_changed_data": "accept"}),
}


def given(recipe, changes):
    return dataclasses.replace(CONFIG, **{**recipe, **changes})


@pytest.mark.parametrize(("recipe", "before", "now"), SAME.values(), ids=SAME)
def test_keys_that_alter_no_update_may_change(recipe, before, now):
    before, now = given(recipe, before), given(recipe, now)
    assert changed_keys(before, now, FACTS) == []
    rates = [jax.vmap(make_schedule(config, 80))(jnp.arange(30)) for config in (before, now)]
    np.testing.assert_array_equal(*rates)


# For each other key a recipe in which it counts, and another value.
COUNTS = {
    "model": ({}, "resnet32_cifar"),
    "model_options": ({}, {"shortcut": "B"}),
    "init_from": ({"init_from": __file__}, "tests"),
    "skip_head": ({"init_from": __file__}, True),
    "num_classes": ({}, 11),
    "remat": ({}, True),
    "batch_norm": ({}, "global"),
    "dtype": ({}, "bfloat16"),
    "dataset": ({}, "fashion_mnist"),
    "train_split": ({}, "train[:90]"),
    "eval_split": ({}, "test"),
    "image_size": ({"augmentation": "imagenet", "image_size": 24}, 28),
    "channels": ({}, 3),
    "augmentation": ({}, "none"),
    "preprocess": ({}, "none"),
    "color_augmentation": ({}, "pca"),
    "on_bad_image": ({"on_bad_image": "skip"}, "error"),
    "optimizer": ({}, "lars"),
    "optimizer_options": ({}, {"nesterov": True}),
    "train_parts": ({}, ("head",)),
    "loss": ({}, "bce"),
    "batch_augmentation": ({}, "mixup"),
    "batch_size": ({}, 16),
    "accumulate_steps": ({}, 2),
    "learning_rate": ({}, 0.2),
    "learning_rate_batch_size": ({}, 16),
    "schedule_steps": ({}, 31),
    "schedule_epochs": (EPOCHS, 4.0),
    "scale_schedule": ({"num_steps": 60}, True),
    "schedule": ({}, "constant"),
    "warmup_steps": ({}, 3),
    "warmup_epochs": ({}, 0.5),
    "warmup_until_error": ({}, 0.8),
    "warmup_learning_rate": ({"warmup_until_error": 0.8}, 0.02),
    "boundaries": (STEP, (10, 21)),
    "boundaries_epochs": ({"schedule": "step", "boundaries_epochs": (1.0,)}, (1.5,)),
    "decay_factor": (STEP, 0.2),
    "plateau_patience": ({"schedule": "plateau"}, 3),
    "momentum": ({}, 0.8),
    "weight_decay": ({}, 0.0),
    "decay_scales_and_biases": ({}, False),
    "ema_decay": ({}, 0.9),
    "label_smoothing": ({}, 0.1),
    "seed": ({}, 1),
    # Changeable, but for these recipes.
    "num_steps": ({"scale_schedule": True}, 60),
    "num_epochs": ({"scale_schedule": True, "num_steps": None, "num_epochs": 3.0}, 4.0),
    "eval_every": ({"schedule": "plateau"}, 10),
    "eval_every_epochs": ({"schedule": "plateau"}, 1.0),
}


@pytest.mark.parametrize("facts", [FACTS, Facts()], ids=["known", "unknown"])
@pytest.mark.parametrize("key", COUNTS)
def test_keys_that_alter_updates_belong_to_the_run(key, facts):
    recipe, value = COUNTS[key]
    before = given(recipe, {})
    now = dataclasses.replace(before, **{key: value})
    assert changed_keys(before, now, facts) == [key]


def test_each_key_is_in_a_table():
    assert set(KEYS) == {*COUNTS, *CHANGEABLE_KEYS}


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("model", {"model": "resnet18", "remat": True}),
        ("optimizer", {"optimizer": "lars", "weight_decay": 0.5, "momentum": 0.1}),
        ("schedule", {"schedule_steps": 7, "learning_rate": 0.5, "warmup_epochs": 1.0}),
        ("loss", {"loss": "bce"}),
        ("normalization", {"preprocess": "none"}),
        ("batch_augmentation", {"batch_augmentation": "mixup"}),
    ],
)
def test_keys_of_a_part_that_was_handed_in_do_not_count(part, changes):
    now = dataclasses.replace(CONFIG, **changes)
    assert changed_keys(CONFIG, now, FACTS._replace(parts=(part,))) == []
    assert changed_keys(CONFIG, now, FACTS) == [key for key in KEYS if key in changes]


def test_weights_to_start_from_may_move_but_not_be_others(tmp_path):
    before, moved = (
        dataclasses.replace(CONFIG, init_from=str(tmp_path / name)) for name in ("a", "b")
    )
    (tmp_path / "a").write_text("weights")
    (tmp_path / "b").write_text("weights")
    assert changed_keys(before, moved, FACTS) == ["init_from"]
    (tmp_path / "a").unlink()
    assert changed_keys(before, moved, FACTS) == []
    assert changed_keys(before, CONFIG, FACTS) == ["init_from"]  # As if there were none.
