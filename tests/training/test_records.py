import contextlib
import json
import math

import matplotlib.figure
import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runtime.tensorboard import TensorBoard
from resnet_jax.training.curves import draw_curves
from resnet_jax.training.records import MetricsLog, format_table, read_metrics
from resnet_jax.training.task import Classification
from tests.runtime.test_tensorboard import read_scalars


def write_run(workdir, steps, *, resume_step=0, shift=0.0):
    logs = [
        MetricsLog(workdir, resume_step, eval_split="test"),
        TensorBoard(workdir / "tensorboard", resume_step, "test"),
    ]
    for log in logs:
        for step in steps:
            figures = {"loss": 1.0 / step + shift, "top1_error": 0.5, "top5_error": 0.1}
            log.on_train_metrics(step, figures)
            if step % 2 == 0:
                figures = {"loss": 2.0 / step + shift, "top1_error": 0.6, "top5_error": 0.2}
                log.on_evaluation(step, figures)
        log.close()


def test_lines_are_json_and_on_disk_at_once(tmp_path):
    values = {"loss": 0.1 + 0.2, "top1_error": 0.125, "top5_error": 0.0}
    rates = {"learning_rate": 0.1, "images_per_second": 1834.25}
    log = MetricsLog(tmp_path / "runs" / "a", eval_split="test")
    with contextlib.closing(log):
        log.on_train_metrics(10, values | rates)
        log.on_evaluation(10, values)
        lines = (tmp_path / "runs" / "a" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "split": "train", **values, **rates},
        {"step": 10, "split": "test", **values},
    ]


def test_a_value_that_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    with contextlib.closing(MetricsLog(tmp_path)) as log:
        log.on_train_metrics(1, {"loss": math.nan, "top1_error": math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None
    [metrics] = read_metrics(tmp_path)
    assert math.isnan(metrics["loss"]) and math.isnan(metrics["top1_error"])


def test_a_resumed_run_has_each_step_once(tmp_path):
    write_run(tmp_path / "once", range(1, 9))
    write_run(tmp_path / "resumed", range(1, 7), shift=9.0)
    resumed = tmp_path / "resumed" / "metrics.jsonl"
    resumed.write_text(resumed.read_text() + '{"step": 7, "spl')  # Killed in the middle of a line.
    kept = [metrics for metrics in read_metrics(tmp_path / "resumed") if metrics["step"] <= 4]

    write_run(tmp_path / "resumed", range(5, 9), resume_step=4)

    once = read_metrics(tmp_path / "once")
    after = [metrics for metrics in once if metrics["step"] > 4]
    assert read_metrics(tmp_path / "resumed") == kept + after
    tags = read_scalars(tmp_path / "resumed" / "tensorboard")
    assert [step for step, _ in tags["train/loss"]] == list(range(1, 9))
    assert [step for step, _ in tags["test/top5_error"]] == [2, 4, 6, 8]
    losses = [metrics["loss"] for metrics in kept + after if metrics["split"] == "train"]
    assert [value for _, value in tags["train/loss"]] == pytest.approx(losses)


def test_a_run_without_a_checkpoint_starts_its_records_afresh(tmp_path):
    write_run(tmp_path, range(1, 5))
    write_run(tmp_path, [1])
    assert [metrics["step"] for metrics in read_metrics(tmp_path)] == [1]
    assert len(read_scalars(tmp_path / "tensorboard")["train/loss"]) == 1


@pytest.mark.parametrize("damage", ['{"step": 2, "spl', "[]", '{"step": 2}', "\x00\x00", ""])
def test_damage_before_the_last_line_is_named(tmp_path, damage):
    write_run(tmp_path, [1])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(damage + '\n{"step": 3, "split": "train"}\n')
    with pytest.raises(ConfigError, match=r"line 2 of .*metrics.jsonl is not a line of metrics"):
        read_metrics(tmp_path)


@pytest.fixture
def axes(monkeypatch):
    """A list that receives the axes of each picture saved."""
    saved = []
    save = matplotlib.figure.Figure.savefig

    def spy(figure, *args, **kwargs):
        saved.extend(figure.axes)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", spy)
    return saved


def metrics_of(split, steps, errors):
    return [
        {"step": step, "split": split, "top1_error": error}
        for step, error in zip(steps, errors, strict=True)
    ]


def test_curves_are_drawn_as_in_the_paper(tmp_path, axes):
    runs = {
        name: metrics_of("train", [10_000, 20_000, 30_000], [0.9, 0.1, 0.1])
        + metrics_of("test", [15_000, 30_000], [0.3, final])
        for name, final in [("resnet20", 0.0875), ("resnet56", 0.0697)]
    }
    draw_curves(runs, tmp_path / "curves.png")

    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    [axes] = axes
    styles = [(line.get_label(), line.get_linestyle()) for line in axes.lines]
    assert sorted(styles) == [
        ("resnet20, test: 8.8 %", "-"),
        ("resnet20, training (mean over 10000 steps)", "--"),
        ("resnet56, test: 7.0 %", "-"),
        ("resnet56, training (mean over 10000 steps)", "--"),
    ]
    colors = {line.get_label().split(",")[0]: line.get_color() for line in axes.lines}
    assert all(line.get_color() == colors[line.get_label().split(",")[0]] for line in axes.lines)
    assert len(set(colors.values())) == 2
    assert axes.get_xlabel() == "iterations (1e4)"
    assert axes.get_ylabel() == "error (%)"
    # The first steps' 90 % must not flatten the rest.
    assert 30 <= axes.get_ylim()[1] < 90


def test_a_long_legend_stands_below_the_curves(tmp_path, axes):
    run = metrics_of("train", [1, 2], [0.9, 0.1]) + metrics_of("test", [2], [0.3])
    draw_curves(dict.fromkeys(["a", "b", "c"], run), tmp_path / "curves.png")
    [axes] = axes
    [legend] = axes.figure.legends
    assert len(legend.get_texts()) == 6 and axes.get_legend() is None
    assert legend.get_window_extent().y1 <= axes.get_tightbbox().y0


def test_noisy_training_errors_are_averaged_over_equal_spans(tmp_path, axes):
    errors = np.random.default_rng(0).uniform(size=1_000)
    metrics = metrics_of("train", range(10, 10_010, 10), errors.tolist())
    draw_curves({"run": metrics}, tmp_path / "curves.png", bins=50)
    [line] = axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), 100 * errors.reshape(50, 20).mean(1))
    np.testing.assert_allclose(line.get_xdata()[:2], [105, 305])
    assert line.get_label() == "run, training (mean over 200 steps)"

    draw_curves({"run": metrics}, tmp_path / "curves.png", smooth_over=1000)
    [line] = axes[1].lines
    np.testing.assert_allclose(line.get_ydata(), 100 * errors.reshape(10, 100).mean(1))
    assert line.get_label() == "run, training (mean over 1000 steps)"


def test_a_logarithmic_axis_shows_all_but_zero(tmp_path, axes):
    steps = range(100, 1100, 100)
    metrics = metrics_of("test", steps, [0.9, 0.5, 0.1, 0.05, 0.01, 0.005, 0.0, 0.002, 0.001, 0.0])
    draw_curves({"run": metrics}, tmp_path / "curves.png", log_scale=True)
    assert axes[0].get_yscale() == "log"
    low, high = axes[0].get_ylim()
    assert 0 < low < 0.1 and high > 90
    assert axes[0].yaxis.get_major_formatter()(10) == "10"


@pytest.mark.parametrize("metrics", [[], metrics_of("test", [1], [math.nan])])
def test_a_run_without_errors_still_gives_a_picture(tmp_path, metrics):
    draw_curves({"run": metrics}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_an_error_of_zero_can_be_drawn(tmp_path, axes):
    draw_curves({"run": metrics_of("test", [1, 2], [0.0, 0.0])}, tmp_path / "curves.png")
    [axes] = axes
    assert axes.get_ylim() == (0, 1)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0, 0])


def test_table_of_errors():
    rows = {
        "train": {"step": 900, "loss": 0.25, "top1_error": 0.0669, "top5_error": 0.0},
        "test": {"step": 1000, "loss": 12.5, "top1_error": 0.1126, "top5_error": 1.0},
    }
    assert format_table(
        rows, Classification(create_model("resnet20_cifar", 10)).forms
    ).splitlines() == [
        "        step      loss   top-1 error   top-5 error",
        "train    900    0.2500         6.69%         0.00%",
        "test    1000   12.5000        11.26%       100.00%",
    ]
