"""Weights from and to PyTorch: every layout, both ways, and one error for all that differs."""

import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import resnet_jax
from resnet_jax import WeightsError, create_model, from_torch, to_torch
from tests import torch_twins
from tests.interop import hugging_face_twin
from tests.interop.nets import (
    NUM_CLASSES,
    assert_identical,
    logits,
    logits_of_twin,
    random_images,
    relative_error,
    small_pair,
)

NAMED = [
    ("resnet18", {}, (32, 33), "float64"),
    ("resnet50", {}, (33, 32), "float32"),
    ("resnet20_cifar", {}, (32, 32), "float64"),
    ("resnet20_cifar", {"shortcut": "B"}, (16, 17), "float32"),
    ("plain20_cifar", {}, (16, 16), "float32"),
]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.mark.parametrize("name, options, size, dtype", NAMED, ids=str)
def test_named_nets_have_the_logits_of_pytorch_and_go_back_to_it(name, options, size, dtype):
    model = create_model(name, NUM_CLASSES, **options)
    twin = torch_twins.make_twin(name, NUM_CLASSES, **options)
    torch_twins.randomise(twin, seed=1).to(getattr(torch, dtype))
    images = random_images(2, *size, dtype=dtype)
    theirs = logits_of_twin(twin, images)
    with jax.enable_x64(dtype == "float64"):
        variables = from_torch(model, twin.state_dict())
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(dtype)}
        assert relative_error(logits(model, variables, images), theirs) < TOLERANCE[dtype]

        state_dict = to_torch(model, variables)
        assert list(state_dict) == list(twin.state_dict())
        for key, value in twin.state_dict().items():
            assert state_dict[key].dtype == value.numpy().dtype, key
            np.testing.assert_array_equal(state_dict[key], value.numpy(), key)
        assert_identical(from_torch(model, state_dict), variables)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in state_dict.items()})


@pytest.mark.parametrize(
    "name", ["resnet34", "resnet101", "resnext50_32x4d", "wide_resnet50_2", "resnet50_v1"]
)
def test_named_nets_there_and_back(name):
    model = create_model(name, NUM_CLASSES)
    state_dict = torch_twins.make_twin(name, NUM_CLASSES).state_dict()
    back = to_torch(model, from_torch(model, state_dict))
    assert list(back) == list(state_dict)
    assert all(np.array_equal(back[key], value) for key, value in state_dict.items())


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("option", ["A", "B", "C"])
def test_shortcuts_of_all_options(option, block):
    model, twin = small_pair(block, shortcut=option)
    images = random_images(2, 9, 8)
    variables = from_torch(model, twin.state_dict())
    assert relative_error(logits(model, variables, images), logits_of_twin(twin, images)) < 1e-5
    assert_identical(from_torch(model, to_torch(model, variables)), variables)


@pytest.mark.parametrize("is_bottleneck", [True, False])
@pytest.mark.parametrize("stride_on_first", [True, False])
def test_hugging_face(is_bottleneck, stride_on_first):
    block = "bottleneck" if is_bottleneck else "basic"
    options = {"stride_on_first": True} if is_bottleneck and stride_on_first else {}
    model, _ = small_pair(block, stem="imagenet", **options)
    hidden_sizes = (16, 32) if is_bottleneck else (4, 8)
    twin = hugging_face_twin.ResNet(
        (1, 2),
        hidden_sizes,
        NUM_CLASSES,
        is_bottleneck=is_bottleneck,
        stride_on_first=stride_on_first,
    )
    torch_twins.randomise(twin, seed=2)
    images = random_images(2, 33, 34)
    variables = from_torch(model, twin.state_dict())
    assert relative_error(logits(model, variables, images), logits_of_twin(twin, images)) < 1e-5

    # ResNetModel, without a classifier, has the names from "embedder" on.
    backbone = twin.resnet.state_dict()
    with pytest.raises(WeightsError, match=r"2 missing \(classifier.1.bias, classifier.1.weight\)"):
        from_torch(model, backbone)
    headless = from_torch(model, backbone, skip_head=True)
    assert_identical(headless["batch_stats"], variables["batch_stats"])


# As transformers 5.23 has them, by hand.
HUGGING_FACE_NAMES = """
resnet.embedder.embedder.convolution.weight
resnet.embedder.embedder.normalization.running_mean
resnet.encoder.stages.0.layers.0.shortcut.convolution.weight
resnet.encoder.stages.0.layers.0.shortcut.normalization.weight
resnet.encoder.stages.0.layers.0.layer.2.normalization.bias
resnet.encoder.stages.1.layers.1.layer.1.convolution.weight
classifier.1.weight
""".split()


def test_the_twin_has_the_names_of_hugging_face():
    twin = hugging_face_twin.ResNet((1, 2), (16, 32), NUM_CLASSES)
    assert set(HUGGING_FACE_NAMES) <= set(twin.state_dict())


ENDINGS = [".pth", ".th", ".pt", ".safetensors"]


@pytest.mark.parametrize("ending", [*ENDINGS, "old.pth", "mapping"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_wrappers_prefixes_and_files(ending, wrapper, prefix, tmp_path):
    model, twin = small_pair()
    expected = from_torch(model, twin.state_dict())
    source = OrderedDict((prefix + name, value) for name, value in twin.state_dict().items())
    if wrapper == "model_ema":  # As torch.optim.swa_utils.AveragedModel saves it.
        source["n_averaged"] = torch.tensor(3)
    if wrapper:
        source = {wrapper: source, "epoch": 3, "best_prec1": 91.25, "lr": [0.1], "arch": "resnet"}
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        save_file(source[wrapper] if wrapper else source, path)
    elif ending != "mapping":
        torch.save(source, path, _use_new_zipfile_serialization=ending != "old.pth")
    assert_identical(from_torch(model, source if ending == "mapping" else path), expected)
    assert_identical(from_torch(model, source if ending == "mapping" else str(path)), expected)


@pytest.mark.parametrize("first", [False, True])
def test_an_entry_that_is_there_twice(first):
    model, twin = small_pair()
    state_dict = twin.state_dict()
    other = {"module.fc.weight": state_dict["fc.weight"] + 1}
    with pytest.raises(WeightsError, match=r"1 unexpected \(module.fc.weight\)"):
        from_torch(model, other | state_dict if first else state_dict | other)


@pytest.mark.parametrize(
    "strange",
    [
        torch.ones(NUM_CLASSES).to_sparse(),
        torch.ones(NUM_CLASSES, device="meta"),
        torch.ones(NUM_CLASSES).int(),
    ],
    ids=["sparse", "meta", "int"],
)
def test_tensors_without_numbers_are_named(strange):
    model, twin = small_pair()
    with pytest.raises(WeightsError, match=r"fc.bias is not an array of floating-point numbers"):
        from_torch(model, twin.state_dict() | {"fc.bias": strange})


def test_a_stem_without_channels_is_named():
    model, twin = small_pair()
    kernel = twin.state_dict()["conv1.weight"]
    with pytest.raises(WeightsError, match=r"conv1.weight \[\d+, 0, "):
        from_torch(model, twin.state_dict() | {"conv1.weight": kernel[:, :0]})


def test_the_plain_weights_come_before_their_moving_average():
    model, twin = small_pair()
    _, average = small_pair(seed=1)
    source = {"model_ema": average.state_dict(), "model": twin.state_dict()}
    assert_identical(from_torch(model, source), from_torch(model, twin.state_dict()))


@pytest.mark.parametrize("ending", [".pth", ".safetensors", "mapping"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype, ending, tmp_path):
    model, twin = small_pair()
    half = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in twin.state_dict().items()
    }
    path = tmp_path / f"weights{ending}"
    if ending != "mapping":
        (save_file if ending == ".safetensors" else torch.save)(half, path)
    variables = from_torch(model, half if ending == "mapping" else path)
    kernel = half["layer2.1.conv2.weight"].float().numpy().transpose(2, 3, 1, 0)
    ours = variables["params"]["stage2"]["block2"]["conv2"]["kernel"]
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, kernel)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_cifar_names_as_the_usual_implementation_saves_them(tmp_path):
    # {"state_dict": {"module.conv1.weight": ...}, "best_prec1": ...}, shortcuts without parameters.
    model = create_model("resnet20_cifar", 10)
    twin = torch_twins.randomise(torch_twins.make_twin("resnet20_cifar", 10), seed=3)
    data_parallel = torch.nn.DataParallel(twin)
    path = tmp_path / "model.th"
    torch.save({"state_dict": data_parallel.state_dict(), "best_prec1": 91.7}, path)
    images = random_images(2, 32, 32)
    ours = logits(model, from_torch(model, path), images)
    assert relative_error(ours, logits_of_twin(twin, images)) < 1e-5
    names = set(to_torch(model, from_torch(model, path)))
    assert {"linear.weight", "layer2.0.conv1.weight", "bn1.running_mean"} <= names
    assert not any("shortcut" in name for name in names)


def test_weights_that_a_gpu_saved_long_ago(tmp_path):
    # As PyTorch 0.4 wrote CUDA tensors; there is none to write them here.
    model, twin = small_pair()
    path = tmp_path / "old.th"
    torch.save(twin.state_dict(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for cpu, cuda in [
        (b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage"),
        (b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"),
    ]:
        assert cpu in content
        content = content.replace(cpu, cuda)
    path.write_bytes(content)
    assert_identical(from_torch(model, path), from_torch(model, twin.state_dict()))


def test_any_number_of_channels():
    model, twin = small_pair()
    state_dict = twin.state_dict()
    state_dict["conv1.weight"] = state_dict["conv1.weight"][:, :1]
    variables = from_torch(model, state_dict)
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 1, 4)
    assert_identical(to_torch(model, variables)["conv1.weight"], state_dict["conv1.weight"].numpy())


def test_variables_share_no_memory_with_the_source():
    model, twin = small_pair()
    state_dict = twin.state_dict()
    variables = from_torch(model, state_dict)
    before = jax.device_get(jax.tree.map(jnp.copy, variables))
    back = to_torch(model, variables)
    for value in state_dict.values():
        value.zero_()
    for array in back.values():
        array[...] = 0
    assert_identical(jax.device_get(variables), before)


def test_one_error_lists_all_that_differs():
    model, twin = small_pair()
    state_dict = twin.state_dict()
    del state_dict["layer1.0.bn2.running_var"]
    state_dict["extra.weight"] = torch.ones(3)
    state_dict["layer2.0.conv2.weight"] = torch.ones(2, 2, 1, 1)
    state_dict["bn1.bias"] = torch.ones(4, dtype=torch.int64)
    with pytest.raises(WeightsError) as info:
        from_torch(model, state_dict)
    assert str(info.value) == (
        "the mapping cannot be fitted to the model: 1 missing (layer1.0.bn2.running_var);"
        " 1 unexpected (extra.weight); 2 of another shape (bn1.bias is not an array of"
        " floating-point numbers, layer2.0.conv2.weight [2, 2, 1, 1], not [8, 8, 3, 3])"
    )
    assert info.value.missing == ("layer1.0.bn2.running_var",)
    assert info.value.unexpected == ("extra.weight",)
    assert len(info.value.misshaped) == 2


def test_a_long_list_is_summed_up_in_the_line_and_whole_behind_it(tmp_path):
    path = tmp_path / "resnet18.pth"
    twin = torch_twins.make_twin("resnet18", 10)
    torch.save(twin.state_dict(), path)
    with pytest.raises(WeightsError) as info:
        from_torch(create_model("resnet50", 10), path)
    message = str(info.value)
    assert len(message) < 300 and "\n" not in message
    assert message.startswith("resnet18.pth cannot be fitted to the model: 165 missing (")
    assert message.endswith("; they fit resnet18")
    assert len(info.value.missing) == 165
    listed = "\n".join(info.value.__notes__)
    entries = (*info.value.missing, *info.value.unexpected, *info.value.misshaped)
    assert all(f"\n  {entry}" in listed for entry in entries)


def test_the_right_net_is_named():
    state_dict = torch_twins.make_twin("resnet20_cifar", 10).state_dict()
    with pytest.raises(WeightsError) as info:
        from_torch(create_model("resnet32_cifar", 10), state_dict)
    assert str(info.value).endswith("; they fit plain20_cifar or resnet20_cifar")


def test_another_number_of_classes():
    _, twin = small_pair()
    model = small_pair()[0].clone(num_classes=3)
    expected = (
        "the mapping cannot be fitted to the model: 2 of another shape (fc.bias [7], not [3],"
        " fc.weight [7, 32], not [3, 32]); the weights have 7 classes but the model 3: create it"
        " with num_classes=7, or keep its own head by skip_head=True"
    )
    with pytest.raises(WeightsError, match=f"^{re.escape(expected)}$"):
        from_torch(model, twin.state_dict())

    key = jax.random.key(5)
    for options, used in [({"key": key}, key), ({}, jax.random.key(0))]:
        variables = from_torch(model, twin.state_dict(), skip_head=True, **options)
        new = jax.jit(model.init)(used, jnp.zeros((1, 8, 8, 3)))
        assert_identical(variables["params"]["head"], new["params"]["head"])
        assert jax.tree.structure(variables) == jax.tree.structure(new)
        ours = variables["params"]["stage2"]["block1"]["bn3"]["scale"]
        np.testing.assert_array_equal(ours, twin.state_dict()["layer2.0.bn3.weight"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "source, message",
    [
        (torch.ones(3), "weights must be a file or tensors by name, not a Tensor"),
        (torch.nn.Linear(1, 1), r"not a Linear; give its state_dict\(\)"),
        (None, "not a NoneType"),
        ({}, "missing"),
        ({"state_dict": 3}, "1 unexpected"),
    ],
    ids=str,
)
def test_what_is_no_source(source, message):
    with pytest.raises(WeightsError, match=message):
        from_torch(small_pair()[0], source)


@pytest.mark.usefixtures("unchecked")
def test_to_torch_takes_the_models_own_variables_alone():
    model, twin = small_pair()
    variables = from_torch(model, twin.state_dict())
    other = small_pair("basic")[0]
    with pytest.raises(WeightsError, match="the variables cannot be fitted to the model"):
        to_torch(other, variables)
    with pytest.raises(WeightsError, match="batch_stats.stem.bn.mean"):
        to_torch(model, {"params": variables["params"]})
    with pytest.raises(WeightsError, match="variables must be a dictionary"):
        to_torch(model, None)


def test_the_names_are_public():
    for name in ("from_torch", "to_torch", "WeightsError"):
        assert name in resnet_jax.__all__
    assert issubclass(WeightsError, ValueError)


@pytest.mark.parametrize(
    "path", [("net",), ("module",), ("model_state_dict",), ("ema",), ("run", "weights")]
)
def test_the_only_part_of_a_checkpoint_with_tensors_by_name(path):
    model, twin = small_pair()
    part = twin.state_dict()
    for name in reversed(path):
        part = {name: part, "step": 3, "best": torch.tensor(0.5)}
    momentum = {0: {"momentum_buffer": torch.ones(3)}}
    by_name = {"fc.weight": {"exp_avg": torch.ones(3)}}
    source = part | {"optimizer": {"state": momentum, "param_groups": [{"lr": 0.1}]}}
    source |= {"optimizer_states": by_name}
    assert_identical(from_torch(model, source), from_torch(model, twin.state_dict()))


@pytest.mark.parametrize(
    "prefix", ["model.", "backbone.", "encoder.", "module.net.0.", "a.module."]
)
@pytest.mark.parametrize("head", ["fc", "head.fc", "classifier"])
def test_a_prefix_of_all_names(prefix, head):
    # The head may lie outside of it.
    model, twin = small_pair()
    expected = from_torch(model, twin.state_dict())
    renamed = {name.replace("fc.", f"{head}."): value for name, value in twin.state_dict().items()}
    for head_prefix in {prefix, ""}:
        source = {
            (head_prefix if name.startswith(head) else prefix) + name: value
            for name, value in renamed.items()
        }
        assert_identical(from_torch(model, source), expected)
    hugging_face = torch_twins.randomise(hugging_face_twin.ResNet((1, 2), (16, 32), NUM_CLASSES), 0)
    imagenet = small_pair(stem="imagenet")[0]
    source = {prefix + name: value for name, value in hugging_face.state_dict().items()}
    assert_identical(from_torch(imagenet, source), from_torch(imagenet, hugging_face.state_dict()))


def both(prefix, other):
    return {
        f"{name}{key}": value
        for name in (prefix, other)
        for key, value in small_pair()[1].state_dict().items()
    }


STATE = small_pair()[1].state_dict()


@pytest.mark.parametrize(
    "source, message",
    [
        (both("encoder_q.", "encoder_k."), "several networks, under 'encoder_k.' and 'encoder_q.'"),
        (both("", "ema."), "several networks, under '' and 'ema.'"),
        ({"generator": STATE, "critic": STATE}, "several networks, 'critic' and 'generator'; give"),
        ({"model": {"a": STATE, "b": STATE}}, "several networks, 'model.a' and 'model.b'"),
    ],
    ids=["prefixes", "an average", "parts", "deeper parts"],
)
def test_several_networks_in_one_checkpoint(source, message):
    with pytest.raises(WeightsError, match=message):
        from_torch(small_pair()[0], source)


@pytest.mark.parametrize(
    "names", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "ema_net")]
)
def test_weights_with_their_moving_average(names, caplog):
    model, twin = small_pair()
    raw = from_torch(model, twin.state_dict())
    other = small_pair(seed=1)[1].state_dict()
    average = from_torch(model, other)
    for source in (
        {names[0]: twin.state_dict(), names[1]: other},
        {names[1]: other, names[0]: twin.state_dict()},
    ):
        caplog.clear()
        assert_identical(from_torch(model, source), raw)
        [record] = caplog.records
        assert f"weights and their moving average, '{names[1]}': the weights" in record.getMessage()
        caplog.clear()
        assert_identical(from_torch(model, source, average=False), raw)
        assert_identical(from_torch(model, source, average=True), average)
        assert not caplog.records
    assert_identical(from_torch(model, {names[1]: other}), average)
    assert not caplog.records
    with pytest.raises(WeightsError, match="the mapping has no moving average"):
        from_torch(model, twin.state_dict(), average=True)


@pytest.mark.parametrize(
    "head", ["fc.1", "fc.0", "head", "head.fc", "head.mlp.0", "classifier", "linear", "fc"]
)
def test_a_head_of_any_layers_is_skipped(head):
    model, twin = small_pair()
    expected = from_torch(model, twin.state_dict(), skip_head=True)
    trunk = {name: value for name, value in twin.state_dict().items() if not name.startswith("fc")}
    layers = {f"{head}.weight": torch.ones(5, 32), f"{head}.bias": torch.ones(5)}
    assert_identical(from_torch(model, trunk | layers, skip_head=True), expected)
    assert_identical(from_torch(model, trunk, skip_head=True), expected)
    with pytest.raises(WeightsError, match="1 unexpected .aux.weight."):
        from_torch(model, trunk | {"aux.weight": torch.ones(5)}, skip_head=True)
