"""docs/reference: every public name is on its package's page once, and has a docstring."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import resnet_jax

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PACKAGES = ("models", "ops", "data", "evaluation", "interop", "training")


def identifiers(page):
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^::: resnet_jax\.([\w.]+)$", text, re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_its_page(package):
    names = importlib.import_module(f"resnet_jax.{package}").__all__
    assert sorted(identifiers(package)) == sorted(f"{package}.{name}" for name in names)


def test_the_modules_of_runtime_are_on_theirs():
    modules = {path.stem for path in (ROOT / "resnet_jax" / "runtime").glob("[a-z]*.py")}
    listed = {name.removeprefix("runtime.") for name in identifiers("runtime")}
    assert modules - {"pictures"} == {name for name in listed if "." not in name}


def test_every_name_at_the_top_level_links_to_its_entry():
    text = (REFERENCE / "index.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[`(\w+)`\]\[resnet_jax\.(\w+)\.\1\]", text)
    assert sorted(name for name, _ in linked) == sorted(resnet_jax.__all__)
    for name, package in linked:
        page = "index" if package == "trained" else package
        assert f"{package}.{name}" in identifiers(page)


def assignments(path):
    """The names that a module assigns, each with whether a docstring follows it."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            documented = isinstance(following, ast.Expr) and isinstance(
                following.value, ast.Constant
            )
            yield ast.unparse(target), documented, node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_constant_has_a_docstring(package):
    public = {name.rpartition(".")[2] for name in identifiers(package)}
    missing = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in (ROOT / "resnet_jax" / package).rglob("*.py")
        for name, documented, line in assignments(path)
        if name in public and not documented
    ]
    assert missing == []
