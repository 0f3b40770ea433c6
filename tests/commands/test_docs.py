"""The commands of docs/evaluation.md run, and what docs/paper.md names is there."""

import re
import shlex
from pathlib import Path

import pytest

from resnet_jax.commands import evaluate, plot, responses
from resnet_jax.models import create_model
from tests.training.runs import make_run

ROOT = Path(__file__).parents[2]
EVALUATION, PAPER = (
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("evaluation.md", "paper.md")
)
COMMANDS = {"evaluate": evaluate, "plot": plot, "responses": responses}


def commands(page):
    """The arguments of every `python -m resnet_jax ...` in the page's blocks and lines."""
    page = page.replace("\\\n", " ")
    found = re.findall(r"python -m resnet_jax (\w+) ?([^`\n]*)", page)
    return [(name, shlex.split(arguments)) for name, arguments in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for name in ("resnet20", "plain20"):
        make_run(folder / "runs" / name, [(1, 0.5), (2, 0.4)], model=f"{name}_cifar")
    # Deeper networks would take long to compile, and the command treats them alike.
    for deep, shallow in (("resnet32", "resnet20"), ("plain32", "plain20")):
        (folder / "runs" / deep).symlink_to(folder / "runs" / shallow)
    return folder


def test_commands_on_runs_work(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    ran = 0
    for name, arguments in commands(EVALUATION):
        if any(argument.startswith("runs/") for argument in arguments) and not {
            "runs/resnet50",
            "--recompute_batch_norm",
        } & set(arguments):
            COMMANDS[name].main(arguments)
            ran += 1
    assert ran == 6
    assert {path.name for path in folder.iterdir()} == {
        *("runs", "confusion.png", "scores.parquet", "responses.png", "curves.png")
    }
    example = re.search(r"^```python\n(.*?)^```", EVALUATION, re.DOTALL | re.MULTILINE)[1]
    names = {}
    exec(example, names)
    assert len(names["names"]) == 10 and names["table"].num_rows == 77


@pytest.mark.parametrize("page", [EVALUATION, PAPER], ids=["evaluation", "paper"])
def test_commands_named_are_understood(page):
    assert len(commands(page)) >= 10
    for name, arguments in commands(page):
        if name in ("evaluate", "responses"):
            COMMANDS[name]._parser().parse_args(arguments)


def test_the_papers_page_names_what_is_there():
    for path in re.findall(r"`((?:resnet_jax|configs)/[\w/]+\.py)", PAPER):
        assert (ROOT / path).is_file(), path
    for file in re.findall(r"`(\w+\.py)[ `]", PAPER):
        parts = ("configs", "resnet_jax/evaluation")
        assert any((ROOT / part / file).is_file() for part in parts), file
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAPER + EVALUATION):
        assert (ROOT / "docs" / link.partition("#")[0]).is_file(), link
    for configuration in (ROOT / "configs").glob("*_imagenet_paper.py"):
        assert configuration.name in PAPER
    for name in re.findall(r"resnet_jax summary (\w+)", PAPER):
        create_model(name)
    create_model("resnet50", freeze_batch_norm=True, shortcut="A")
