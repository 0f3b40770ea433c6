"""An exported model runs in another process that has JAX alone."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from resnet_jax import WeightsError, export, fold_batch_norm, from_torch
from tests.interop.nets import (
    logits_of_twin,
    random_images,
    relative_error,
    small_pair,
)

PROGRAM = """
import sys
import jax
import numpy as np
from jax import export

with open(sys.argv[1], "rb") as file:
    exported = export.deserialize(file.read())
images = dict(np.load(sys.argv[2]))
np.savez(sys.argv[3], **{name: exported.call(value) for name, value in images.items()})
assert not {"flax", "resnet_jax", "torch"} & set(sys.modules)
print(exported.in_avals[0], exported.out_avals[0], *exported.platforms)
"""


def run_elsewhere(artifact, images, folder):
    """Returns what another process computes with the artifact for each array of images."""
    np.savez(folder / "images.npz", **images)
    paths = [str(artifact), str(folder / "images.npz"), str(folder / "logits.npz")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(PROGRAM), *paths],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "logits.npz")), done.stdout


@pytest.mark.parametrize("is_folded", [False, True])
def test_an_artifact_runs_with_jax_alone_for_any_batch_size(is_folded, tmp_path):
    model, twin = small_pair(stem="imagenet", stage_sizes=(1, 1, 1), stage_widths=(4, 8, 8))
    variables = from_torch(model, twin.state_dict())
    if is_folded:
        model, variables = fold_batch_norm(model, variables)
    path = tmp_path / "model.jax"
    export(model, variables, path, image_size=(33, 40))
    images = {f"of_{n}": random_images(n, 33, 40, seed=n) for n in (1, 5)}
    ours, description = run_elsewhere(path, images, tmp_path)
    for name, batch in images.items():
        assert ours[name].dtype == np.float32
        assert relative_error(ours[name], logits_of_twin(twin, batch)) < 1e-5
    assert description == "float32[n,33,40,3] float32[n,7] cpu cuda tpu\n"


def test_the_image_size_follows_the_stem_and_the_channels_the_weights(tmp_path):
    from jax import export as jax_export

    for stem, size in [("imagenet", 224), ("cifar", 32)]:
        model, twin = small_pair("basic", stem=stem)
        state_dict = twin.state_dict()
        state_dict["conv1.weight"] = state_dict["conv1.weight"][:, :1]
        export(model, from_torch(model, state_dict), tmp_path / stem)
        exported = jax_export.deserialize((tmp_path / stem).read_bytes())
        assert exported.in_avals[0].shape[1:] == (size, size, 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("size", ["224", 0, (1, 2, 3), 3.5, (8, True)], ids=str)
def test_sizes_that_are_none(size, tmp_path):
    model, twin = small_pair()
    variables = from_torch(model, twin.state_dict())
    with pytest.raises(WeightsError, match="image_size must be one or two integers, not"):
        export(model, variables, tmp_path / "model", image_size=size)
    assert list(tmp_path.iterdir()) == []


def test_variables_and_path_are_checked(tmp_path):
    model, twin = small_pair()
    variables = from_torch(model, twin.state_dict())
    with pytest.raises(WeightsError, match="cannot be fitted"):
        export(small_pair("basic")[0], variables, tmp_path / "model")
    with pytest.raises(WeightsError, match="there is no folder"):
        export(model, variables, tmp_path / "none" / "model", image_size=8)
