"""Configuration ground: the strict base class of every config and the loader that fills one from YAML."""

from precise_core.config.base import Config
from precise_core.config.loading import config_hash, load_config

__all__ = ["Config", "config_hash", "load_config"]
