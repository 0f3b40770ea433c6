import io
import subprocess
import sys

import pytest

from resnet_jax import data
from resnet_jax.commands import prepare
from tests.data.prepare.archive_files import jpeg, make_cifar10


def test_from_an_archive_to_images(tmp_path, capsys):
    make_cifar10(tmp_path)
    archive = str(tmp_path / "cifar-10-python.tar.gz")
    command = ["cifar10", "--data_dir", str(tmp_path / "data"), "--source", archive]
    with pytest.raises(data.DataError, match="is not the published"):
        prepare.main(command)
    prepare.main([*command, "--unverified"])
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/data/cifar10/3.0.2: train 15, test 4\n"
    assert len(data.open_source("cifar10", "test", tmp_path / "data")) == 4


def test_a_folder_without_tensorflow(tmp_path):
    for split, name in (("train", "a"), ("train", "b"), ("val", "b")):
        path = tmp_path / "pets" / split / name / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(1))
    program = f"""
import sys
from resnet_jax.commands import prepare
prepare.main([{str(tmp_path / "pets")!r}, "--data_dir", {str(tmp_path)!r} + "/data"])
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{tmp_path}/data/pets/1.0.0: train 2, val 1\n"


def test_what_is_left_out_is_said(tmp_path, capsys):
    for file in ("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "test/1.jpg"):
        path = tmp_path / "pets" / file
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(1))
    (tmp_path / "pets/train/a/2.heic").touch()
    command = [str(tmp_path / "pets"), "--data_dir", str(tmp_path / "data")]
    prepare.main(command)
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/data/pets/1.0.0: train 2, val 1\n"
    first, second = err.splitlines()
    assert first.startswith("resnet_jax: ") and "split 'test' is left out" in first
    assert second.startswith("resnet_jax: ") and "1 file ending in .heic" in second
    command[-1] = str(tmp_path / "chosen")
    prepare.main([*command, "--splits", "val"])
    assert capsys.readouterr() == (f"{tmp_path}/chosen/pets/1.0.0: val 1\n", "")


def test_a_table(tmp_path, capsys):
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "My photos.csv").write_text("file,label\n1.jpg,cat\n")
    prepare.main([str(tmp_path / "My photos.csv"), "--data_dir", str(tmp_path / "data")])
    assert capsys.readouterr().out == f"{tmp_path}/data/my_photos/1.0.0: train 1\n"
    assert data.open_source("my_photos", "train", tmp_path / "data").class_names == ("cat",)


def test_the_error_of_a_missing_data_set_is_the_command_that_makes_it(tmp_path, capsys):
    with pytest.raises(data.DataError) as raised:
        data.open_source("cifar10", "train", tmp_path)
    command = str(raised.value).partition("python -m resnet_jax prepare ")[2].split()
    make_cifar10(tmp_path)
    prepare.main([*command, "--source", str(tmp_path), "--unverified"])
    assert len(data.open_source("cifar10", "train", tmp_path)) == 15


class Terminal(io.StringIO):
    def __init__(self, live):
        super().__init__()
        self.live = live

    def isatty(self):
        return self.live


def test_progress_is_redrawn_on_a_terminal_and_rare_elsewhere(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(prepare.time, "monotonic", lambda: now[0])
    live, plain = (Terminal(live) for live in (True, False))
    for stream in (live, plain):
        progress = prepare._Progress(stream)
        for done in range(101):
            now[0] += 0.25
            progress.report("writing x", done, 100)
        progress.close()
    assert live.getvalue().count("\r") == 101
    assert live.getvalue().endswith("writing x 100.0%\n")
    assert plain.getvalue().splitlines() == ["writing x  39.0%", "writing x  79.0%"]
