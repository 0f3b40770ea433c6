"""The PyTorch peer: torchvision's model, or the tests' twin if it cannot be imported."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def torch_model(name: str, num_classes: int) -> tuple[nn.Module, str]:
    """Returns the model of our name and its origin; torchvision has no CIFAR networks."""
    threads = torch.get_num_threads()
    try:
        import torchvision

        model, whose = torchvision.models.get_model(name, num_classes=num_classes), "torchvision"
    except (ImportError, RuntimeError, ValueError):
        from tests.torch_twins import make_twin

        model, whose = make_twin(name, num_classes), "twin in tests/torch_twins.py"
        torch.set_num_threads(threads)  # The twins' file sets one thread for the tests.
    return model.to(memory_format=torch.channels_last, device=device()), whose


def device() -> str:
    """Returns the first GPU, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _on_device(images: np.ndarray) -> torch.Tensor:
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    return images.to(device()).to(memory_format=torch.channels_last)


def _compile(model: nn.Module) -> None:
    """Compiles the model's calls on a GPU, where that helps."""
    if device() == "cuda":
        model.compile()


def _autocast() -> torch.autocast:
    return torch.autocast("cuda", torch.bfloat16, enabled=device() == "cuda")


def torch_step(name: str, num_classes: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns a training step of SGD, a function from images and labels to the loss."""
    model = torch_model(name, num_classes)[0].train()
    _compile(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        with _autocast():
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def torch_training(
    name: str, images: np.ndarray, labels: np.ndarray, num_classes: int
) -> Callable[[], float]:
    """Returns a function that runs one step on a fixed batch and waits for the loss."""
    step = torch_step(name, num_classes)
    x, y = _on_device(images), torch.from_numpy(labels).long().to(device())
    return lambda: step(x, y).item()


def torch_inference(
    name: str, images: np.ndarray, num_classes: int, fold: bool
) -> Callable[[], object]:
    """Returns a function that runs one forward pass in evaluation mode and waits for it."""
    model = torch_model(name, num_classes)[0].eval()
    if fold:
        fold_batch_norms(model)
        model.to(memory_format=torch.channels_last)
    _compile(model)
    x = _on_device(images)

    def forward() -> object:
        with torch.inference_mode(), _autocast():
            logits = model(x)
        if device() == "cuda":
            torch.cuda.synchronize()
        return logits

    return forward


def fold_batch_norms(module: nn.Module) -> None:
    """Folds each batch normalisation after a convolution into it, in place."""
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
    for _, child in children:
        fold_batch_norms(child)
