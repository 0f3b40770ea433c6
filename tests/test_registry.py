"""Names of parts, and the files that register them."""

import sys

import pytest

from resnet_jax.errors import ConfigError, UsageError
from resnet_jax.registry import Registry, accepted, import_parts


@pytest.fixture
def animals():
    registry = Registry("animal")

    @registry.register("cat")
    def cat(legs, tail=True):
        return legs, tail

    return registry


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """Forgets what a test imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_parts", "my_other_file", "colorsys"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("my_parts", "my_other_file", "colorsys"):
        sys.modules.pop(name, None)


def test_a_name_stands_for_its_function(animals):
    assert animals["cat"](4) == (4, True)
    assert list(animals) == ["cat"] and "dog" not in animals and 3 not in animals
    with pytest.raises(ConfigError, match=r"unknown animal 'cta' \(did you mean 'cat'\?\); choose"):
        animals["cta"]


def test_a_taken_name_is_refused_but_not_to_the_same_function(animals):
    animals.register("cat")(animals["cat"])  # As where its file is loaded twice.
    with pytest.raises(ConfigError, match="the animal 'cat' is already registered, by .*; choose"):
        animals.register("cat")(lambda: None)


def test_options_that_a_function_accepts():
    options = {"legs": 4, "wings": 2}
    assert accepted(lambda legs, tail: None, options) == {"legs": 4}
    assert accepted(lambda **rest: None, options) == options


def test_a_file_is_run_once_and_found_again_by_its_name(tmp_path):
    (tmp_path / "my_parts.py").write_text("import my_other_file\nruns = my_other_file.runs\n")
    (tmp_path / "my_other_file.py").write_text("runs = []\nruns.append(1)\n")
    import_parts(str(tmp_path / "my_parts.py"))
    import_parts(str(tmp_path / "my_parts.py"))
    assert sys.modules["my_parts"].runs == [1]
    import_parts("my_other_file")  # Its folder is on the path now.


def test_files_beside_it_hide_no_module(tmp_path):
    (tmp_path / "my_parts.py").write_text("import colorsys\nfound = colorsys.rgb_to_hsv\n")
    (tmp_path / "colorsys.py").write_text("")
    import_parts(str(tmp_path / "my_parts.py"))


@pytest.mark.parametrize("name", ["json", "colorsys"])
def test_a_file_with_the_name_of_a_module_is_refused(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("raise SystemExit\n")
    with pytest.raises(UsageError, match=f"has the name of another module, {name}; rename"):
        import_parts(str(tmp_path / f"{name}.py"))
