"""The project's own weights files: bit for bit, with the model rebuilt from the file alone."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save_file

import resnet_jax
from resnet_jax import (
    WeightsError,
    create_model,
    list_models,
    load_pretrained,
    load_weights,
    save_weights,
)
from resnet_jax.interop import files, load_model, native, read_weights
from resnet_jax.models import BasicBlock, BottleneckBlock, ResNet
from tests.interop.nets import assert_identical, small_pair

MODEL = small_pair()[0]


def random_variables(model, seed=0, channels=3):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, channels)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32)), shapes
    )


def test_weights_come_back_bit_for_bit(tmp_path):
    variables = random_variables(MODEL)
    # Also what no arithmetic survives.
    head = variables["params"]["head"]
    head["bias"] = head["bias"].at[:4].set(jnp.array([jnp.nan, -jnp.inf, -0.0, 1e-42]))
    path = tmp_path / "weights.safetensors"
    save_weights(path, variables)
    loaded = load_weights(str(path))
    loaded, variables = (
        jax.tree.map(lambda leaf: np.asarray(leaf).view(np.uint32), tree)
        for tree in (loaded, variables)
    )
    assert_identical(loaded, variables)


def test_a_mean_image_comes_along_and_is_no_variable(tmp_path):
    variables = random_variables(MODEL)
    path, other = tmp_path / "weights.safetensors", tmp_path / "other.safetensors"
    mean = np.random.default_rng(0).uniform(size=(8, 9, 3)).astype(np.float32)
    save_weights(path, variables, MODEL, pixel_mean=mean)
    np.testing.assert_array_equal(native.read_pixel_mean(path), mean)
    assert_identical(load_weights(path), variables)
    assert_identical(load_weights(path, MODEL), variables)
    assert_identical(load_model(path)[1], variables)
    save_weights(other, variables, MODEL)
    assert native.read_pixel_mean(other) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_types_are_kept(dtype, tmp_path):
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), random_variables(MODEL))
        save_weights(tmp_path / "weights.safetensors", variables)
        assert_identical(load_weights(tmp_path / "weights.safetensors"), variables)


def test_arrays_in_any_order_of_memory(tmp_path):
    variables = jax.tree.map(
        lambda leaf: np.asfortranarray(np.asarray(leaf)), random_variables(MODEL)
    )
    save_weights(tmp_path / "weights.safetensors", variables)
    loaded = load_weights(tmp_path / "weights.safetensors")
    assert_identical(jax.device_get(loaded), variables)


MODELS = {
    "named": create_model("resnet20_cifar", 10),
    "options": create_model(
        "resnet50",
        5,
        dtype=jnp.bfloat16,
        replace_stride_with_dilation=(False, True, True),
        norm_axis_name=("data", "model"),
        zero_init_residual=True,
    ),
    "one axis": create_model("resnet18", 5, norm_axis_name="data", freeze_batch_norm=True),
    "shortcut": create_model("resnet20_cifar", 10, shortcut="C", dtype="float16"),
    "plain": create_model("plain18", 3, stem="cifar"),
    "nobody's": ResNet(
        stage_sizes=[np.int64(1), 2], block=BasicBlock, num_classes=7, stage_widths=[4, 8]
    ),
    "nobody's bottlenecks": ResNet(
        stage_sizes=(1, 2), block=BottleneckBlock, groups=2, width_per_group=8, stage_widths=(8, 16)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_file_is_enough_to_rebuild_the_model(kind, tmp_path):
    model = MODELS[kind]
    variables = random_variables(model)
    path = tmp_path / "weights.safetensors"
    save_weights(path, variables, model)
    loaded, loaded_variables = load_model(path)
    # "bfloat16" is jnp.bfloat16, though they are not equal.
    assert (loaded.dtype is None) == (model.dtype is None)
    assert jnp.dtype(loaded.dtype or "float32") == jnp.dtype(model.dtype or "float32")
    assert loaded.clone(dtype=None) == model.clone(dtype=None)
    assert_identical(loaded_variables, variables)
    assert_identical(load_weights(path), variables)


def test_every_named_model_is_described_by_its_name():
    for name in list_models():
        described = native._described(create_model(name, 12))
        assert (described["model"], described["num_classes"]) == (name, "12")
        assert described["options"] == "{}"


def test_other_tools_can_read_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    variables = random_variables(MODELS["shortcut"])
    save_weights(path, variables, MODELS["shortcut"])
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
        kernel = file.get_tensor("params.stage1.block3.conv2.kernel")
        assert len(file.keys()) == len(jax.tree.leaves(variables))
    assert json.loads(metadata.pop("options")) == {"dtype": "float16", "shortcut": "C"}
    assert metadata == {"format": "resnet_jax", "model": "resnet20_cifar", "num_classes": "10"}
    np.testing.assert_array_equal(
        kernel, variables["params"]["stage1"]["block3"]["conv2"]["kernel"]
    )


def test_weights_are_fitted_to_a_model(tmp_path):
    path = tmp_path / "weights.safetensors"
    variables = random_variables(MODEL)
    save_weights(path, variables)
    assert_identical(load_weights(path, MODEL), variables)
    with pytest.raises(WeightsError, match="params.stage1.block1.bn3.bias"):
        load_weights(path, small_pair("basic")[0])
    other = MODEL.clone(num_classes=3)
    with pytest.raises(WeightsError, match="the weights have 7 classes but the model 3"):
        load_weights(path, other)
    key = jax.random.key(3)
    loaded = load_weights(path, other, skip_head=True, key=key)
    head = jax.jit(other.init)(key, jnp.zeros((1, 8, 8, 3)))["params"]["head"]
    assert_identical(loaded["params"]["head"], head)
    assert_identical(loaded["params"]["stage2"], variables["params"]["stage2"])
    with pytest.raises(WeightsError, match="needs a model"):
        load_weights(path, skip_head=True)


def test_variables_of_another_model_are_not_saved(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(WeightsError, match="cannot be fitted to the model"):
        save_weights(path, random_variables(MODEL), small_pair("basic")[0])
    with pytest.raises(WeightsError, match="does not end in .safetensors"):
        save_weights(tmp_path / "weights.pth", random_variables(MODEL))
    with pytest.raises(WeightsError, match="there is no folder"):
        save_weights(tmp_path / "none" / "weights.safetensors", random_variables(MODEL))
    assert list(tmp_path.iterdir()) == []


def write(path, metadata):
    name = "params.head.bias" if metadata and "format" in metadata else "fc.bias"
    arrays = {name: np.ones(3, np.float32)}
    save_file(arrays, path, metadata)


DESCRIPTION = {"format": "resnet_jax", "model": "resnet18", "num_classes": "3", "options": "{}"}


@pytest.mark.parametrize(
    "metadata, message",
    [
        (None, r"was not written by save_weights; try from_torch\(model, path\)"),
        ({"format": "pt"}, "does not state its model"),
        ({"format": "resnet_jax"}, "does not state its model"),
        ({**DESCRIPTION, "model": "resnet19"}, "unknown model 'resnet19' .did you mean 'resnet1"),
        ({**DESCRIPTION, "num_classes": "many"}, "a newer one may"),
        ({**DESCRIPTION, "options": "{"}, "a newer one may"),
        ({**DESCRIPTION, "options": '{"magic": 1}'}, "a newer one may"),
        ({**DESCRIPTION, "options": '{"shortcut": "D"}'}, "unknown shortcut 'D'"),
        ({**DESCRIPTION, "options": "3"}, "a newer one may"),
        ({**DESCRIPTION, "options": '{"block": "x"}'}, "a newer one may"),
        ({**DESCRIPTION, "options": '{"name": "x"}'}, "a newer one may"),
        (DESCRIPTION, "weights.safetensors cannot be fitted to the model"),
    ],
    ids=str,
)
def test_files_that_say_nothing_of_use(metadata, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    write(path, metadata)
    with pytest.raises(WeightsError, match=message) as info:
        load_model(path)
    assert len(str(info.value)) < 300 and "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["params", "params.head", "params.head.bias.x"])
def test_an_entry_inside_of_another(name, tmp_path):
    path = tmp_path / "weights.safetensors"
    arrays = {"params.head.bias": np.ones(3, np.float32), name: np.ones(3, np.float32)}
    save_file(arrays, path, DESCRIPTION)
    with pytest.raises(WeightsError, match="'params.*' and others inside it"):
        load_weights(path)


def test_pytorch_readers_send_you_here(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, random_variables(MODEL))
    with pytest.raises(WeightsError, match="read it by load_weights"):
        resnet_jax.from_torch(MODEL, path)


def test_notes_go_into_the_metadata(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = MODELS["named"]
    save_weights(path, random_variables(model), model, notes={"test_error": "0.0875"})
    with safe_open(path, "numpy") as file:
        assert file.metadata()["test_error"] == "0.0875"
    assert load_model(path)[0] == model
    with pytest.raises(WeightsError, match="the note 'options' has a reserved name"):
        save_weights(path, random_variables(model), model, notes={"options": "{}"})


def test_pretrained_weights_are_the_files_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match="no pretrained weights 'resnet50'; none are shipped"):
        load_pretrained("resnet50")
    model = MODELS["named"]
    variables = random_variables(model)
    save_weights(tmp_path / "resnet20_cifar.safetensors", variables, model)
    shutil.copy(tmp_path / "resnet20_cifar.safetensors", tmp_path / "another.safetensors")
    expected = "(did you mean 'resnet20_cifar'?); choose from another, resnet20_cifar"
    with pytest.raises(WeightsError) as info:
        load_pretrained("resnet20_cifer")
    assert str(info.value) == f"no pretrained weights 'resnet20_cifer' {expected}"
    with pytest.raises(WeightsError, match="no pretrained weights '../resnet20_cifar'"):
        load_pretrained("../resnet20_cifar")
    loaded, loaded_variables = load_pretrained("resnet20_cifar")
    assert loaded == model
    assert_identical(loaded_variables, variables)
    # The name alone is enough wherever a file's path is.
    assert_identical(read_weights(model, "resnet20_cifar"), variables)
    assert_identical(load_model("resnet20_cifar")[1], variables)
    with pytest.raises(WeightsError, match="does not exist"):
        load_model(f"../{tmp_path.name}/resnet20_cifar")


SHIPPED = sorted(Path(native.__file__).with_name("pretrained").glob("*.safetensors"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_loads_and_is_described(path):
    model, variables = load_pretrained(path.stem)
    assert model.num_classes == variables["params"]["head"]["bias"].shape[0]
    with safe_open(path, "numpy") as file:
        notes = file.metadata()
    readme = path.with_name("README.md").read_text()
    assert f"`{path.name}`" in readme
    assert f"{100 * float(notes['test_error']):.2f} %" in readme
    assert json.loads(notes["recipe"])["model"] == notes["model"]


def test_resnet20_is_shipped_with_an_error_no_higher_than_the_papers():
    [path] = [path for path in SHIPPED if path.stem == "resnet20_cifar10"]
    assert path.stat().st_size < 1_500_000
    with safe_open(path, "numpy") as file:
        assert float(file.metadata()["test_error"]) <= 0.0875  # Table 6.


@pytest.mark.parametrize("separator", [".", "/", "__", "|", ", "])
@pytest.mark.parametrize("skip_head", [False, True])
def test_variables_that_safetensors_wrote(separator, skip_head, tmp_path):
    path = tmp_path / "weights.safetensors"
    variables = random_variables(MODEL)
    safetensors.flax.save_file(traverse_util.flatten_dict(variables, sep=separator), path)
    assert_identical(load_weights(path), variables)
    expected = load_weights(path, MODEL, skip_head=skip_head)
    assert_identical(expected["batch_stats"], variables["batch_stats"])
    assert_identical(read_weights(MODEL, path, skip_head=skip_head), expected)


def test_variables_that_safetensors_wrote_by_their_paths(tmp_path):
    path = tmp_path / "weights.safetensors"
    variables = random_variables(MODEL)
    flat = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    assert "['batch_stats']['stage1']['block1']['bn1']['mean']" in flat
    safetensors.flax.save_file(flat, path)
    assert_identical(read_weights(MODEL, path), variables)
    with pytest.raises(WeightsError, match="does not state its model"):
        load_model(path)


@pytest.mark.parametrize("skip_head", [False, True])
@pytest.mark.parametrize(
    "saved, read, message",
    [
        ("resnet50_v1", {}, "stride_on_first=True, this one has False, .*own model, 'resnet50_v1'"),
        ("plain20_cifar", {}, "residual=False, this one has True, .* own model, 'plain20_cifar'"),
        (
            "resnet20_cifar",
            {"shortcut": "B"},
            "shortcut='A', this one has 'B', .* 'resnet20_cifar'",
        ),
        ("resnet18", {"stem": "cifar"}, "stem='imagenet', this one has 'cifar', .* 'resnet18'"),
    ],
)
def test_weights_of_another_variant_are_refused(saved, read, message, skip_head, tmp_path):
    path = tmp_path / "weights.safetensors"
    model = create_model(saved, 3)
    save_weights(path, random_variables(model), model)
    load_weights(path, model.clone(freeze_batch_norm=True), skip_head=skip_head)
    twins = {"resnet50_v1": "resnet50", "plain20_cifar": "resnet20_cifar"}
    other = create_model(twins.get(saved, saved), 3, **read)
    with pytest.raises(WeightsError, match=f"weights.safetensors is for a model with {message}"):
        read_weights(other, path, skip_head=skip_head)


def test_a_variant_with_an_option_is_named_with_it(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = create_model("resnet20_cifar", 3, shortcut="C")
    save_weights(path, random_variables(model), model)
    with pytest.raises(WeightsError, match="own model, 'resnet20_cifar' with shortcut='C'"):
        load_weights(path, create_model("resnet20_cifar", 3))
    # Training options and dilation change no parameter's meaning.
    dilated = MODELS["options"]
    save_weights(path, random_variables(dilated), dilated)
    load_weights(path, create_model("resnet50", 5))


class OwnBlock(BasicBlock):
    pass


class OwnNet(ResNet):
    pass


@pytest.mark.parametrize(
    "model",
    [
        MODEL.clone(block=OwnBlock),
        OwnNet(stage_sizes=(1, 1), block=BasicBlock, stage_widths=(4, 8)),
    ],
    ids=["block", "network"],
)
def test_a_class_that_a_file_cannot_describe(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    variables = random_variables(model)
    with pytest.raises(WeightsError, match="a file cannot describe Own(Block|Net), a class of"):
        save_weights(path, variables, model)
    save_weights(path, variables)
    assert_identical(load_weights(path, model), variables)
