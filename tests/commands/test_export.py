import json
import subprocess
import sys

import numpy as np
import pytest

from resnet_jax.commands import export
from resnet_jax.training.restore import open_run
from tests.training.runs import make_run

# What another process does: with JAX and NumPy alone.
PROGRAM = """
import json, sys
import jax.export, numpy as np
path, described, pixels = sys.argv[1], json.loads(sys.argv[2]), np.load(sys.argv[3])
mean = described["mean"]
mean = np.load(mean) if isinstance(mean, str) else np.array(mean)
images = (pixels / 255 - mean) / np.array(described["deviation"])
exported = jax.export.deserialize(bytearray(open(path, "rb").read()))
np.save(sys.argv[4], exported.call(images.astype(np.float32)))
assert not [name for name in ("flax", "resnet_jax", "optax") if name in sys.modules]
"""


@pytest.mark.parametrize(("preprocess", "size"), [("cifar", 28), ("none", 28), ("cifar", 32)])
def test_another_process_gets_the_same_logits(tmp_path, capsys, preprocess, size):
    make_run(tmp_path / "run", [(10, 0.5), (20, 0.4)], preprocess=preprocess)
    output = tmp_path / "net.bin"
    arguments = ["--workdir", str(tmp_path / "run"), "--output", str(output)]
    if size != 28:
        arguments += ["--image_size", str(size)]
    export.main(arguments)
    described = json.loads(capsys.readouterr().out)
    assert described["input"] == ["n", size, size, 1]
    assert isinstance(described["mean"], str) == (preprocess == "cifar" and size == 28)
    assert described["output"] == ["n", 10]
    assert described["channels"] == "L"
    assert described["checkpoint"].endswith("run/checkpoints/20")

    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 1), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    arguments = [output, json.dumps(described), tmp_path / "pixels.npy", tmp_path / "logits.npy"]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = open_run(tmp_path / "run").network.logits(pixels)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-4)
