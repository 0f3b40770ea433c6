"""Models and weights from the Hugging Face Hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_jax.errors import WeightsError, shown
from resnet_jax.interop import files
from resnet_jax.interop.native import is_native, load_model
from resnet_jax.interop.pytorch import from_torch
from resnet_jax.models import BasicBlock, BottleneckBlock, ModelError, ResNet, create_model

_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# timm's output stride → the stages in which dilation replaces the stride.
_TIMM_DILATIONS = {8: (False, True, True), 16: (False, False, True), 32: None}
# Arguments of timm's models that do not affect a trained one, or that follow from the weights.
_TIMM_IRRELEVANT = ("in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")


def from_hub(repo: str, *, revision: str | None = None) -> tuple[ResNet, dict[str, Any]]:
    """Returns the model and the weights of a repository on the Hugging Face Hub.

    The repository may hold a ResNet of timm ("timm/resnet50.a1_in1k"), of transformers
    ("microsoft/resnet-50"), or a file of `save_weights` named `model.safetensors`. Its
    `config.json` states the network. Files are kept in Hugging Face's cache and read from it when
    offline.

    Args:
      repo: "OWNER/NAME", or the path of a folder with a repository's files.
      revision: branch, tag or commit; by default the main branch.

    Returns:
      The model and {"params", "batch_stats"}.

    Raises:
      WeightsError: the repository cannot be reached or does not exist, huggingface_hub is not
        installed, the network is not supported, or the weights do not fit it.
    """
    fetch = _local_files(Path(repo)) if Path(repo).is_dir() else _remote_files(repo, revision)
    weights = next(filter(None, map(fetch, _WEIGHTS)), None)
    if weights is None:
        raise WeightsError(f"{repo} has neither {' nor '.join(_WEIGHTS)}; choose another")
    if weights.suffix == ".safetensors" and is_native(files.read_safetensors(weights)[1]):
        return load_model(weights)
    path = fetch(_CONFIG)
    if path is None:
        raise WeightsError(f"{repo} has no {_CONFIG} that states its network; choose another")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model = _timm_model(config) if "architecture" in config else _transformers_model(config)
    except ModelError as error:
        raise WeightsError(f"{repo} has an unsupported network: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"the {_CONFIG} of {repo} describes no ResNet: {error}") from error
    return model, from_torch(model, weights)


def _local_files(folder: Path) -> Callable[[str], Path | None]:
    return lambda name: path if (path := folder / name).is_file() else None


def _remote_files(repo: str, revision: str | None) -> Callable[[str], Path | None]:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise WeightsError(
            f"fetching {repo} needs huggingface_hub: python -m pip install 'resnet-jax[hub]'; a"
            " folder with the repository's files does not"
        ) from error

    def fetch(name: str) -> Path | None:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
        except errors.LocalEntryNotFoundError as error:
            # The cache also records which files a repository lacks.
            if huggingface_hub.try_to_load_from_cache(repo, name, revision=revision) is not None:
                return None
            raise WeightsError(
                f"the Hugging Face Hub cannot be reached and {name} of {repo} is not in the cache;"
                " check the network, or give a folder with the repository's files"
            ) from error
        except errors.EntryNotFoundError:
            return None
        except errors.HFValidationError as error:
            raise WeightsError(
                f"{shown(repo)} is neither a folder nor an OWNER/NAME on the Hugging Face Hub"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise WeightsError(
                f"{repo} has no revision {shown(revision)}; choose another"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise WeightsError(
                f"{repo} is not on the Hugging Face Hub, or not public; check its name, or log in"
                " with `hf auth login`"
            ) from error
        except Exception as error:
            # A connection can fail with any exception.
            raise WeightsError(
                f"fetching {name} of {repo} failed: {files.first_line(error)}; try again"
            ) from error

    return fetch


def _timm_model(config: Any) -> ResNet:
    arguments = {"num_classes": config.get("num_classes", 1000), **config.get("model_args", {})}
    num_classes = arguments.pop("num_classes")
    pool = arguments.pop("global_pool", config.get("global_pool", "avg"))
    if pool != "avg":
        raise ValueError(f"its global_pool is {shown(pool)}, not 'avg'")
    dilation = _TIMM_DILATIONS[arguments.pop("output_stride", 32)]
    if others := sorted(arguments.keys() - set(_TIMM_IRRELEVANT)):
        raise ValueError(f"it has {', '.join(others)}")
    return create_model(config["architecture"], num_classes, replace_stride_with_dilation=dilation)


def _transformers_model(config: Any) -> ResNet:
    # Missing keys have the defaults of transformers' ResNetConfig.
    expected = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_first_stage": False}
    for name, value in expected.items():
        found = config.get(name, None if name == "model_type" else value)
        if found != value:
            raise ValueError(f"its {name} is {shown(found)}, not {value!r}")
    is_basic = config.get("layer_type", "bottleneck") == "basic"
    block: type[BasicBlock] | type[BottleneckBlock] = BasicBlock if is_basic else BottleneckBlock
    sizes = config.get("hidden_sizes", (256, 512, 1024, 2048))
    widths = [size // block.expansion for size in sizes]
    if config.get("embedding_size", 64) != widths[0]:
        raise ValueError("its stem and its first stage differ in width")
    return ResNet(
        stage_sizes=config.get("depths", (3, 4, 6, 3)),
        block=block,
        num_classes=len(config["id2label"]) if "id2label" in config else 2,
        stage_widths=widths,
        stride_on_first=not is_basic and config.get("downsample_in_bottleneck", False),
    )
