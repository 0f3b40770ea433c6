"""Models and weights from the Hugging Face Hub."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import PRNGKeyArray

from resnet_jax.errors import WeightsError, shown
from resnet_jax.interop import files, layout
from resnet_jax.interop.native import is_native_file, load_model, load_weights
from resnet_jax.interop.pytorch import from_torch
from resnet_jax.models import BasicBlock, BottleneckBlock, ModelError, ResNet, create_model
from resnet_jax.runtime.files import has_home, local_path

CONFIGS = ("config.json", "preprocessor_config.json")
"""Names of the files that describe a repository's network and its preprocessing."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of a repository's weights; the first one present is read."""

# timm's output stride → the stages in which dilation replaces the stride.
_TIMM_DILATIONS = {8: (False, True, True), 16: (False, False, True), 32: None}
# Arguments of timm's models that do not affect a trained one, or that follow from the weights.
_TIMM_IRRELEVANT = ("in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")


def from_hub(
    repo: str,
    *,
    revision: str | None = None,
    num_classes: int | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[ResNet, dict[str, Any]]:
    """Returns the model and the weights of a repository on the Hugging Face Hub.

    The repository may hold a ResNet of timm ("timm/resnet50.a1_in1k"), of transformers
    ("microsoft/resnet-50"; also timm's inside `TimmWrapper`), or a file of `save_weights` named
    `model.safetensors`. Its `config.json` states the network. Files are kept in Hugging Face's
    cache and read from it when offline.

    Args:
      repo: "OWNER/NAME", or the path of a folder with a repository's files.
      revision: branch, tag or commit; by default the main branch.
      num_classes: initialises a new classifier of so many classes, which a repository without a
        classifier needs; by default, it is that of the repository.
      key: key of the new classifier; by default `jax.random.key(0)`.

    Returns:
      The model and {"params", "batch_stats"}.

    Raises:
      WeightsError: the repository cannot be reached or does not exist, huggingface_hub is not
        installed, the network is not supported or has no classifier, or the weights do not fit it.
    """
    fetch, weights = _fetched(repo, revision)
    skip_head = num_classes is not None
    if not is_native_file(weights):
        model = _model_of(repo, fetch, num_classes)
        return model, from_torch(model, weights, skip_head=skip_head, key=key)
    model, variables = load_model(weights)
    if skip_head:
        model = model.clone(num_classes=num_classes)
        variables = load_weights(weights, model, skip_head=True, key=key)
    return model, variables


def read_hub(
    model: ResNet, repo: str, *, skip_head: bool = False, key: PRNGKeyArray | None = None
) -> dict[str, Any]:
    """Returns a model's variables from a repository that `from_hub` reads.

    Args:
      model: a model of `create_model`.
      repo: "OWNER/NAME", or the path of a folder with a repository's files.
      skip_head: whether to initialise a new classifier.
      key: key of the new classifier; by default `jax.random.key(0)`.

    Raises:
      WeightsError: as for `from_hub`, or the model is not that of the repository.
    """
    fetch, weights = _fetched(repo, None)
    if is_native_file(weights):
        return load_weights(weights, model, skip_head=skip_head, key=key)
    theirs = _model_of(repo, fetch, model.num_classes if skip_head else None)
    layout.check_variant(repo, theirs, model)
    return from_torch(model, weights, skip_head=skip_head, key=key)


def repository_files(
    repo: str | os.PathLike[str], revision: str | None = None
) -> Callable[[str], Path | None]:
    """Returns a function that returns a file of a repository or folder; None if it lacks it.

    Args:
      repo: "OWNER/NAME", or the path of a folder.
      revision: branch, tag or commit; by default the main branch.

    Raises:
      WeightsError: huggingface_hub is not installed; from the function, if the repository cannot be
        reached or does not exist.
    """
    folder = local_path(repo)
    if not folder.is_dir():
        return _remote_files(str(repo), revision)
    return lambda name: path if (path := folder / name).is_file() else None


def repository_weights(fetch: Callable[[str], Path | None]) -> Path | None:
    """Returns the weights file among the files of `repository_files`, or None."""
    return next(filter(None, map(fetch, WEIGHTS)), None)


def repository_config(
    repo: str, fetch: Callable[[str], Path | None], name: str = CONFIGS[0]
) -> Any:
    """Returns the content of a repository's JSON file, or None if it lacks it.

    Raises:
      WeightsError: the file is damaged.
    """
    path = fetch(name)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"the {name} of {repo} describes no ResNet: {error}") from error


def _fetched(repo: str, revision: str | None) -> tuple[Callable[[str], Path | None], Path]:
    """Returns the function that returns a file of a repository, and its weights file."""
    fetch = repository_files(repo, revision)
    weights = repository_weights(fetch)
    if weights is None:
        what = "folder" if local_path(repo).is_dir() else "repository"
        raise WeightsError(f"the {what} {repo} has neither {' nor '.join(WEIGHTS)}; choose another")
    return fetch, weights


def _model_of(repo: str, fetch: Callable[[str], Path | None], num_classes: int | None) -> ResNet:
    """Returns the model that a repository's configuration describes."""
    config = repository_config(repo, fetch)
    if config is None:
        raise WeightsError(f"{repo} has no {CONFIGS[0]} that states its network; choose another")
    try:
        is_timm = "architecture" in config
        if num_classes is None:
            num_classes = _timm_classes(config) if is_timm else _transformers_classes(config)
        if num_classes == 0:
            raise WeightsError(
                f"{repo} has no classifier; start a new one with from_hub(..., num_classes=N), or"
                " for training with skip_head=True"
            )
        return (_timm_model if is_timm else _transformers_model)(config, num_classes)
    except ModelError as error:
        raise WeightsError(f"{repo} has an unsupported network: {error}") from error
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"the {CONFIGS[0]} of {repo} describes no ResNet: {error}") from error


def _remote_files(repo: str, revision: str | None) -> Callable[[str], Path | None]:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise WeightsError(
            f"fetching {repo} needs huggingface_hub: python -m pip install 'resnet-jax[hub]'; a"
            " folder with the repository's files does not"
        ) from error
    if not has_home() and not {"HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"} & os.environ.keys():
        raise WeightsError(
            f"fetching {repo} needs a folder, but there is no home folder; set HF_HOME"
        )

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


def _timm_classes(config: Any) -> int:
    arguments = config.get("model_args") or {}
    return int(arguments.get("num_classes", config.get("num_classes", 1000)))


def _timm_model(config: Any, num_classes: int) -> ResNet:
    arguments = {**(config.get("model_args") or {})}
    arguments.pop("num_classes", None)
    pool = arguments.pop("global_pool", config.get("global_pool", "avg"))
    if pool != "avg":
        raise ValueError(f"its global_pool is {shown(pool)}, not 'avg'")
    dilation = _TIMM_DILATIONS[arguments.pop("output_stride", 32)]
    if others := sorted(arguments.keys() - set(_TIMM_IRRELEVANT)):
        raise ValueError(f"it has {', '.join(others)}")
    return create_model(config["architecture"], num_classes, replace_stride_with_dilation=dilation)


def _transformers_classes(config: Any) -> int:
    if config.get("architectures") == ["ResNetModel"]:
        return 0
    return len(config["id2label"]) if "id2label" in config else 2


def _transformers_model(config: Any, num_classes: int) -> ResNet:
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
        num_classes=num_classes,
        stage_widths=widths,
        stride_on_first=not is_basic and config.get("downsample_in_bottleneck", False),
    )
