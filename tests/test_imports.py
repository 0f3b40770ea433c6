"""The import order of the packages: those of a later line may import those of earlier ones."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    ("errors",),
    ("registry",),
    ("runtime", "ops"),
    ("models", "data"),
    ("interop", "evaluation"),
    ("training",),
    ("trained",),
    ("detection",),
    ("commands",),
    ("__main__",),
    ("train",),
)
RANKS = {package: rank for rank, packages in enumerate(ORDER) for package in packages}
# The package's own face hands out names of many packages; a module that imports it makes a circle.
FACE = "resnet_jax"


def module_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


PATHS = {module_of(path): path for path in [*ROOT.glob("resnet_jax/**/*.py"), ROOT / "train.py"]}


def imported(path):
    """The modules that a file imports, wherever in it: also in functions, or for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in PATHS else node.module), node.lineno


IMPORTS = {
    module: [(name, line) for name, line in imported(path) if name.split(".")[0] == FACE]
    for module, path in PATHS.items()
}


def package_of(module):
    return module.removeprefix(f"{FACE}.").split(".")[0]


@pytest.mark.parametrize("package", sorted({package_of(module) for module in PATHS} - {FACE}))
def test_a_package_imports_earlier_ones_alone(package):
    wrong = [
        f"{PATHS[module].relative_to(ROOT)}:{line} imports {name}"
        for module, names in IMPORTS.items()
        for name, line in names
        if package_of(module) == package != package_of(name)
        and RANKS.get(package_of(name), len(ORDER)) >= RANKS[package]
    ]
    assert wrong == []


def test_the_networks_of_detection_import_models_and_ops_alone():
    allowed = tuple(f"{FACE}.{name}" for name in ("detection.model", "models", "ops", "errors"))
    for module, names in IMPORTS.items():
        if module.startswith(f"{FACE}.detection.model"):
            wrong = [name for name, _ in names if not name.startswith(allowed)]
            assert wrong == [], module


def test_no_module_imports_the_face_of_its_own_package():
    wrong = [
        f"{PATHS[module].relative_to(ROOT)}:{line} imports {name}"
        for module, names in IMPORTS.items()
        for name, line in names
        if module.startswith(f"{name}.")
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {name for name, _ in names if name != FACE}
        for module, names in IMPORTS.items()
        if module != FACE
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
