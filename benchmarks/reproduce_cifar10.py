"""Reproduces the paper's CIFAR-10 results: Table 6, and Figures 6 and 7 (Section 4.2).

    python benchmarks/reproduce_cifar10.py --data_dir DIR [--nets NET ...] [--seeds N]
        [--num_steps N] [--budget MINUTES]

Trains each net with its config (`configs/cifar10_*.py:45k`, which holds out 5,000 training images)
in `--runs_dir`; after any interruption, the same command resumes. A finished run is evaluated once
on the test images and summarised in `docs/results/cifar10/`. The page `docs/results/cifar10.md` and
its pictures are made from the summaries (`--report` does only that).

With `--budget`, nets in order and then seeds are trained, except those that would not finish in
time. `--num_steps` also shortens the schedule.

`--ship NET` writes the weights of the net's best full run, by validation error, for
`load_pretrained`.
"""

import argparse
import dataclasses
import json
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_jax import data, interop, save_weights
from resnet_jax.commands import _cli
from resnet_jax.evaluation import evaluate, layer_responses, make_eval_step, plot_responses
from resnet_jax.runtime.devices import data_mesh, replicate
from resnet_jax.training.curves import draw_curves
from resnet_jax.training.records import read_metrics
from resnet_jax.training.restore import TrainedRun, open_run

ROOT = Path(__file__).parents[1]

RESULTS = ROOT / "docs" / "results"
SUMMARIES = RESULTS / "cifar10"
PRETRAINED = Path(interop.__file__).parent / "pretrained"

# In order of interest; test errors in per cent from Table 6, which has none for plain nets.
PAPER = {
    "resnet20": 8.75,
    "plain20": None,
    "plain56": None,
    "resnet56": 6.97,
    "resnet32": 7.51,
    "plain32": None,
    "resnet44": 7.17,
    "plain44": None,
    "resnet110": 6.43,
    "plain110": None,
    "resnet1202": 7.93,
}
FULL = 64_000
IMAGES = 45_000


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: a net, a length in steps and a seed."""

    net: str
    num_steps: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its work directory and its summary."""
        return f"{self.net}-{self.num_steps}-seed{self.seed}"

    @property
    def depth(self) -> int:
        """The number of layers, to which the time of a step is roughly proportional."""
        return int(self.net.removeprefix("plain").removeprefix("resnet"))

    def command(self, arguments: argparse.Namespace) -> list[str]:
        """Returns the command that trains or resumes it."""
        return [
            sys.executable,
            str(ROOT / "train.py"),
            f"--config={ROOT}/configs/cifar10_{self.net}.py:45k",
            f"--workdir={arguments.runs_dir / self.name}",
            f"--config.data_dir={arguments.data_dir}",
            f"--config.seed={self.seed}",
            *(
                [f"--config.num_steps={self.num_steps}", "--config.scale_schedule=True"]
                if self.num_steps != FULL
                else []
            ),
        ]


def train(run: Run, arguments: argparse.Namespace, deadline: float) -> bool:
    """Trains a run to its end, or until the deadline; returns whether it finished."""
    command = run.command(arguments)
    if deadline < float("inf"):
        command.append(f"--config.stop_after={max(1, int(deadline - time.monotonic()))}s")
    print(f"{run.name}: {' '.join(command)}", flush=True)
    # An interrupt also reaches the training process, which saves its state; wait for it.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.run(command).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        sys.exit(status)
    metrics = read_metrics(arguments.runs_dir / run.name)
    return bool(metrics) and metrics[-1]["step"] == run.num_steps


def seconds_of(metrics: Iterable[dict[str, Any]]) -> float:
    """Returns the seconds of training in a run's records."""
    seconds, step = 0.0, 0
    for record in metrics:
        if record["split"] == "train":
            seconds += (record["step"] - step) * record.get("seconds_per_step", 0.0)
            step = record["step"]
    return seconds


def summarize(run: Run, arguments: argparse.Namespace) -> None:
    """Evaluates a finished run and writes its summary, `NAME.json` and `NAME.jsonl`."""
    import jax

    workdir = arguments.runs_dir / run.name
    metrics = read_metrics(workdir)
    last, best = open_run(workdir), open_run(workdir, "best")
    validation = [record for record in metrics if record["split"] != "train"]
    last_epoch = [
        record
        for record in metrics
        if record["split"] == "train" and record["step"] > run.num_steps - IMAGES / 128
    ]
    summary = {
        "net": run.net,
        "num_steps": run.num_steps,
        "seed": run.seed,
        "training_error": statistics.mean(record["top1_error"] for record in last_epoch),
        "validation_error": validation[-1]["top1_error"],
        "test_error": test_error(last, arguments.data_dir),
        "best_step": best.step,
        "best_validation_error": next(
            record["top1_error"] for record in validation if record["step"] == best.step
        ),
        "seconds": round(seconds_of(metrics)),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({processor()})",
        "jax": jax.__version__,
        "responses": responses(last, arguments.data_dir),
    }
    SUMMARIES.mkdir(parents=True, exist_ok=True)
    kept = ("step", "split", "loss", "top1_error")
    lines = [json.dumps({key: record[key] for key in kept}) for record in thinned(metrics)]
    (SUMMARIES / f"{run.name}.jsonl").write_text("\n".join(lines) + "\n")
    (SUMMARIES / f"{run.name}.json").write_text(json.dumps(summary, indent=1) + "\n")


def thinned(metrics: list[dict[str, Any]], points: int = 160) -> list[dict[str, Any]]:
    """Averages training records over equal spans of steps; evaluations stay unchanged."""
    training = [record for record in metrics if record["split"] == "train"]
    size = -(-len(training) // points)
    spans = [training[start : start + size] for start in range(0, len(training), size)]
    means = [
        span[-1]
        | {key: statistics.mean(record[key] for record in span) for key in ("loss", "top1_error")}
        for span in spans
    ]
    rest = [record for record in metrics if record["split"] != "train"]
    return sorted(means + rest, key=lambda record: (record["step"], record["split"] != "train"))


def batches_to_test(run: TrainedRun, data_dir: Path) -> Iterable[data.EvalBatch]:
    """Returns CIFAR-10's test images as the run's input."""
    source = data.open_source("cifar10", "test", data_dir)
    transform = data.eval_transform(run.config.augmentation, None, channels=run.channels)
    return data.eval_batches(source, transform, batch_size=500)


def test_error(run: TrainedRun, data_dir: Path) -> float:
    """Returns a checkpoint's error on the 10,000 test images, a fraction."""
    mesh, network = data_mesh(), run.network
    variables, normalization = replicate((network.variables, network.normalization), mesh)
    result = evaluate(
        make_eval_step(network.model, mesh),
        variables,
        normalization,
        batches_to_test(run, data_dir),
        mesh,
    )
    assert result["num_examples"] == 10_000
    return result["top1_error"]


def responses(run: TrainedRun, data_dir: Path) -> dict[str, float]:
    """Returns the standard deviation of each 3x3 layer's response to the test images."""
    found = layer_responses(run.network, batches_to_test(run, data_dir), data_mesh())
    return {layer: round(deviation, 4) for layer, deviation in found.items()}


def processor() -> str:
    """Returns this machine's processor model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "?")


def ship(net: str, runs_dir: Path) -> None:
    """Writes the last weights of a net's full run with the lowest validation error."""
    summaries = [json.loads(path.read_text()) for path in SUMMARIES.glob(f"{net}-{FULL}-*.json")]
    if not summaries:
        sys.exit(f"no run of {net} has finished {FULL} steps; train it first")
    best = min(summaries, key=lambda summary: (summary["validation_error"], summary["seed"]))
    run = open_run(runs_dir / Run(net, FULL, best["seed"]).name)
    assert run.step == FULL
    recipe = dataclasses.asdict(run.config) | {"data_dir": None}
    notes = {
        "configuration": f"configs/cifar10_{net}.py:45k, seed {best['seed']}",
        "recipe": json.dumps(recipe),
        "data": "TFDS cifar10, train[:45000]",
        "steps": str(run.step),
        "preprocess": run.config.preprocess,
        "validation_error": f"{best['validation_error']:.4f}",
        "test_error": f"{best['test_error']:.4f}",
    }
    path = PRETRAINED / f"{net}_cifar10.safetensors"
    network = run.network
    mean = network.normalization.mean
    save_weights(path, network.variables, network.model, pixel_mean=mean, notes=notes)
    print(path)


def report() -> None:
    """Writes the page and its pictures from the summaries."""
    found = [(path.stem, json.loads(path.read_text())) for path in sorted(SUMMARIES.glob("*.json"))]
    nets = list(PAPER)
    found.sort(key=lambda item: (-item[1]["num_steps"], nets.index(item[1]["net"])))
    lengths = sorted({summary["num_steps"] for _, summary in found}, reverse=True)
    page = [PREFACE, ""]
    for num_steps in lengths:
        group = [(name, summary) for name, summary in found if summary["num_steps"] == num_steps]
        page += [f"## {num_steps:,} steps" + shortened(num_steps), "", *table(group), ""]
        first = {name: summary for name, summary in group if summary["seed"] == 0}
        curves = {
            summary["net"]: read_lines(SUMMARIES / f"{name}.jsonl")
            for name, summary in first.items()
        }
        if curves:
            picture = f"cifar10-curves-{num_steps}.png"
            draw_curves(curves, RESULTS / picture)
            page += [f"![Training and validation errors]({picture})", ""]
            picture = f"cifar10-responses-{num_steps}.png"
            plot_responses(
                {summary["net"]: summary["responses"] for summary in first.values()},
                RESULTS / picture,
            )
            page += [f"![Responses of the layers]({picture})", ""]
    remarks = SUMMARIES / "remarks.md"
    if remarks.exists():
        page.append(remarks.read_text())
    (RESULTS / "cifar10.md").write_text("\n".join(page).rstrip() + "\n")
    print(RESULTS / "cifar10.md")


PREFACE = """\
# CIFAR-10

`benchmarks/reproduce_cifar10.py` trained and measured these runs: the paper's recipe (Section 4.2),
45,000 training and 5,000 validation images, batch 128. It also writes this page from the summaries
in [`cifar10/`](cifar10/): per run a `.json` with its errors, time and layer responses, and a
`.jsonl` with its curves. The last section is written by hand. Nets that are not in a table have not
been run.

Errors are in per cent; several seeds have mean ± standard deviation. The training error is that of
augmented images during training, over the last epoch, as in the paper's Figure 6. The test error is
that of the last checkpoint; the test images are used once, after training. The response is the mean
over the layers of their responses' standard deviations (Figure 7). Minutes are the log's, also
where the machine had other work; `2 x cpu`: one device for each of two cores."""


def shortened(num_steps: int) -> str:
    """Returns the schedule's description in the heading of a group of runs."""
    if num_steps == FULL:
        return ": the paper's schedule"
    return f": the schedule shortened by {FULL / num_steps:g}, not comparable with the paper"


def table(group: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Returns the table of a group of runs with one length, one row per net."""
    full = group[0][1]["num_steps"] == FULL
    head = ["net", *(["paper"] if full else []), "test", "validation", "training", "seeds"]
    tail = ["response", "minutes", "device"]
    rows = [head + tail, ["---"] * len(head + tail)]
    by_net: dict[str, list[dict[str, Any]]] = {}
    for _, summary in group:
        by_net.setdefault(summary["net"], []).append(summary)
    for net, runs in by_net.items():
        rows.append(
            [
                net,
                *([f"{PAPER[net]}" if PAPER[net] else "–"] if full else []),
                *(spread(run[f"{kind}_error"] for run in runs) for kind in head[-4:-1]),
                ", ".join(str(run["seed"]) for run in runs),
                f"{statistics.mean(mean_response(run) for run in runs):.2f}",
                f"{statistics.mean(run['seconds'] for run in runs) / 60:.0f}",
                runs[0]["device"],
            ]
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    names = ", ".join(sorted(by_net, key=list(PAPER).index)).replace(",", "")
    steps = "" if full else f" --num_steps {group[0][1]['num_steps']}"
    seeds = max(run["seed"] for _, run in group) + 1
    command = f"python benchmarks/reproduce_cifar10.py --data_dir DIR --nets {names}{steps}"
    return [*lines, "", f"    {command}" + (f" --seeds {seeds}" if seeds > 1 else "")]


def mean_response(summary: dict[str, Any]) -> float:
    """Returns the mean over a run's layers of their responses' standard deviations."""
    return statistics.mean(summary["responses"].values())


def spread(errors: Iterable[float]) -> str:
    """Formats the mean and standard deviation in per cent."""
    values = [100 * error for error in errors]
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Trains the requested nets as the time allows, and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data_dir", type=Path, help="folder of TFDS's cifar10")
    parser.add_argument("--runs_dir", type=Path, default=ROOT / "runs" / "cifar10")
    parser.add_argument("--nets", nargs="+", choices=PAPER, default=list(PAPER), metavar="NET")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N - 1 of each net")
    parser.add_argument("--num_steps", type=int, default=FULL)
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="MINUTES")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--ship", choices=PAPER, metavar="NET", help="only write NET's weights")
    arguments = parser.parse_args()
    if arguments.report:
        return report()
    if arguments.ship:
        return ship(arguments.ship, arguments.runs_dir)
    if arguments.data_dir is None:
        parser.error("--data_dir is missing; name the folder of TFDS's cifar10")
    deadline = time.monotonic() + 60 * arguments.budget
    seconds_per_layer: float | None = None
    for seed in range(arguments.seeds):
        for net in arguments.nets:
            run = Run(net, arguments.num_steps, seed)
            if (SUMMARIES / f"{run.name}.json").exists():
                continue
            workdir = arguments.runs_dir / run.name
            metrics = read_metrics(workdir) if workdir.exists() else []
            left = run.num_steps - (metrics[-1]["step"] if metrics else 0)
            need = left * run.depth * (seconds_per_layer or 0.0)
            if time.monotonic() + need > deadline:
                print(f"{run.name}: skipped, it needs about {need / 60:.0f} minutes")
                continue
            ended = train(run, arguments, deadline)
            metrics = read_metrics(workdir)
            if metrics:
                steps = metrics[-1]["step"]
                seconds_per_layer = seconds_of(metrics) / steps / run.depth
            if ended:
                summarize(run, arguments)
                report()
    return None


if __name__ == "__main__":
    _cli.run(main)
