"""Pictures: names as they are, files whole, and failures that fail nothing else."""

import builtins
import errno
import json
import logging
import warnings

import matplotlib.figure
import pytest

from resnet_jax.evaluation import plot_responses
from resnet_jax.evaluation.observers.classes import MAX_WITH_NUMBERS, ClassErrors
from resnet_jax.runtime.pictures import MAX_NAME, NotDrawn, drawing, new_figure, shown_name
from resnet_jax.training import loop
from resnet_jax.training.curves import draw_curves

NAMES = ["_hidden", "$x_1$", r"$\frac{$", "naïve café", "Кошка", "a " * 40]


def run_of(error):
    return [{"step": step, "split": "test", "top1_error": error / step} for step in (1, 2, 3)]


def texts_of(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def shown(names):
    """The names as they are, or their start and end."""
    return [name if len(name) < 40 else "a a a a a a a a a ... a a a a a a a a a" for name in names]


@pytest.mark.parametrize("names", [NAMES[:3], NAMES])
def test_names_of_runs_are_literal(tmp_path, names):
    figure = draw_curves({name: run_of(0.5) for name in names}, tmp_path / "x.png")
    assert [text.rpartition(",")[0] for text in texts_of(figure)] == shown(names)
    figure = plot_responses({name: {"a": 1.0, "b": 2.0} for name in names}, tmp_path / "x.png")
    assert texts_of(figure) == shown(names)


def test_names_of_classes_are_literal(tmp_path):
    errors = ClassErrors(NAMES)
    errors.confusion += 1
    axes, _ = errors.plot(tmp_path / "x.png").axes
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == shown(NAMES)


def test_a_long_name_keeps_its_start_and_end():
    name = shown_name("start" + "-" * 200 + "end")
    assert name.startswith("start-") and name.endswith("-end") and len(name) <= MAX_NAME
    assert shown_name("x" * MAX_NAME) == "x" * MAX_NAME


def test_more_than_ten_curves_keep_apart(tmp_path):
    figure = draw_curves({f"run {k}": run_of(k) for k in range(1, 41)}, tmp_path / "x.png")
    [axes] = figure.axes
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 40 == len(texts_of(figure))
    [legend] = figure.legends
    frame, area = legend.get_window_extent(), axes.get_window_extent()
    assert figure.bbox.contains(frame.x0, frame.y0) and figure.bbox.contains(frame.x1, frame.y1)
    assert frame.y1 < area.y0 and area.height > 2 * figure.dpi


@pytest.mark.parametrize("length", [5, 60])
@pytest.mark.parametrize(("size", "inches"), [(3, 3), (10, 3), (20, 6), (60, 8)])
def test_a_matrix_of_confusions_grows_with_its_labels(tmp_path, size, inches, length):
    errors = ClassErrors([f"{label}".ljust(length, "m") for label in range(size)])
    figure = errors.plot(tmp_path / "x.png")
    axes, _ = figure.axes
    height = axes.get_window_extent().height
    assert height > inches * figure.dpi
    rows = [label.get_window_extent() for label in axes.get_yticklabels()]
    columns = [label.get_window_extent() for label in axes.get_xticklabels()]
    for box in (*rows, *columns):
        assert figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1)
    assert max(box.height for box in rows) < height / size
    if size > MAX_WITH_NUMBERS:  # Else they are turned by 45 degrees.
        assert max(box.width for box in columns) < height / size


def test_characters_that_the_font_lacks_are_named_once(tmp_path, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        draw_curves({"猫 and 犬": run_of(0.5), "猫": run_of(0.4)}, tmp_path / "x.png")
        assert len(caplog.messages) == 1
        assert all(word in caplog.messages[0] for word in ("x.png", "DejaVu Sans lacks 猫犬;"))
        caplog.clear()
        draw_curves({"naïve": run_of(0.5)}, tmp_path / "x.png")
        assert not caplog.messages


def test_other_warnings_of_matplotlib_stay(tmp_path):
    figure = new_figure(figsize=(1, 1), layout="constrained")
    figure.add_subplot().set_title("\n" * 50)
    with pytest.warns(UserWarning, match="constrained_layout not applied"):
        figure.savefig(tmp_path / "x.png")


def fail_to_import(name, *arguments, real=builtins.__import__, **options):
    if name.startswith("matplotlib"):
        raise ModuleNotFoundError("no matplotlib", name="matplotlib")
    return real(name, *arguments, **options)


def fail(error):
    def savefig(*arguments, **options):
        raise error

    return savefig


FAILURES = {
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    "layout": (RuntimeError("no layout\nfound"), "no layout found"),
    "font": (ValueError(), "ValueError"),
    "package": (None, "python -m pip install 'resnet-jax[train]'"),
}


@pytest.fixture(params=FAILURES)
def failure(request, monkeypatch):
    """Makes all pictures fail; the reason that a message must name."""
    error, reason = FAILURES[request.param]
    if error is None:
        monkeypatch.setattr(builtins, "__import__", fail_to_import)
    else:
        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail(error))
    return reason


def test_a_picture_that_fails_leaves_the_one_before(tmp_path, failure):
    (tmp_path / "x.png").write_bytes(b"before")
    with pytest.raises(NotDrawn) as raised, drawing(tmp_path / "x.png"):
        draw_curves({"run": run_of(0.5)}, tmp_path / "x.png")
    assert str(raised.value) == f"{tmp_path / 'x.png'} was not drawn: " + (
        f"this needs the package matplotlib: {failure}" if "pip" in failure else failure
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_bytes() == b"before"


def test_a_picture_that_fails_does_not_fail_its_run(tmp_path, failure, capsys):
    lines = [record | {"loss": 1.0} for record in run_of(0.5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert loop._last_records(tmp_path, "top1_error", {}) == {"test": lines[-1]}
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"resnet_jax: {tmp_path / 'curves.png'} was not drawn: ")
    assert failure in err


def test_a_name_without_a_suffix_gets_one(tmp_path):
    draw_curves({"run": run_of(0.5)}, tmp_path / "picture")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
