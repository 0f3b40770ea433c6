"""Ten steps of the trainer against ten of PyTorch's, from the same weights on the same batches."""

import jax
import numpy as np
import pytest
import torch

from resnet_jax.models import create_model
from resnet_jax.runtime.devices import data_mesh, shard_batch
from resnet_jax.training.config import TrainConfig
from tests import torch_twins
from tests.training.steps import make_step

NUM_CLASSES, NUM_STEPS, BATCH_SIZE, IMAGE_SIZE = 10, 10, 8, 32

# Learning rates are float32 in the trainer; PyTorch gets the same numbers, for in ten steps the
# rounding of 0.1 to float32 grows to 1e-6.
RATES = 5 * [np.float32(0.1)] + 5 * [np.float32(0.1) * np.float32(0.1)]
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def make_batches():
    rng = np.random.default_rng(0)
    shape = (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)
    return [
        {
            "image": rng.integers(0, 256, shape, dtype=np.uint8),
            "label": rng.integers(0, NUM_CLASSES, BATCH_SIZE, dtype=np.int32),
        }
        for _ in range(NUM_STEPS)
    ]


def train_twin(twin, batches):
    """Trains with torch.optim; returns parameters, momenta and running statistics."""
    optimizer = torch.optim.SGD(twin.parameters(), momentum=0.9, weight_decay=1e-4)
    twin.train()
    for batch, rate in zip(batches, RATES, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        images = torch.tensor((batch["image"] / 255 - MEAN) / DEVIATION).permute(0, 3, 1, 2)
        labels = torch.tensor(batch["label"], dtype=torch.long)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(images), labels).backward()
        optimizer.step()
    momenta = [(name, optimizer.state[p]["momentum_buffer"]) for name, p in twin.named_parameters()]
    return {
        "params": torch_twins.to_tree(twin.named_parameters()),
        "momenta": torch_twins.to_tree(momenta),
        "batch_stats": torch_twins.to_tree(twin.named_buffers()),
    }


def train_ours(name, variables, batches):
    """Trains with the trainer's own step; returns the same."""
    config = TrainConfig(
        num_steps=NUM_STEPS,
        schedule="step",
        boundaries=(5,),
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )
    mesh = data_mesh(jax.devices()[:1])
    model = create_model(name, NUM_CLASSES)
    step, state = make_step(config, model, mesh, (IMAGE_SIZE, IMAGE_SIZE, 3), variables)
    rates = []
    for batch in batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        rates.append(float(metrics["learning_rate"]))
    np.testing.assert_array_equal(rates, RATES)
    state = jax.device_get(state)
    [momenta] = [part.trace for part in state.opt_state if hasattr(part, "trace")]
    return {"params": state.params, "momenta": momenta, "batch_stats": state.batch_stats}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_ten_steps_follow_pytorch(name):
    twin = torch_twins.make_twin(name, NUM_CLASSES)
    torch_twins.randomise(twin, seed=1).double()
    start, batches = torch_twins.to_variables(twin), make_batches()
    theirs = train_twin(twin, batches)
    with jax.enable_x64(True):
        ours = train_ours(name, start, batches)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start["params"], theirs["params"])
    assert min(jax.tree.leaves(moved)) > 1e-3, "a parameter that hardly moves shows nothing"
    leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
    for (path, one), other in leaves:
        assert one.dtype == np.float64
        error = np.abs(one - other).max()
        assert error < 1e-7, f"{jax.tree_util.keystr(path)}: {error:.1e}"
