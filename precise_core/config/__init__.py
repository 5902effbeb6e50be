"""Configuration ground: the strict base class of every config and the loader that fills one from YAML."""

from precise_core.config.base import Config, Day, Instant
from precise_core.config.loading import config_hash, load_config, over, validated

__all__ = ["Config", "Day", "Instant", "config_hash", "load_config", "over", "validated"]
