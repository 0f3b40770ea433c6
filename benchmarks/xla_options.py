"""Compares XLA's options for its library YNNPACK on this processor, and our max pool with JAX's.

    python benchmarks/xla_options.py [--rounds N] [--json FILE]

Measures a training step and an inference of each network, alternating the choices in one process.
"Ours" is the choice of `runtime.devices.compiler_options` with the "cpu" kernels; the peers are the
other choices, and the same choice with stock kernels, which differ in the max pool. A ratio below
0.95 means that a peer is faster.
"""

from collections.abc import Callable, Iterator

import common
import jax
from inference import jax_inference
from train_step import compile_training, random_batch, repeated

from resnet_jax import create_model
from resnet_jax.runtime.devices import compiler_options, keep_freed_memory

Options = dict[str, str] | None

CASES = [("resnet20_cifar", 128), ("resnet18", 16), ("resnet50", 16)]

_OPTION = "xla_cpu_experimental_ynn_fusion_type"
_TYPE = "LIBRARY_FUSION_TYPE_"
CHOICES: dict[str, Options] = {
    "XLA's defaults": None,
    "nothing": {_OPTION: ""},
    "sums": {_OPTION: f"{_TYPE}REDUCE"},
    "sums and products": {_OPTION: f"{_TYPE}REDUCE,{_TYPE}INDIVIDUAL_DOT"},
}


def training(name: str, batch_size: int, kernels: str, options: Options) -> Callable[[], object]:
    """Returns a function that runs one training step."""
    images, labels, num_classes = random_batch(name, batch_size)
    model = create_model(name, num_classes, kernels=kernels)
    return repeated(*compile_training(model, images, labels, options))


def inference(name: str, batch_size: int, kernels: str, options: Options) -> Callable[[], object]:
    """Returns a function that runs one forward pass with folded batch normalisation."""
    images, _, num_classes = random_batch(name, batch_size)
    model = create_model(name, num_classes, kernels=kernels)
    return jax_inference(model, images, fold=True, options=options)


def measure(rounds: int) -> Iterator[common.Ratio]:
    """Measures the cases sequentially."""
    for case in CASES:
        for job in (training, inference):
            contestants = {"ours": job(*case, "cpu", compiler_options())}
            contestants |= {label: job(*case, "cpu", choice) for label, choice in CHOICES.items()}
            contestants["stock kernels"] = job(*case, "stock", compiler_options())
            name = f"xla_options/{case[0]}/{job.__name__}"
            yield from common.compare_in_turn(name, contestants, rounds)


def main() -> None:
    """Measures each case and prints it when it is done."""
    arguments = common.arguments(__doc__, rounds=5)
    if jax.default_backend() != "cpu":
        raise SystemExit("these are options of XLA's CPU back end; run with JAX_PLATFORMS=cpu")
    common.report(measure(arguments.rounds), [], arguments.json)


if __name__ == "__main__":
    keep_freed_memory()
    main()
