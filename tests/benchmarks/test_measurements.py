"""Ratios and their record, the peers that they are taken against, the trainer's bare step."""

import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import torch

from resnet_jax import create_model
from resnet_jax.runtime.devices import data_mesh, replicate, shard_batch
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.experiment import train_iterator
from tests import torch_twins

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The benchmarks import each other as scripts do: from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_scripts_find_what_they_import(name):
    importlib.import_module(name)


def test_ratio_is_taken_round_by_round():
    import common

    ours = [common.Seconds(1, 2), common.Seconds(2, 2), common.Seconds(4, 2)]
    peer = [common.Seconds(3, 8), common.Seconds(4, 6), common.Seconds(4, 2)]
    ratio = common.compare("a/b", ours, peer)
    assert (ratio.ratio, ratio.low, ratio.high, ratio.processor) == (2, 1, 3, 3)
    assert (ratio.ours, ratio.peer) == (2, 4)


def test_rounds_are_in_turn_after_two_to_warm_up():
    import common

    order = []
    seconds = common.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 5
    assert [len(rounds) for rounds in seconds.values()] == [3, 3]


def test_ratios_are_named_after_the_peers():
    import common

    contestants = {"flax": lambda: None, "ours": lambda: None, "torch": lambda: None}
    ratios = common.compare_in_turn("a", contestants, 1)
    assert [ratio.name for ratio in ratios] == ["a/flax", "a/torch"]


def test_a_ratio_is_printed_as_soon_as_it_is_there(capsys):
    import common

    def measured():
        for name in ("a", "b"):
            yield common.compare(name, [common.Seconds(1)], [common.Seconds(1)])
            assert f"| {name} | 1.00 s |" in capsys.readouterr().out

    common.report(measured(), [], None)


def test_the_bare_step_trains(resnet8):
    import bare_step

    config = TrainConfig(model=resnet8, batch_size=8, augmentation="none", num_steps=1)
    experiment = bare_step.random_experiment(config, 16, 8, 3)
    mesh = data_mesh(jax.devices()[:1])
    state, step = bare_step.state_and_step(experiment, mesh)
    batch = shard_batch(next(train_iterator(experiment)), mesh)
    state, _ = step(replicate(state, mesh), batch)
    assert (state.step, state.sums.count) == (1, 8)


def test_what_was_not_measured_is_in_the_table_and_the_file(tmp_path, capsys):
    import common

    ratio = common.compare("a/b", [common.Seconds(0.5)], [common.Seconds(1.5)])
    common.report([ratio], ["c/d, gpu"], str(tmp_path / "found.json"))
    printed = capsys.readouterr().out
    assert "| a/b | 500.0 ms | 1.50 s | 3.00 | 3.00 to 3.00 | |" in printed
    assert "| c/d, gpu | not measured here |" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert common.Ratio(**found["ratios"][0]) == ratio
    assert found["not measured here"] == ["c/d, gpu"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20_cifar"])
def test_the_flax_peer_is_the_same_network(name):
    from flax_peer import flax_peer

    def parameters(model):
        x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
        return sorted(leaf.shape for leaf in jax.tree.leaves(variables))

    assert parameters(flax_peer(name, 7)) == parameters(create_model(name, 7))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_folded_pytorch_peer_computes_the_same(name):
    import torch_peer

    model = torch_twins.randomise(torch_peer.torch_model(name, 7)[0], seed=1).eval()
    images = torch.randn(2, 3, 33, 33, generator=torch.manual_seed(0))
    with torch.inference_mode():
        before = model(images)
        torch_peer.fold_batch_norms(model)
        after = model(images)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * before.abs().max().item())
