"""Print a network's stages with their outputs, parameters and multiply-adds."""

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import pixels


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax summary NAME [--image_size PIXELS]`.

    Args:
      argv: the arguments after `summary`.

    Raises:
      ModelError: there is no such network.
    """
    parser = _cli.ArgumentParser(
        prog="python -m resnet_jax summary",
        description=__doc__,
        epilog="Networks have the paper's classifier: 1000 classes, or 10 for CIFAR networks.",
    )
    parser.add_argument("name", metavar="NAME", help="one of resnet_jax.list_models()")
    parser.add_argument(
        "--image_size",
        type=pixels,
        metavar="PIXELS",
        help="height and width of the images (224, for CIFAR networks 32)",
    )
    arguments = parser.parse_args(argv)

    # Not at the top: help and usage errors appear at once.
    from resnet_jax.models import create_model, format_summary, summarize, usual_image_size

    model = create_model(arguments.name, usual_num_classes(arguments.name))
    size = arguments.image_size or usual_image_size(model)
    print(f"{arguments.name}: {model.num_classes} classes, {size} x {size} x 3 images\n")
    print(format_summary(summarize(model, size)))


def usual_num_classes(name: str) -> int:
    """Returns the paper's number of classes: 10 for CIFAR networks, otherwise 1000."""
    return 10 if name.endswith("_cifar") else 1000
