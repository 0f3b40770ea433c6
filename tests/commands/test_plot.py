import pytest

from resnet_jax.commands import door, plot
from resnet_jax.training import records


def make_run(workdir):
    with records.MetricsLog(workdir) as log:
        log.write(10, "train", loss=1.0, top1_error=0.5, top5_error=0.1)
        log.write(10, "test", loss=1.0, top1_error=0.5, top5_error=0.1)
    return str(workdir)


def test_a_picture_of_two_runs(tmp_path, capsys):
    picture = tmp_path / "both.png"
    runs = [make_run(tmp_path / "resnet20"), make_run(tmp_path / "plain20")]
    assert plot.main([*runs, "--output", str(picture)]) is None
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{picture}\n"


def test_scale_and_smoothing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(records, "plot_curves", lambda *_, **how: asked.append(how))
    run, output = make_run(tmp_path / "run"), ["--output", str(tmp_path / "x.png")]
    plot.main([run, *output])
    plot.main([run, *output, "--log", "--smooth", "500"])
    assert asked == [
        {"smooth_over": None, "log_scale": False},
        {"smooth_over": 500, "log_scale": True},
    ]
    with pytest.raises(door.UsageError, match="'0' is no whole number of at least 1"):
        plot.main([run, *output, "--smooth", "0"])


def test_runs_are_named_by_their_folders(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(records, "plot_curves", lambda runs, *_, **__: drawn.append(list(runs)))
    a, b, other = (make_run(tmp_path / name) for name in ["a/run", "b/run", "other"])
    output = ["--output", str(tmp_path / "x.png")]
    plot.main([a, other, *output])
    plot.main([a, b, *output])
    assert drawn == [["run", "other"], [a, b]]


@pytest.mark.parametrize(
    ("workdir", "output", "message"),
    [
        ("missing", "x.png", "cannot read .*missing/metrics.jsonl: No such file .*; give a work"),
        ("empty", "x.png", "empty holds no metrics yet"),
        ("run", "x.bmp8", "cannot draw .*x.bmp8: .*not supported"),
        ("run", "no/x.png", "there is no folder .*no; make it first"),
    ],
)
def test_bad_input(tmp_path, workdir, output, message):
    make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").touch()
    with pytest.raises(door.UsageError, match=message):
        plot.main([str(tmp_path / workdir), "--output", str(tmp_path / output)])
