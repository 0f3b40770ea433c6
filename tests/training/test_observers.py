"""What observers are told, and what they can do to a run."""

import json

import pytest

from tests.training.test_experiment import SHORT, go
from tests.training.test_loop import saved

pytestmark = pytest.mark.usefixtures("resnet8")


class Notes:
    """Writes down everything; ends the run, or fails, where it is told to."""

    def __init__(self, stop_at=None, fail_on=None):
        self.events, self._stop_at, self._fail_on = [], stop_at, fail_on

    def _note(self, event, *rest):
        self.events.append((event, *rest))
        if event == self._fail_on:
            raise RuntimeError("of its own")

    def on_start(self, run):
        self._note("start", run.start_step, run.num_steps, run.config["batch_size"])

    def on_train_metrics(self, step, metrics):
        assert metrics["loss"] > 0 and "learning_rate" in metrics
        self._note("train", step)

    def on_evaluation(self, step, metrics):
        assert 0 <= metrics["top1_error"] <= 1
        self._note("evaluation", step)
        return step == self._stop_at

    def on_checkpoint(self, step, path):
        self._note("checkpoint", step, path.name)

    def on_end(self, records):
        self._note("end", records["train"]["step"] if records else 0)


class Nothing:
    """An observer of nothing."""


def test_what_observers_are_told(tmp_path, capsys):
    notes = Notes()
    records = go(SHORT, tmp_path, observers=[Nothing(), notes])
    assert notes.events == [
        ("start", 0, 4, 8),
        ("train", 1),
        ("train", 2),
        ("evaluation", 2),
        ("checkpoint", 2, "2"),
        ("train", 3),
        ("train", 4),
        ("evaluation", 4),
        ("checkpoint", 4, "4"),
        ("end", 4),
    ]
    assert str(records).splitlines()[0].split() == ["step", "loss", "top-1", "error"] + [
        *("top-5", "error")
    ]
    assert "<th>top-1 error</th>" in records._repr_html_()


def test_an_observer_can_end_the_run(tmp_path, capsys):
    notes = Notes(stop_at=2)
    records = go(SHORT, tmp_path, observers=[notes])
    assert records["train"]["step"] == 2 and notes.events[-1] == ("end", 2)
    said = capsys.readouterr().out
    assert "Notes ended the run: saved at step 2; the same command resumes there" in said
    assert go(SHORT, tmp_path)["train"]["step"] == 4


@pytest.mark.parametrize("event", ["start", "train", "evaluation", "checkpoint", "end"])
def test_an_observer_that_raises_ends_the_run_with_its_state_saved(tmp_path, event):
    failing, other = Notes(fail_on=event), Notes()
    with pytest.raises(RuntimeError, match="of its own") as error:
        go(SHORT, tmp_path, observers=[failing, other])
    assert "raised by Notes.on_" in error.value.__notes__[0]
    # It is called no more, the others are: they may have something to close.
    assert failing.events[-1][0] == event and other.events[-1][0] == "end"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    if event != "start":
        last = lines[-1]["step"]
        saved(tmp_path, last)  # Where it stood when it was told.
    records = go(SHORT, tmp_path)
    assert records["train"]["step"] == 4
