"""Bad input to every command: one row each, refused in one line with nothing done.

Each row starts in a folder of its own making (`bad_files.py`), which must be the same afterwards.
"""

import os
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest
from absl import flags
from matplotlib import font_manager

from resnet_jax import __main__
from resnet_jax.commands import _cli
from resnet_jax.training import loop
from tests.bad_files import make_world

ROOT = Path(__file__).parents[1]
TRAIN = "train.py --config demo.py --workdir new"
ON_DATA = f"{TRAIN} --config.data_dir=data --config.num_steps=1 --config.batch_size=8"
OWN = "--weights own.safetensors"
MINI = "--dataset fashion_mnist_mini --split test[:8]"

TRAINING = [
    ("train.py", "--config is missing"),
    ("train.py --config demo.py", "--workdir is missing"),
    ("train.py --workdir new --config", "--config"),
    ("train.py --workdir new --config nope.py", "there is no configuration file", "nope.py"),
    ("train.py --workdir new --config empty", "empty"),
    ("train.py --workdir new --config syntax.py", "'syntax.py' fails with SyntaxError"),
    ("train.py --workdir new --config nothing.py", "'nothing.py' fails with KeyError"),
    ("train.py --workdir new --config dictionary.py", "must return a ConfigDict"),
    ("train.py --workdir new --config fails.py", "RuntimeError: first line second line"),
    ("train.py --workdir new --config exits.py", "exits.py"),
    ("train.py --workdir new --config demo.py:variant", "demo.py"),
    (f"{TRAIN} surplus", "unexpected argument 'surplus'"),
    (f"{TRAIN} --wrkdir=x", "wrkdir", "workdir"),
    (f"{TRAIN} --num_processes=2", "--num_processes needs --distributed"),
    (f"{TRAIN} --distributed --num_processes=2", "--coordinator is missing"),
    (
        f"{TRAIN} --distributed --num_processes=2 --process_id=2 --coordinator=a:1",
        "--process_id=2 is not one of 2",
    ),
    (f"{TRAIN} --process_id=x", "process_id"),
    (f"{TRAIN} --config.batchsize=3", "--config.batchsize (did you mean '--config.batch_size'?)"),
    (
        f"{TRAIN} --config.model_options.shortcuts=A",
        "unknown model option 'shortcuts' (did you mean 'shortcut'?)",
    ),
    (f"{TRAIN} --config.optimizer_options.nesterv=True", "optimizer_options={'nesterv': True}"),
    (f"{TRAIN} --config.train_parts=stage3,haed", "'haed'", "did you mean 'head'"),
    (f"{TRAIN} --config.batch_size=abc", "batch_size", "abc"),
    (f"{TRAIN} --config.batch_size=", "batch_size"),
    (f"{TRAIN} --config.batch_size", "batch_size"),
    (f"{TRAIN} --config.batch_size=12", "batch_size=12", "8 devices"),
    (f"{TRAIN} --config.batch_size=-8", "batch_size=-8"),
    (f"{TRAIN} --config.accumulate_steps=3", "accumulate_steps=3"),
    (f"{TRAIN} --config.learning_rate=nan", "learning_rate=nan"),
    (f"{TRAIN} --config.schedule=cosin", "unknown schedule 'cosin' (did you mean 'cosine'?)"),
    (f"{TRAIN} --config.optimizer=adam", "unknown optimizer 'adam' (did you mean 'adamw'?)"),
    (f"{TRAIN} --config.loss=cross", "unknown loss 'cross'; choose from cross_entropy, bce"),
    (f"{TRAIN} --config.batch_augmentation=mixup", "'mixup'", "needs --import FILE"),
    (f"{TRAIN} \"--config.train_parts=('haed',)\"", "'haed'", "did you mean 'head'"),
    (f"{TRAIN} --import nope.py", "no file nope.py to import"),
    (f"{TRAIN} --import syntax.py", "--import syntax.py fails with SyntaxError"),
    (f"{TRAIN} --import no_module", "--import no_module fails with ModuleNotFoundError"),
    ("train.py --config fashion_mnist_dem --workdir new", "did you mean 'fashion_mnist_demo'?"),
    (f"{TRAIN} --config.learning_rate=inf", "learning_rate=inf"),
    (f"{TRAIN} --config.decay_factor=inf", "decay_factor=inf"),
    (f"{TRAIN} --config.seed=99999999999999999999999", "seed"),
    (f"{TRAIN} --config.boundaries=a", "boundaries"),
    (f"{TRAIN} --config.profile_steps=9", "profile_steps"),
    (f"{TRAIN} --config.stop_after=soon", "stop_after", "soon"),
    (f"{TRAIN} --config.num_steps=5 --config.num_epochs=2", "num_steps", "num_epochs"),
    (f"{TRAIN} --config.num_steps=99999999999999999999", "num_steps"),
    (f"{TRAIN} --config.warmup_steps=x", "warmup_steps"),
    (f"{TRAIN} --config.eval_every=5 --config.eval_every_epochs=1", "eval_every_epochs are both"),
    (f"{TRAIN} --config.checkpoint_every_epochs=0", "checkpoint_every_epochs=0.0"),
    (f"{TRAIN} --config.schedule=step --config.boundaries_epochs=2,1", "(2.0, 1.0)", "increasing"),
    (f"{TRAIN} --config.schedule=step --config.boundaries_epochs=1,9", "(94, 844)", "step 560"),
    (f"{TRAIN} --config.on_changed_data=yes", "on_changed_data='yes'", "'error', 'accept'"),
    (f"{TRAIN} --config.batch_size=None", "batch_size", "None"),
    (f"{TRAIN} --config.num_steps=None", "the run has no length"),
    ("train.py --config not_json/config.json --workdir new", "not_json/config.json is not a run's"),
    ("train.py --config from_the_future/config.json --workdir new", "unknown key wings"),
    ("train.py --config nowhere/config.json --workdir new", "cannot read nowhere/config.json"),
    ("train.py --config other_value/config.json --workdir new", "'caffee'"),
    (f"{TRAIN} --config.model=resnet51", "resnet51", "resnet50"),
    (f"{TRAIN} --config.model_options.shortcut=D", "shortcut 'D'", "A, B, C"),
    (f"{TRAIN} --config.model_options.zero_init_residual=maybe", "zero_init_residual"),
    (f"{TRAIN} --config.num_classes=3", "10 classes", "3"),
    (f"{TRAIN} --config.num_classes=99999999999", "num_classes"),
    (f"{TRAIN} --config.augmentation=cifer", "cifer", "'cifar'"),
    (f"{TRAIN} --config.augmentation=imagenet", "image_size"),
    (f"{TRAIN} --config.augmentation=imagenet --config.image_size=90000", "90000"),
    (f"{TRAIN} --config.image_size=32", "image_size is 32", "28x28"),
    (f"{TRAIN} --config.preprocess=torchvision", "torchvision", "channels"),
    (f"{TRAIN} --config.color_augmentation=pca", "pca", "3 channels"),
    (f"{TRAIN} --config.eval_split=validation", "validation", "train", "test"),
    (f"{TRAIN} --config.train_split=train[:0]", "train[:0]", "empty"),
    (f"{TRAIN} --config.train_split=train[5:", "train[5:"),
    (f"{TRAIN} --config.init_from=nowhere.pth", "nowhere.pth"),
    (f"{TRAIN} --config.init_from=short.safetensors", "short.safetensors", "damaged"),
    (f"{TRAIN} --config.init_from=program.pth", "program.pth", "none was run"),
    (f"{TRAIN} --config.init_from=no_checkpoint", "no_checkpoint"),
    (f"{TRAIN} --config.skip_head", "skip_head"),
    ("train.py --config demo.py --workdir text.txt/run", "text.txt/run", "--workdir"),
    ("train.py --config demo.py --workdir gs://b/run", "gs://b/run", "local or mounted path"),
    ("train.py --config demo.py --workdir=~nobody-of-this/run", "no home folder for ~nobody-of-"),
    ("train.py --config demo.py --workdir text.txt", "text.txt", "--workdir"),
    ("train.py --config demo.py --workdir other_run", "other_run", "batch_size"),
    ("train.py --config demo.py --workdir not_json", "not_json/config.json"),
    ("train.py --config demo.py --workdir a_list", "a_list/config.json"),
    ("train.py --config demo.py --workdir binary", "binary/config.json"),
]

DATA = [
    ("cifar1", "data set 'cifar1' not found", "did you mean 'cifar10'?"),
    ("cifar100", "data set 'cifar100' not found", "resnet_jax prepare cifar100"),
    ("a:b:c", "a:b:c"),
    ("../run", "../run"),
    ("./text.txt", "text.txt"),
    ("./nowhere", "nowhere", "not a folder of images"),
    ("nowhere.csv", "cannot read table 'nowhere.csv'"),
    ("no_file.csv", "line 2 of 'no_file.csv'", "nowhere.jpg"),
    ("./data/good/1.0.0", "give good:1.0.0 as the data set", "as the data_dir"),
    ("./flat", "./flat", "no folders of classes", "predict"),
    ("./no_splits --config.eval_split=val", "no split 'val'", "classes cat, dog"),
    ("./blind --config.eval_split=test", "split 'test'", "have no classes", "predict"),
    ("./no_classes --config.eval_split=val", "no_classes", "CLASS"),
    ("./no_images --config.eval_split=val", "class 'dog'", "no images"),
    ("./more_classes --config.eval_split=val", "class 'cow'", "not in 'train'"),
    ("bad_labels", "bad_labels", "label 7"),
    ("negative_labels", "negative_labels", "label -1"),
    ("one_shape_wrong", "one_shape_wrong", "(28, 28, 1)"),
    ("bad_image", "image 0", "bad_image", "not an image"),
    ("no_label", "no_label", "'label'"),
    ("floats", "floats", "'image' of uint8"),
    ("imports", "imports", "stranger.Feature"),
    ("elsewhere", "elsewhere"),
    ("old", "'old' is not stored as ArrayRecord"),
    ("not_json", "not_json"),
    ("no_features", "no_features"),
    ("short", "short", "missing or damaged"),
    ("no_shard", "no_shard", "missing or damaged"),
    ("no_validation --config.eval_split=val", "no split 'val'"),
]

EVALUATION = [
    ("evaluate", "give either --workdir or --weights"),
    ("evaluate --workdir run --weights own.safetensors", "give either --workdir or --weights"),
    ("evaluate --workdir run --model resnet18", "--model belongs to --weights"),
    ("evaluate --workdir run --preprocess none caffe", "--preprocess is given 2 times for 1"),
    ("evaluate --workdir run --mean 1 2", "--mean has 2 numbers; give 1\n"),
    ("evaluate --workdir run --interpolation cubic", "did you mean 'bicubic'"),
    ("evaluate --workdir run --dataset ./photos --split train", "does not know", "T-shirt/top"),
    ("evaluate --workdir run --batch_size 0", "'0' is not an integer of at least 1"),
    ("evaluate --workdir run --batch_size 1e3", "'1e3' is not an integer of at least 1"),
    ("evaluate --workdir run --protocol ten_crops", "unknown protocol", "'ten_crop'?"),
    ("evaluate --workdir run --protocol ten_crop", "ten_crop needs images larger than"),
    ("evaluate --workdir run --protocol multi_scale", "would enlarge images"),
    ("evaluate --workdir run --split tst", "no split 'tst'", "'test'?"),
    ("evaluate --workdir run --split test[:0]", "test[:0]"),
    ("evaluate --workdir run --checkpoint 7", "no checkpoint '7'; choose from best, latest, 10"),
    ("evaluate --workdir run --checkpoint ../run", "no checkpoint '../run'"),
    ("evaluate --workdir run --checkpoint ²", "no checkpoint '²'"),
    ("evaluate --workdir strange_checkpoint", "strange_checkpoint"),
    ("evaluate --workdir run --predictions no/x", "there is no folder no; create it first"),
    ("evaluate --workdir run --predictions x.txt", "x.txt: choose a name in .parquet or .csv"),
    ("evaluate --workdir run --confusion empty", "empty is a folder; give the name of a file"),
    ("evaluate --workdir run --confusion x.bmp8", "cannot draw x.bmp8"),
    ("evaluate --workdir run --confusion s3://b/x.png", "s3://b/x.png", "local or mounted path"),
    ("evaluate --workdir run --predictions hdfs://h/x.csv", "hdfs://h/x.csv", "local or mounted"),
    ("evaluate --workdir run --image_size 90000", "90000"),
    ("evaluate --workdir run --image_size 24 --resize 20", "20", "24"),
    ("evaluate --workdir nowhere", "cannot read nowhere/config.json: No such file"),
    ("evaluate --workdir no_checkpoint", "no_checkpoint has no checkpoint"),
    ("evaluate --workdir not_json", "not_json/config.json"),
    ("evaluate --workdir a_list", "a_list/config.json"),
    ("evaluate --workdir binary", "binary/config.json"),
    ("evaluate --workdir from_the_future", "from_the_future", "wings"),
    ("evaluate --workdir other_type", "other_type/config.json", "model_options"),
    ("evaluate --workdir other_value", "other_value/config.json", "'caffee'"),
    ("evaluate --workdir torn_metrics --checkpoint best", "line 2 of torn_metrics"),
    (f"evaluate {OWN}", "--weights needs --dataset"),
    (f"evaluate {OWN} --dataset fashion_mnst_mini", "'fashion_mnist_mini'"),
    (f"evaluate {OWN} {MINI} --model a b", "2 times"),
    (f"evaluate {OWN} {MINI} --model resnet20_cifr", "did you mean 'resnet20_cifar'"),
    (f"evaluate {OWN} {MINI} --model resnet32_cifar", "cannot be fitted to the model"),
    (f"evaluate {OWN} {MINI} --preprocess cafe", "did you mean 'caffe'"),
    (f"evaluate {OWN} --data_dir data --dataset no_validation", "validation, test, val"),
    (f"evaluate --weights no.pth {MINI} --model resnet18", "no.pth does not exist"),
    (f"evaluate --weights empty {MINI} --model resnet18", "empty has neither model.safetensors"),
    (f"evaluate --weights weights.onnx {MINI} --model resnet18", "weights.onnx does not end"),
    (f"evaluate --weights nameless.safetensors {MINI}", "does not state its model"),
    (f"evaluate --weights short.safetensors {MINI}", "short.safetensors", "damaged"),
    (f"evaluate --weights huge.safetensors {MINI}", "huge.safetensors", "damaged"),
    (f"evaluate --weights overlap.safetensors {MINI}", "overlap.safetensors", "damaged"),
    (f"evaluate --weights dtype.safetensors {MINI}", "dtype.safetensors", "damaged"),
    (f"evaluate --weights other_net.safetensors {MINI}", "other_net.safetensors", "'resnet20'"),
    (f"evaluate --weights options.safetensors {MINI}", "options.safetensors", "newer"),
    (f"evaluate --weights block.safetensors {MINI}", "block.safetensors", "newer"),
    (f"evaluate --weights classes.safetensors {MINI}", "classes.safetensors"),
    (f"evaluate --weights other.pth {MINI} --model resnet20_cifar", "other.pth", "missing"),
    (f"evaluate --weights sparse.pth {MINI} --model resnet20_cifar", "sparse.pth", "missing"),
    (f"evaluate --weights empty.pth {MINI} --model resnet20_cifar", "empty.pth", "missing"),
    (f"evaluate --weights short.pth {MINI} --model resnet20_cifar", "short.pth", "damaged"),
    (f"evaluate --weights program.pth {MINI} --model resnet20_cifar", "program.pth", "refused"),
    (f"evaluate --weights program.pt {MINI} --model resnet20_cifar", "program.pt", "refused"),
    (f"evaluate --weights program.npz {MINI} --model resnet50_v1", "program.npz"),
    (f"evaluate --weights text.h5 {MINI} --model resnet50_v1", "text.h5", "damaged"),
    ("evaluate --workdir run --dataset ./huge_image --split val --image_size 8", "val/Bag/1.jpg"),
    ("evaluate --workdir run --dataset ./broken_image --split val --image_size 8", "val/Bag/0.jpg"),
]

OTHERS = [
    ("plt", "unknown command 'plt' (did you mean 'plot'?)"),
    ("predict good.png", "give either --workdir or --weights"),
    ("predict --workdir run --weights W good.png", "give either --workdir or --weights"),
    ("predict --workdir run --model resnet18 good.png", "omit them for a run"),
    ("predict --workdir run --resize 20 good.png", "a crop of 28 does not fit"),
    ("predict --workdir run", "required: IMAGE"),
    ("predict --workdir run missing.jpg", "cannot read missing.jpg: No such file"),
    ("predict --workdir run empty", "there is no image in the folder empty; give image files"),
    ("predict --workdir run text.txt", "cannot use text.txt: it is not an image"),
    ("predict --workdir run nothing.jpg", "cannot use nothing.jpg: it is not an image"),
    ("predict --workdir run short.jpg", "cannot use short.jpg: it cannot be decoded"),
    ("predict --workdir run huge.png", "huge.png", "limit of 178956970"),
    ("predict --workdir run huge.jpg", "huge.jpg", "limit of 178956970"),
    ("predict --workdir run --image_size 90000 good.png", "90000"),
    ("predict --workdir . good.png", "give a work directory of train.py"),
    ("predict --workdir run --checkpoint 99 good.png", "no checkpoint '99'"),
    ("predict --weights no.pth --model resnet18 good.png", "no.pth does not exist"),
    (f"predict {OWN} --model resnet21_cifar good.png", "did you mean 'resnet32_cifar'"),
    (f"predict {OWN} --model resnet32_cifar good.png", "cannot be fitted to the model"),
    (f"predict {OWN} --preprocess tv good.png", "'tv'", "choose from"),
    (f"predict {OWN} --preprocess cifar good.png", "does not contain; use --workdir"),
    (f"predict {OWN} --num_classes 3 good.png", "--num_classes needs --model"),
    (
        f"predict {OWN} --model resnet20_cifar --num_classes 99999999999 good.png",
        "num_classes",
    ),
    ("export --workdir run", "required: --output"),
    ("export --workdir run --output x --checkpoint 7", "no checkpoint '7'; choose from best"),
    ("export --workdir . --output x", "give a work directory"),
    ("export --workdir run --output no/x", "there is no folder no; create it first"),
    ("export --workdir run --output empty", "empty is a folder"),
    ("export --workdir run --output gs://b/x", "gs://b/x", "local or mounted path"),
    ("export --workdir run --output x --image_size 0", "'0' is not an integer"),
    ("responses", "required: --workdir"),
    ("responses --workdir run --output no/x.png", "there is no folder no; create it first"),
    ("responses --workdir run --output x.bmp8", "cannot draw x.bmp8"),
    ("responses --workdir run --split tst", "no split 'tst'"),
    ("responses --workdir nowhere", "cannot read nowhere/config.json"),
    ("plot", "required: DIR, --output"),
    ("plot nowhere --output x.png", "cannot read nowhere/metrics.jsonl: No such file"),
    ("plot no_metrics --output x.png", "no_metrics has no metrics yet"),
    ("plot run --output x.bmp8", "cannot draw x.bmp8"),
    ("plot run --output x", "cannot draw x"),
    ("plot run --output no/x.png", "there is no folder no; create it first"),
    ("plot run --output gs://b/x.png", "gs://b/x.png", "local or mounted path"),
    ("plot gs://b/run --output x.png", "gs://b/run", "local or mounted path"),
    ("plot run --output x.png --smooth 0", "'0' is not an integer of at least 1"),
    ("plot torn_metrics --output x.png", "line 2 of torn_metrics/metrics.jsonl"),
    ("plot worded_metrics --output x.png", "line 1 of worded_metrics/metrics.jsonl"),
    ("prepare", "required: NAME|FOLDER|TABLE, --data_dir"),
    ("prepare cifar10", "required: --data_dir"),
    ("prepare cifar11 --data_dir d", "'cifar11'", "did you mean 'cifar10'?"),
    ("prepare cifar10 --data_dir gs://bucket/d", "cannot write to gs://bucket/d"),
    ("prepare cifar10 --data_dir d --source nowhere", "nowhere does not exist"),
    ("prepare cifar10 --data_dir d --source empty", "cifar-10-python.tar.gz"),
    ("prepare cifar10 --data_dir d --source archives/cifar", "is not the published"),
    ("prepare cifar10 --data_dir d --unverified --source archives/short", "is damaged"),
    ("prepare cifar10 --data_dir d --unverified --source archives/program", "is refused"),
    ("prepare cifar10 --data_dir d --unverified --source text.txt", "text.txt is damaged"),
    ("prepare imagenet2012 --data_dir d", "cannot be downloaded without an account"),
    ("prepare ./empty --data_dir d", "empty", "not a folder of images"),
    ("prepare ./no_images --data_dir d", "class 'dog'", "no images"),
    ("prepare ./photos --data_dir d --splits train vla", "'vla'", "did you mean 'val'?"),
    ("prepare cifar10 --data_dir d --splits train", "'cifar10' is prepared as a whole"),
    ("prepare nowhere.csv --data_dir d", "cannot read table 'nowhere.csv'"),
    ("prepare ./photos --data_dir text.txt", "text.txt"),
    ("summary", "required: NAME"),
    ("summary resnet51", "did you mean 'resnet50'"),
    ("summary resnet50 --import nope.py", "no file nope.py to import"),
    ("schedule", "--config is missing"),
    ("schedule --config a_list/config.json", "a_list/config.json is not a run's configuration"),
    ("schedule --config demo.py --step 561", "--step=561 is not one of the run's steps, 1 to 560"),
    ("schedule --config demo.py --output none/s.png", "there is no folder none"),
    ("summary resnet50 --image_size 0", "'0' is not an integer"),
    ("summary resnet50 --image_size 99999999999999999999", "--image_size"),
    ("doctor now", "unrecognized arguments: now"),
]

ROWS = [
    *TRAINING,
    *((f"{ON_DATA} --config.dataset={dataset}", *words) for dataset, *words in DATA),
    *EVALUATION,
    *OTHERS,
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


@pytest.fixture
def in_world(world, monkeypatch):
    """Makes the folder this process's own in all that it may write to."""
    monkeypatch.chdir(world)
    font_manager.get_font_names()  # Its cache is matplotlib's.
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name, folder in {"HOME": "home", "TMPDIR": "tmp", "TFDS_DATA_DIR": "data"}.items():
        monkeypatch.setenv(name, str(world / folder))
    monkeypatch.setattr(_cli, "_silence_libraries", lambda: None)
    # No row gets that far.
    monkeypatch.delattr(loop, "make_train_step")
    return world


def state(folder):
    """Every file and folder with what changes when it does."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def call(command, monkeypatch):
    """Runs a command as its program does; returns the exit status."""
    name, *arguments = shlex.split(command)
    known = set(flags.FLAGS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Of the configuration file.
    # It is for good, and would keep what the tests after these free.
    monkeypatch.setattr("resnet_jax.runtime.devices.keep_freed_memory", lambda: None)
    try:
        if name == "train.py":
            monkeypatch.setattr(sys, "argv", [name, *arguments])
            runpy.run_path(str(ROOT / name), run_name="__main__")
        else:
            __main__.main([name, *arguments])
    except SystemExit as end:
        return end.code
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)


def check(status, out, err, words):
    assert status == 2, err
    assert err.count("\n") == 1 and err.endswith("\n") and len(err) < 300, err
    assert err.startswith("resnet_jax: error: ")
    for word in words:
        assert word in err
    assert out == ""


@pytest.mark.filterwarnings("ignore")  # As commands run.
@pytest.mark.parametrize(("command", "words"), [(row[0], row[1:]) for row in ROWS])
def test_one_line_status_2_and_nothing_done(command, words, in_world, monkeypatch, capfd):
    before = state(in_world)
    status = call(command, monkeypatch)
    check(status, *capfd.readouterr(), words)
    assert state(in_world) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{TRAIN} --config.model=resnet51", ["resnet51"]),
        (f"{ON_DATA} --config.dataset=imports", ["stranger.Feature"]),
        (f"evaluate --weights program.pth {MINI} --model resnet20_cifar", ["program.pth"]),
    ],
)
def test_as_a_program(command, words, in_world):
    before = state(in_world)
    name, *arguments = shlex.split(command)
    program = [ROOT / name] if name == "train.py" else ["-m", "resnet_jax", name]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPLCONFIGDIR": matplotlib.get_configdir(),
        },
        capture_output=True,
        text=True,
    )
    check(done.returncode, done.stdout, done.stderr, words)
    assert state(in_world) == before
