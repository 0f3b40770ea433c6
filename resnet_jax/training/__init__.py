"""The trainer: configuration, state, step, checkpoints, records and the loop that joins them."""

from .config import ConfigError, TrainConfig, default_config, resolve

__all__ = ["ConfigError", "TrainConfig", "default_config", "resolve"]
