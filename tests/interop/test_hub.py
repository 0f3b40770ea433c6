"""Repositories of the Hugging Face Hub: as folders, and over HTTP from a server of the test."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import pytest
import torch
from safetensors.torch import save_file

from resnet_jax import WeightsError, create_model, from_hub, from_torch, save_weights
from resnet_jax.interop import read_weights
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

# As timm 1.0.31 writes it for resnet18, but for the preprocessing.
TIMM = {
    "architecture": "resnet18",
    "num_classes": NUM_CLASSES,
    "num_features": 512,
    "global_pool": "avg",
    "model_args": {"num_classes": NUM_CLASSES, "in_chans": 3, "global_pool": "avg"},
    "pretrained_cfg": {"tag": "a1_in1k", "input_size": [3, 224, 224], "first_conv": "conv1"},
}
# As the repositories from before have it.
OLD_TIMM = {"architecture": "resnet18", "num_classes": NUM_CLASSES, "num_features": 512}
# As transformers 5.23 writes it.
TRANSFORMERS = {
    "architectures": ["ResNetForImageClassification"],
    "depths": [2, 2, 2, 2],
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
    "embedding_size": 64,
    "hidden_act": "relu",
    "hidden_sizes": [64, 128, 256, 512],
    "id2label": {str(index): f"LABEL_{index}" for index in range(NUM_CLASSES)},
    "layer_type": "basic",
    "model_type": "resnet",
    "num_channels": 3,
}


def write_repository(folder, config, module, weights="model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save = save_file if weights.endswith(".safetensors") else torch.save
    save(module.state_dict(), folder / weights)
    return str(folder)


@pytest.fixture(scope="module")
def twin():
    return torch_twins.randomise(torch_twins.make_twin("resnet18", NUM_CLASSES), seed=1)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("config", [TIMM, OLD_TIMM], ids=["new", "old"])
def test_a_folder_of_timm(config, weights, twin, tmp_path):
    repo = write_repository(tmp_path, config, twin, weights)
    model, variables = from_hub(repo)
    assert model == create_model("resnet18", NUM_CLASSES)
    assert_identical(variables, from_torch(model, twin.state_dict()))


def test_the_output_stride_of_timm(tmp_path):
    config = {**TIMM, "architecture": "resnet50"}
    config["model_args"] = {**TIMM["model_args"], "output_stride": 8, "drop_rate": 0.1}
    twin = torch_twins.make_twin("resnet50", NUM_CLASSES)
    model, _ = from_hub(write_repository(tmp_path, config, twin))
    dilation = (False, True, True)
    assert model == create_model("resnet50", NUM_CLASSES, replace_stride_with_dilation=dilation)


def test_a_folder_of_transformers(tmp_path):
    twin = hugging_face_twin.ResNet(
        (2, 2, 2, 2), (64, 128, 256, 512), NUM_CLASSES, is_bottleneck=False
    )
    torch_twins.randomise(twin, seed=2)
    model, variables = from_hub(write_repository(tmp_path, TRANSFORMERS, twin))
    assert model == create_model("resnet18", NUM_CLASSES)
    images = random_images(2, 32, 32)
    assert relative_error(logits(model, variables, images), logits_of_twin(twin, images)) < 1e-5


@pytest.mark.parametrize("first", [True, False])
def test_where_transformers_has_the_stride(first, tmp_path):
    twin = hugging_face_twin.ResNet((3, 4, 6, 3), (256, 512, 1024, 2048), 2)
    # What is left out is a default: a ResNet-50 of two classes.
    config = {"model_type": "resnet", "downsample_in_bottleneck": first}
    model, _ = from_hub(write_repository(tmp_path, config, twin))
    assert model == create_model("resnet50_v1" if first else "resnet50", 2)


def test_a_folder_with_our_own_weights_needs_no_configuration(tmp_path):
    model, twin = small_pair()
    variables = from_torch(model, twin.state_dict())
    save_weights(tmp_path / "model.safetensors", variables, model)
    loaded, loaded_variables = from_hub(str(tmp_path))
    assert loaded == model
    assert_identical(loaded_variables, variables)


@pytest.mark.parametrize(
    "config, message",
    [
        ({**TIMM, "architecture": "resnetblur18"}, "unknown model 'resnetblur18'"),
        ({**TIMM, "global_pool": "max", "model_args": {}}, "its global_pool is 'max', not 'avg'"),
        ({**TIMM, "model_args": {"block_args": {"attn_layer": "se"}}}, "it has block_args"),
        ({**TIMM, "num_classes": 0, "model_args": {}}, "has no classifier; start a new one"),
        ({**TRANSFORMERS, "architectures": ["ResNetModel"]}, "has no classifier; start a new"),
        ({**TIMM, "num_classes": 9, "model_args": {}}, "have 7 classes but the model 9"),
        ({**TRANSFORMERS, "model_type": "vit"}, "its model_type is 'vit', not 'resnet'"),
        ({**TRANSFORMERS, "hidden_act": "gelu"}, "its hidden_act is 'gelu', not 'relu'"),
        ({**TRANSFORMERS, "downsample_in_first_stage": True}, "downsample_in_first_stage is True"),
        ({**TRANSFORMERS, "embedding_size": 32}, "its stem and its first stage"),
        ({}, "its model_type is None"),
        ([], "describes no ResNet"),
    ],
    ids=str,
)
def test_nets_that_are_not_here(config, message, twin, tmp_path):
    repo = write_repository(tmp_path, config, twin)
    with pytest.raises(WeightsError, match=message) as info:
        from_hub(repo)
    assert "\n" not in str(info.value) and len(str(info.value)) < 300 + len(repo)


def without_head(module):
    """Returns the module's state_dict without the classifier, as a module that has it."""
    state = module.state_dict()
    headless = {name: value for name, value in state.items() if not name.startswith("fc.")}
    return SimpleNamespace(state_dict=lambda: headless)


# As transformers 5.23 writes it for a model of timm.
WRAPPER = {
    **{"architectures": ["TimmWrapperForImageClassification"], "model_type": "timm_wrapper"},
    **{"architecture": "resnet18", "num_classes": NUM_CLASSES, "model_args": None},
    **{"do_pooling": True, "initializer_range": 0.02, "num_features": 512, "global_pool": "avg"},
}


@pytest.mark.parametrize("prefix", ["", "timm_model."])
def test_a_model_of_timm_in_transformers(prefix, twin, tmp_path):
    state = {prefix + name: value for name, value in twin.state_dict().items()}
    repo = write_repository(tmp_path, WRAPPER, SimpleNamespace(state_dict=lambda: state))
    model, variables = from_hub(repo)
    assert model == create_model("resnet18", NUM_CLASSES)
    assert_identical(variables, from_torch(model, twin.state_dict()))


@pytest.mark.parametrize(
    "config", [{**TIMM, "num_classes": 0, "model_args": {}}, TIMM], ids=["headless", "another head"]
)
def test_a_new_classifier(config, twin, tmp_path):
    module = without_head(twin) if config["num_classes"] == 0 else twin
    repo = write_repository(tmp_path, config, module)
    model = create_model("resnet18", 3)
    key = jax.random.key(3)
    expected = from_torch(model, twin.state_dict(), skip_head=True, key=key)
    loaded, variables = from_hub(repo, num_classes=3, key=key)
    assert loaded == model
    assert_identical(variables, expected)
    assert_identical(read_weights(model, repo, skip_head=True, key=key), expected)


def test_a_new_classifier_for_our_own_weights(tmp_path):
    model, twin = small_pair()
    save_weights(tmp_path / "model.safetensors", from_torch(model, twin.state_dict()), model)
    loaded, variables = from_hub(str(tmp_path), num_classes=3)
    assert loaded == model.clone(num_classes=3)
    assert_identical(variables, from_torch(loaded, twin.state_dict(), skip_head=True))
    assert_identical(read_weights(model, tmp_path), from_torch(model, twin.state_dict()))


@pytest.mark.parametrize("skip_head", [False, True])
def test_a_repository_is_read_into_its_own_model_alone(skip_head, tmp_path):
    twin = hugging_face_twin.ResNet((3, 4, 6, 3), (256, 512, 1024, 2048), 2)
    config = {"model_type": "resnet", "downsample_in_bottleneck": True}
    repo = write_repository(tmp_path, config, twin)
    read_weights(create_model("resnet50_v1", 2), repo, skip_head=skip_head)
    message = "stride_on_first=True, this one has False, .* the file's own model, 'resnet50_v1'"
    with pytest.raises(WeightsError, match=message):
        read_weights(create_model("resnet50", 2), repo, skip_head=skip_head)


def test_folders_that_lack_a_file(twin, tmp_path):
    with pytest.raises(WeightsError, match="has neither model.safetensors nor pytorch_model.bin"):
        from_hub(str(tmp_path))
    repo = write_repository(tmp_path, TIMM, twin)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="has no config.json"):
        from_hub(repo)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="the config.json of .* describes no ResNet"):
        from_hub(repo)


def test_no_library_and_no_such_name(monkeypatch):
    with pytest.raises(WeightsError, match="is neither a folder nor an OWNER/NAME on the"):
        from_hub("./no/such/folder")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"python -m pip install 'resnet-jax\[hub\]'"):
        from_hub("timm/resnet50.a1_in1k")


@contextmanager
def hub_server(folder, repo):
    """Serves a folder's files as the Hub serves those of a repository."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix(f"/{repo}/resolve/main/")
            path = folder / name
            content = path.read_bytes() if name != self.path and path.is_file() else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            is_repository = self.path.startswith(f"/{repo}/")
            if is_repository:
                self.send_header("X-Repo-Commit", "0123456789abcdef" * 2 + "01234567")
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            if not content:
                kind = "EntryNotFound" if is_repository else "RepoNotFound"
                self.send_header("X-Error-Code", kind)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


PROGRAM = """
import resnet_jax
for repo in ["timm/tiny", "timm/none"]:
    try:
        model, variables = resnet_jax.from_hub(repo)
        print(model.num_classes, variables["params"]["head"]["bias"].tolist())
    except resnet_jax.WeightsError as error:
        print(error)
"""


def test_a_repository_over_http_and_then_without_a_network(twin, tmp_path):
    write_repository(tmp_path / "repository", TIMM, twin, "pytorch_model.bin")
    home = {"HF_HOME": str(tmp_path / "home")}
    with hub_server(tmp_path / "repository", "timm/tiny") as endpoint:
        found, missing = run(PROGRAM, HF_ENDPOINT=endpoint, **home)
    loaded = f"{NUM_CLASSES} {twin.fc.bias.tolist()}"
    assert found == loaded
    assert missing.startswith("timm/none is not on the Hugging Face Hub, or not public")
    # What was fetched is in the cache; the rest ends in one line.
    found, missing = run(PROGRAM, HF_HUB_OFFLINE="1", **home)
    assert found == loaded
    assert missing == (
        "the Hugging Face Hub cannot be reached and model.safetensors of timm/none is not in the"
        " cache; check the network, or give a folder with the repository's files"
    )
