"""Print a network's stages with their outputs, parameters and multiply-adds."""

from . import door
from ._arguments import pixels


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax summary NAME [--image_size PIXELS]`.

    Args:
      argv: the arguments after `summary`.

    Raises:
      ModelError: there is no such network.
    """
    parser = door.ArgumentParser(
        prog="python -m resnet_jax summary",
        description=__doc__,
        epilog="Networks have the paper's classifier, of 1000 classes or, for CIFAR, of 10.",
    )
    parser.add_argument("name", metavar="NAME", help="one of resnet_jax.list_models()")
    parser.add_argument(
        "--image_size",
        type=pixels,
        metavar="PIXELS",
        help="height and width of the images (224, for CIFAR networks 32)",
    )
    arguments = parser.parse_args(argv)

    # Not at the top: help and wrong usage answer at once.
    from ..models import create_model, format_summary, summarize

    model = create_model(arguments.name, usual_num_classes(arguments.name))
    size = arguments.image_size or (32 if model.stem == "cifar" else 224)
    print(f"{arguments.name}: {model.num_classes} classes, {size} x {size} x 3 images\n")
    print(format_summary(summarize(model, size)))


def usual_num_classes(name: str) -> int:
    """Returns the paper's number of classes for a network: 10 for the CIFAR nets, else 1000."""
    return 10 if name.endswith("_cifar") else 1000
