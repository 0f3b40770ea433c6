"""Exports a network to ONNX with jax2onnx, and compares it with ONNX Runtime's logits.

    pip install jax2onnx onnxruntime
    python examples/onnx_export.py [MODEL] [FILE.onnx]

The default kernels are JAX's own operations, which exporters know. Replace the random variables by
yours (`resnet_jax.load_model`). Exit status 1 if logits differ by more than 1e-4 of the largest.
"""

import sys

import jax
import numpy as np
import onnx
import onnxruntime
from jax2onnx import to_onnx

import resnet_jax


def main(name: str = "resnet18", path: str = "resnet18.onnx") -> int:
    """Writes the file and returns the exit status."""
    model = resnet_jax.create_model(name, num_classes=1000)
    size = 32 if name.endswith("_cifar") else 224
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def apply(images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    onnx.save(to_onnx(apply, inputs=[("n", size, size, 3)], model_name=name), path)
    session = onnxruntime.InferenceSession(path)
    (theirs,) = session.run(None, {session.get_inputs()[0].name: images})
    ours = np.asarray(apply(images))
    error = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    print(f"{path}: logits of ONNX Runtime differ by {error:.1e} of the largest")
    return int(error > 1e-4)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
