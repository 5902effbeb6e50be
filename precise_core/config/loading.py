"""Fill a config from a YAML file and `--set a.b=c` overrides, with errors that name the path of the key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError as PydanticValidationError

from precise_core.config.base import Config
from precise_core.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(path: str | Path, kind: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """Read ``path`` into ``kind``.

    Args:
        path: A YAML file with one mapping.
        kind: The config class that owns the file.
        overrides: ``a.b=c`` strings; the value is read as YAML, so numbers and lists work.

    Raises:
        ConfigError: The file is missing or not YAML, a key is unknown, or a value is impossible.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--config {file}: no such file; examples are in conf/")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a mapping of keys to values, found {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    try:
        return kind.model_validate(data)
    except PydanticValidationError as error:
        raise ConfigError(f"{file}: " + "; ".join(_explain(kind, entry) for entry in error.errors())) from error


def config_hash(config: Config) -> str:
    """SHA-256 of the resolved configuration, the same for the same values whatever the order of the keys."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value, for example --set universal.epochs=2")
    *parents, leaf = key.strip().split(".")
    node = data
    for position, part in enumerate(parents):
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {'.'.join(parents[: position + 1])} is a value, not a mapping")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from error


def _explain(kind: type[Config], entry: Any) -> str:
    location = _without_tags(kind, entry["loc"])
    path = ".".join(str(part) for part in location) or "(top level)"
    if entry["type"] == "extra_forbidden":
        allowed = _allowed_keys(kind, entry["loc"][:-1])
        return f"{path}: unknown key" + (f"; allowed here: {', '.join(allowed)}" if allowed else "")
    if entry["type"] == "missing":
        return f"{path}: required, but not given"
    message = entry["msg"].removeprefix("Value error, ")
    return f"{path}: {message} (got {entry['input']!r})"


def _allowed_keys(kind: type[Config], location: Sequence[Any]) -> list[str]:
    """Keys of the model at ``location``, as far as nesting can be followed."""
    model: Any = kind
    for part in location:
        model = _step(model, part)
    return sorted(getattr(model, "model_fields", {}))


def _without_tags(kind: type[Config], location: Sequence[Any]) -> list[Any]:
    """``location`` as it is written in the file: pydantic adds the `kind` of a union's member to the path."""
    model: Any = kind
    kept = []
    for part in location:
        if not (isinstance(model, tuple) and isinstance(part, str)):
            kept.append(part)
        model = _step(model, part)
    return kept


def _step(model: Any, part: Any) -> Any:
    """From a model to the model of a field, a tuple of models for a union; from a union to the member of that kind."""
    if isinstance(model, dict):
        return model["any key"]
    if isinstance(model, tuple):
        return next((member for member in model if _kind_of(member) == part), None)
    field = getattr(model, "model_fields", {}).get(part)
    if field is None:
        return None
    if get_origin(field.annotation) is dict:
        return {"any key": get_args(field.annotation)[1]}
    members = tuple(member for member in get_args(field.annotation) if isinstance(member, type))
    is_union = bool(members) and all(_kind_of(member) for member in members)
    if is_union:
        return members
    models = [member for member in (*members, field.annotation) if hasattr(member, "model_fields")]
    return models[0] if models else None


def _kind_of(model: Any) -> str | None:
    field = getattr(model, "model_fields", {}).get("kind")
    return get_args(field.annotation)[0] if field is not None and get_args(field.annotation) else None
