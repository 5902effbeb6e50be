"""The base class of every configuration; each config lives beside its owner (`<package>/config.py`)."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, validated when built, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())
