"""What XLA should hand to its library YNNPACK on this processor, and what the kernels gain.

    python benchmarks/xla_options.py [--rounds N] [--json FILE]

A training step and an inference of each network, with every choice in turn in one process. "Ours"
is what `resnet_jax.parallel.compiler_options` chooses here, with the "cpu" kernels; the peers are
other choices, and stock kernels with the same one. A ratio below 0.95 says that a peer is faster.
"""

from collections.abc import Callable

import common
import jax
from inference import jax_inference
from train_step import compile_training, random_batch, repeated

from resnet_jax import create_model
from resnet_jax.parallel import compiler_options, keep_freed_memory

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
    """Returns a training step; a call does one."""
    images, labels, num_classes = random_batch(name, batch_size)
    model = create_model(name, num_classes, kernels=kernels)
    return repeated(*compile_training(model, images, labels, options))


def inference(name: str, batch_size: int, kernels: str, options: Options) -> Callable[[], object]:
    """Returns a forward pass with folded batch normalisation; a call does one."""
    images, _, num_classes = random_batch(name, batch_size)
    model = create_model(name, num_classes, kernels=kernels)
    return jax_inference(model, images, fold=True, options=options)


def main() -> None:
    """Measures every case."""
    arguments = common.arguments(__doc__, rounds=5)
    if jax.default_backend() != "cpu":
        raise SystemExit("these are options of XLA's CPU back end; run with JAX_PLATFORMS=cpu")
    ratios = []
    for case in CASES:
        for job in (training, inference):
            contestants = {"ours": job(*case, "cpu", compiler_options())}
            contestants |= {label: job(*case, "cpu", choice) for label, choice in CHOICES.items()}
            contestants["stock kernels"] = job(*case, "stock", compiler_options())
            name = f"xla_options/{case[0]}/{job.__name__}"
            ratios += common.compare_in_turn(name, contestants, arguments.rounds)
    common.report(ratios, [], arguments.json)


if __name__ == "__main__":
    keep_freed_memory()
    main()
