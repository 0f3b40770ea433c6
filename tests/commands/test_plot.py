import contextlib

import pytest

from resnet_jax.commands import plot
from resnet_jax.runtime.pictures import NotDrawn
from resnet_jax.training import curves
from resnet_jax.training.records import MetricsLog


def make_run(workdir):
    with contextlib.closing(MetricsLog(workdir)) as log:
        figures = {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.1}
        log.on_train_metrics(10, figures)
        log.on_evaluation(10, figures)
    return str(workdir)


def test_a_picture_of_two_runs(tmp_path, capsys):
    picture = tmp_path / "both.png"
    runs = [make_run(tmp_path / "resnet20"), make_run(tmp_path / "plain20")]
    assert plot.main([*runs, "--output", str(picture)]) is None
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{picture}\n"


def test_scale_and_smoothing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(curves, "draw_curves", lambda *_, **how: asked.append(how))
    run, output = make_run(tmp_path / "run"), ["--output", str(tmp_path / "x.png")]
    plot.main([run, *output])
    plot.main([run, *output, "--log", "--smooth", "500"])
    assert asked == [
        {"smooth_over": None, "log_scale": False},
        {"smooth_over": 500, "log_scale": True},
    ]


def test_runs_are_named_by_their_folders(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "draw_curves", lambda runs, *_, **__: drawn.append(list(runs)))
    a, b, other = (make_run(tmp_path / name) for name in ["a/run", "b/run", "other"])
    output = ["--output", str(tmp_path / "x.png")]
    plot.main([a, other, *output])
    plot.main([a, b, *output])
    assert drawn == [["run", "other"], [a, b]]


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("no layout")

    monkeypatch.setattr(curves, "draw_curves", fail)
    output = tmp_path / "x.png"
    with pytest.raises(NotDrawn, match=f"{output} was not drawn: no layout"):
        plot.main([make_run(tmp_path / "run"), "--output", str(output)])
    assert capsys.readouterr().out == ""


def test_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_run(tmp_path / "run")
    plot.main(["~/run", "--output=~/x.png"])
    assert capsys.readouterr().out == f"{tmp_path / 'x.png'}\n" and (tmp_path / "x.png").exists()
