"""A training step and its first state, made of a configuration and a model."""

from resnet_jax.data import make_normalization
from resnet_jax.runtime.devices import replicate
from resnet_jax.training.optimizer import make_learning_rate, make_optimizer
from resnet_jax.training.state import create_state
from resnet_jax.training.step import make_train_step
from resnet_jax.training.task import Classification


def make_step(config, model, mesh, image_shape, variables=None, **parts):
    """Returns the compiled step and the state, replicated."""
    task = Classification(
        model,
        label_smoothing=config.label_smoothing,
        color_shift=config.color_augmentation == "pca",
        **parts,
    )
    optimizer, rate = make_optimizer(config), make_learning_rate(config, 100)
    state = create_state(
        task,
        optimizer,
        rate,
        make_normalization("torchvision", 3),
        image_shape,
        seed=config.seed,
        averaged=config.ema_decay is not None,
        variables=variables,
    )
    step = make_train_step(
        task,
        optimizer,
        rate,
        mesh,
        accumulate_steps=config.accumulate_steps,
        ema_decay=config.ema_decay,
    )
    return step, replicate(state, mesh)
