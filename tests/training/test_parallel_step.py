"""The step on eight devices: what it sends, and whose mathematics it does."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.models import create_model
from resnet_jax.runtime.devices import data_mesh, replicate, shard_batch
from resnet_jax.training import step as step_module
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.state import TrainState
from tests.quick import apply, init
from tests.training.steps import make_step

CONFIG = TrainConfig(
    num_steps=20, schedule_steps=20, schedule="step", boundaries=(5,), learning_rate=0.05
)
SIDE, CLASSES = 8, 10

pytestmark = pytest.mark.usefixtures("resnet8")


def batches(count: int, size: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [
        {
            "image": rng.integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8),
            "label": rng.integers(0, CLASSES, size, dtype=np.int32),
        }
        for _ in range(count)
    ]


def start(devices: int, shared: bool, double: bool = True):
    mesh = data_mesh(jax.devices()[:devices])
    axis = "data" if shared else None
    model = create_model("resnet8_cifar", CLASSES, norm_axis_name=axis)
    step, state = make_step(CONFIG, model, mesh, (SIDE, SIDE, 3))
    if double:
        wide = {
            name: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), getattr(state, name))
            for name in ("params", "batch_stats", "opt_state")
        }
        state = state.replace(**wide)
    return replicate(state, mesh), step, mesh


def run(devices: int, shared: bool, data) -> TrainState:
    with jax.enable_x64(True):
        state, step, mesh = start(devices, shared)
        for batch in data:
            state, _ = step(state, shard_batch(batch, mesh))
        return jax.device_get(state)


def test_ten_steps_with_shared_statistics_are_those_of_one_device():
    data = batches(10, 16)
    one, eight = run(1, False, data), run(8, True, data)
    for name in ("params", "batch_stats", "opt_state"):
        for a, b in zip(
            jax.tree.leaves(getattr(one, name)), jax.tree.leaves(getattr(eight, name)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)
    assert one.sums.top1_wrong == eight.sums.top1_wrong


class Replica(torch.nn.Module):
    """PyTorch's own ResNet-20 with option A, fed with the values of our tree."""

    def __init__(self, variables):
        super().__init__()
        self.variables = variables
        self.tensors = {
            jax.tree_util.keystr(path, simple=True, separator="/"): torch.nn.Parameter(
                torch.tensor(np.asarray(leaf))
            )
            for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        }
        self.buffers_ = {
            jax.tree_util.keystr(path, simple=True, separator="/"): torch.tensor(np.asarray(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
        }

    def conv_norm(self, x, block, index, stride=1):
        kernel = self.tensors[f"{block}/conv{index}/kernel"].permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=1)
        name = f"{block}/bn{index}"
        return torch.nn.functional.batch_norm(
            x,
            self.buffers_[f"{name}/mean"],
            self.buffers_[f"{name}/var"],
            self.tensors[f"{name}/scale"],
            self.tensors[f"{name}/bias"],
            training=True,
        )

    def forward(self, x):
        x = torch.relu(self.conv_norm(x, "stem", ""))
        for stage in (1, 2, 3):
            name, stride = f"stage{stage}/block1", 2 if stage > 1 else 1
            y = torch.relu(self.conv_norm(x, name, 1, stride))
            y = self.conv_norm(y, name, 2)
            if stride == 2:
                x = x[:, :, ::2, ::2]
                half = x.shape[1] // 2
                x = torch.nn.functional.pad(x, (0, 0, 0, 0, half, half))
            x = torch.relu(x + y)
        x = x.mean(dim=(2, 3))
        return x @ self.tensors["head/kernel"] + self.tensors["head/bias"]


def test_three_steps_with_statistics_of_their_own_are_eight_replicas_in_pytorch():
    data = batches(3, 32)
    with jax.enable_x64(True):
        state, _, _ = start(8, False)
        begin = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    replica = Replica(begin)
    sgd = torch.optim.SGD(
        replica.tensors.values(), lr=float(np.float32(0.05)), momentum=0.9, weight_decay=1e-4
    )
    mean = np.asarray([0.485, 0.456, 0.406])
    deviation = np.asarray([0.229, 0.224, 0.225])
    for batch in data:
        images = (batch["image"] / 255 - mean) / deviation
        before = {name: buffer.clone() for name, buffer in replica.buffers_.items()}
        total = {name: torch.zeros_like(buffer) for name, buffer in before.items()}
        sgd.zero_grad()
        for part in range(8):
            rows = slice(part * 4, part * 4 + 4)
            replica.buffers_ = {name: buffer.clone() for name, buffer in before.items()}
            logits = replica(torch.tensor(images[rows]).permute(0, 3, 1, 2))
            labels = torch.tensor(batch["label"][rows]).long()
            (torch.nn.functional.cross_entropy(logits, labels) / 8).backward()
            for name, buffer in replica.buffers_.items():
                total[name] += buffer / 8
        replica.buffers_ = total
        sgd.step()

    state = run(8, False, data)
    for tree, expected in (
        (state.params, replica.tensors),
        (state.batch_stats, replica.buffers_),
    ):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            np.testing.assert_allclose(
                leaf, expected[name].detach(), rtol=0, atol=1e-7, err_msg=name
            )


def test_a_step_sends_gradients_statistics_and_sums_once():
    """Two all-reduces, one of floats and one of counts, and nothing else between devices."""
    state, step, mesh = start(8, False, double=False)
    (batch,) = batches(1, 16)
    program = step.lower(state, shard_batch(batch, mesh)).compile().as_text()
    others = "all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    assert not re.findall(rf"= .*\b(?:{others})(?:-start)?\(", program)
    sent = re.findall(r"= (.*) all-reduce(?:-start)?\(", program)
    assert len(sent) == 2, sent
    numbers = {"f32": 0, "s32": 0}
    for shapes in sent:
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            numbers[kind] += int(np.prod([int(n) for n in shape.split(",") if n]))
    floats = sum(leaf.size for leaf in jax.tree.leaves((state.params, state.batch_stats)))
    assert numbers == {"f32": floats + 1, "s32": pytest.approx(3, abs=1)}


def test_a_gpus_step_sends_one_array_and_is_the_same(monkeypatch):
    data = batches(2, 16)
    expected = run(8, False, data)
    monkeypatch.setattr(step_module, "_is_gpu", lambda mesh: True)
    state = run(8, False, data)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)
    assert (expected.sums.count, expected.sums.top1_wrong) == (
        state.sums.count,
        state.sums.top1_wrong,
    )
    state, step, mesh = start(8, False, double=False)
    program = step.lower(state, shard_batch(data[0], mesh)).compile().as_text()
    assert len(re.findall(r" all-reduce(?:-start)?\(", program)) == 1


def test_bfloat16_logits_are_near_float32s():
    model = create_model("resnet8_cifar", CLASSES)
    images = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    variables = init(model, images, 1)
    _, updates = apply(model, variables, images, train=True, mutable=["batch_stats"])
    variables = {**variables, **updates}
    half = create_model("resnet8_cifar", CLASSES, dtype="bfloat16")
    expected, logits = (apply(m, variables, images) for m in (model, half))
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert error < 2e-2, error


def test_state_and_optimizer_stay_in_float32_under_bfloat16():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    mesh = data_mesh(jax.devices()[:1])
    model = create_model("resnet8_cifar", CLASSES, dtype=config.dtype)
    step, state = make_step(config, model, mesh, (SIDE, SIDE, 3))
    (batch,) = batches(1, 8)
    after = jax.eval_shape(step, state, shard_batch(batch, mesh))[0]
    for before, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert before.dtype == leaf.dtype != jnp.bfloat16


def test_each_device_is_sent_its_part_of_every_step():
    index = np.arange(3 * 16).reshape(3, 16)
    placed = shard_batch({"index": index}, data_mesh(jax.devices()[:4]), steps=True)["index"]
    for device, shard in enumerate(placed.addressable_shards):
        np.testing.assert_array_equal(shard.data, index[:, 4 * device : 4 * device + 4])
