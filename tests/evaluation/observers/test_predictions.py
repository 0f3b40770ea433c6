"""Predictions as Parquet, read by pyarrow alone, and as CSV, read by the csv module."""

import csv
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


@pytest.mark.parametrize(
    ("class_names", "header"),
    [
        (["a b", "ü,\n", "c"], ["a b", "ü,\n", "c"]),
        (["a", "b", "a"], ["score_0", "score_1", "score_2"]),
        (["a", "b", "label"], ["score_0", "score_1", "score_2"]),
        (["a", "b"], ["score_0", "score_1", "score_2"]),
    ],
)
def test_a_csv_file(tmp_path, monkeypatch, class_names, header):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    logits = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    predictions = Predictions(4, ".csv")
    predictions(scored(logits, [2, 0, 1], index=[3, 0, 2]))
    names = ["a.jpg", "", 'b,"\n.jpg', "caf\udce9.jpg"]
    predictions.write(tmp_path / "scores.CSV", class_names, names.__getitem__)
    with open(tmp_path / "scores.CSV", newline="", encoding="utf-8") as file:
        first, *rows = csv.reader(file)
    assert first == ["index", "file", "label", "prediction", *header]
    assert [row[:3] for row in rows] == [
        ["0", "a.jpg", "0"],
        ["2", 'b,"\n.jpg', "1"],
        ["3", "caf\\udce9.jpg", "2"],
    ]
    softmax = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[[1, 2, 0]]
    assert [int(row[3]) for row in rows] == softmax.argmax(1).tolist()
    np.testing.assert_allclose([list(map(float, row[4:])) for row in rows], softmax, rtol=1e-5)


def test_a_csv_file_without_names(tmp_path):
    predictions = Predictions(1, ".csv")
    predictions(scored([[0.0, 1.0]], [1]))
    predictions.write(tmp_path / "scores.csv")
    first, second = (tmp_path / "scores.csv").read_text().splitlines()
    assert first == "index,label,prediction,score_0,score_1" and second.startswith("0,1,1,0.26894")


def test_names_that_are_no_valid_text(tmp_path):
    predictions = Predictions(1)
    predictions(scored([[0.0, 1.0]], [1]))
    predictions.write(tmp_path / "scores.parquet", ["a", "\udce9"], lambda row: "caf\udce9.jpg")
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert table["file"].to_pylist() == ["caf\\udce9.jpg"]
    assert table.schema.metadata[b"class_names"] == b"a\n\\udce9"


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
