"""Predictions as Parquet, read by pyarrow alone."""

import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from resnet_jax.evaluation import EvaluationError
from resnet_jax.evaluation.observers.predictions import Predictions
from tests.evaluation.observers.test_classes import scored


def test_every_image_has_its_row(tmp_path):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 4)).astype(np.float32), rng.integers(0, 4, 9)
    predictions = Predictions(9)
    # In an order of their own, with padding between.
    for rows in ([5, 8, 0], [1, 2, 3], [7, 4, 6]):
        padded = [*rows, 0]
        mask = [True, True, True, False]
        predictions(scored(logits[padded], labels[padded], mask, padded))
    path = tmp_path / "scores.parquet"
    predictions.write(path, ["a", "b", "c", "d"], describe="image {}".format)

    assert [file.name for file in tmp_path.iterdir()] == ["scores.parquet"]
    table = parquet.read_table(path)
    assert table.schema.field("scores").type == pyarrow.list_(pyarrow.float32(), 4)
    assert table.schema.metadata[b"class_names"] == b"a\nb\nc\nd"
    columns = table.to_pydict()
    assert columns["index"] == list(range(9))
    assert columns["label"] == labels.tolist()
    assert columns["prediction"] == logits.argmax(1).tolist()
    assert columns["file"] == [f"image {row}" for row in range(9)]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(columns["scores"], softmax, rtol=1e-5)


def test_images_without_names_and_without_scores(tmp_path):
    predictions = Predictions(3)
    predictions(scored([[0.0, 1.0], [1.0, 0.0]], [1, 1], index=[0, 2]))
    predictions.write(tmp_path / "scores.parquet")
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert "file" not in table.column_names
    assert table["index"].to_pylist() == [0, 2]
    assert table["prediction"].to_pylist() == [1, 0]


def test_a_folder_that_is_not_there(tmp_path):
    predictions = Predictions(1)
    predictions(scored([[0.0, 1.0]], [1]))
    with pytest.raises(EvaluationError, match="there is no folder .*nowhere; create it first"):
        predictions.write(tmp_path / "nowhere" / "scores.parquet")


def test_pyarrow_is_asked_for_before_anything_is_scored(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EvaluationError, match=r"pip install 'resnet-jax\[parquet\]'"):
        Predictions(5)
