"""Every image counts once, for any batch size and number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.evaluation import EvaluationError, evaluate, make_eval_step
from resnet_jax.models import create_model
from resnet_jax.runtime.devices import data_mesh, replicate
from tests.quick import init

IMAGES, CLASSES = 37, 7


@pytest.fixture(scope="module")
def setting():
    rng = np.random.default_rng(0)
    source = data.ArraySource(
        images=rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8),
        labels=rng.integers(0, CLASSES, IMAGES, dtype=np.int32),
        class_names=tuple("abcdefg"),
    )
    model = create_model("resnet20_cifar", CLASSES)
    variables = init(model, jnp.zeros((1, 8, 8, 3)))
    normalization = data.make_normalization("torchvision", 3)

    # One image at a time, loss and ranks by NumPy.
    loss, top1, top5 = 0.0, 0, 0
    apply = jax.jit(lambda image: model.apply(variables, normalization(image)))
    for image, label in zip(source.images, source.labels, strict=True):
        logits = np.asarray(apply(image[None])[0], np.float64)
        loss += np.log(np.sum(np.exp(logits))) - logits[label]
        order = np.argsort(-logits).tolist()
        top1 += order.index(label) >= 1
        top5 += order.index(label) >= 5
    expected = {"loss": loss / IMAGES, "top1_error": top1 / IMAGES, "top5_error": top5 / IMAGES}
    return source, model, variables, normalization, expected


@pytest.mark.parametrize(("batch_size", "devices"), [(37, 1), (5, 1), (64, 1), (12, 3), (8, 8)])
def test_evaluation_is_exact(setting, batch_size, devices):
    source, model, variables, normalization, expected = setting
    mesh = data_mesh(jax.devices()[:devices])
    batches = data.eval_batches(source, data.eval_transform("none"), batch_size=batch_size)
    result = evaluate(
        make_eval_step(model, mesh),
        replicate(variables, mesh),
        replicate(normalization, mesh),
        batches,
        mesh,
    )
    assert result.pop("num_examples") == IMAGES
    assert result["top1_error"] == expected["top1_error"]
    assert result["top5_error"] == expected["top5_error"]
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_no_image_at_all_is_named(setting):
    _, model, variables, normalization, _ = setting
    mesh = data_mesh(jax.devices()[:1])
    nothing = {
        "image": np.zeros((5, 8, 8, 3), np.uint8),
        "label": np.zeros(5, np.int32),
        "mask": np.zeros(5, bool),
    }
    step = make_eval_step(model, mesh)
    with pytest.raises(EvaluationError, match="no image of the split can be decoded; repair"):
        evaluate(step, variables, normalization, [nothing], mesh)
