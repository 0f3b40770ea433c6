"""What docs/models.md shows: its Python runs, its table and its commands are the real ones."""

import re
import shlex
from pathlib import Path

import resnet_jax
from resnet_jax.commands import doctor, export, predict, summary

TEXT = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_python_runs_and_prints_what_it_says(capsys):
    names = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["logits"].shape == (2, 10)
    [printed] = [block for block in blocks("text") if block.startswith("stem")]
    assert capsys.readouterr().out == printed
    before, after = names["variables"]["params"], names["params"]
    assert (before["stem"]["conv"]["kernel"] == after["stem"]["conv"]["kernel"]).all()
    assert not (before["head"]["kernel"] == after["head"]["kernel"]).all()


def test_the_table_is_the_commands(capsys):
    [[_, *argv]] = [
        shlex.split(line.removeprefix("python -m resnet_jax "))
        for block in blocks("sh")
        for line in block.splitlines()
        if " summary " in line
    ]
    summary.main(argv)
    [table] = [block for block in blocks("text") if block.startswith("resnet50_v1")]
    assert capsys.readouterr().out == table


def test_commands_are_those_there_are():
    commands = re.findall(r"^python -m resnet_jax (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert set(commands) == {
        module.__name__.rpartition(".")[2] for module in (doctor, export, predict, summary)
    }


def test_every_model_is_named():
    rows = re.findall(r"^\| (`\w+`.*?) \|", TEXT, re.MULTILINE)
    named = set()
    for row in rows:
        first, *rest = re.findall(r"`(\w+)`", row)
        named |= {first, *rest}
        # "`resnet20_cifar` and 32, 44, ..."
        depths = re.findall(r"\b(\d+)\b", row.partition(" and ")[2])
        named |= {re.sub(r"\d+", depth, first) for depth in depths}
    assert set(resnet_jax.list_models()) <= named
