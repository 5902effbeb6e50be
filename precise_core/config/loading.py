"""Fill a config from a YAML file and `--set a.b=c` overrides, with errors that name the path of the key."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError as PydanticValidationError

from precise_core.config.base import Config
from precise_core.config.yaml_text import read_value, read_yaml
from precise_core.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(path: str | Path, kind: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML file with one mapping into ``kind``; no value is converted by guessing.

    Args:
        overrides: ``a.b=c`` strings; the value is read as YAML, so numbers and lists work.

    Raises:
        ConfigError: The file is missing or not YAML, a key is unknown or given twice, or a value is impossible.
    """
    file = Path(path)
    text = _text(file)
    try:
        data = read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a mapping of keys to values, found {type(data).__name__}")
    _require_distinct(overrides)
    for override in overrides:
        _apply(data, override)
    try:
        return validated(kind, data)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def validated(kind: type[ConfigT], data: dict[str, Any]) -> ConfigT:
    """``data`` of JSON's kinds as a config, taken literally: "3" is no number, 1 is not true, 2024 is no text.

    Raises:
        ConfigError: A key is unknown or missing, or a value is impossible; all of them, by their paths.
    """
    try:
        return kind.model_validate_json(json.dumps(data), strict=True)
    except PydanticValidationError as error:
        raise ConfigError("; ".join(_explain(kind, entry) for entry in error.errors())) from error


def over(weaker: Sequence[str], stronger: Sequence[str]) -> list[str]:
    """``stronger``, preceded by those of ``weaker`` that set other keys."""
    taken = [_key(override) for override in stronger]
    return [*(one for one in weaker if not any(_overlap(_key(one), key) for key in taken)), *stronger]


def config_hash(config: Config) -> str:
    """SHA-256 of the resolved configuration, the same for the same values whatever the order of the keys."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _text(file: Path) -> str:
    try:
        if not file.is_file() and file.stat():  # which fails where there is nothing
            raise ConfigError(
                f"--config {file}: not a file{' but a folder' if file.is_dir() else ''}; give a YAML file"
            )
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"--config {file}: no such file; examples are in conf/") from error
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read: {error.strerror}") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ConfigError(f"{file}: this is UTF-16 or UTF-32, or no text at all; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"line {line} holds the byte 0x{content[error.start]:02x}"
        raise ConfigError(f"{file}: not UTF-8, {found} (Latin-1, Windows-1252?); save it as UTF-8") from error


def _require_distinct(overrides: Sequence[str]) -> None:
    for one, other in combinations(overrides, 2):
        if _overlap(_key(one), _key(other)):
            raise ConfigError(f"--set {one!r} and {other!r}: one would override the other; give the key once")


def _key(override: str) -> list[str]:
    return [part.strip() for part in override.partition("=")[0].split(".")]


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the keys are the same, or one lies in the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value, for example --set universal.epochs=2")
    *parents, leaf = _key(override)
    node = data
    for position, part in enumerate(parents):
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {'.'.join(parents[: position + 1])} is a value, not a mapping")
    try:
        node[leaf] = read_value(text)
    except ConfigError as error:
        raise ConfigError(f"--set {override!r}: {error}") from error


def _explain(kind: type[Config], entry: Any) -> str:
    path = ".".join(map(str, _locate(kind, entry["loc"])[0])) or "(top level)"
    if entry["type"] == "extra_forbidden":
        allowed = sorted(getattr(_locate(kind, entry["loc"][:-1])[1], "model_fields", {}))
        return f"{path}: unknown key" + (f"; allowed here: {', '.join(allowed)}" if allowed else "")
    if entry["type"] == "missing":
        return f"{path}: required, but not given"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "string_type" and not isinstance(entry["input"], dict | list):
        message = "text is needed; put it into quotes"
    if entry["type"] == "bool_type":
        message = "true or false is needed"
    found = "" if isinstance(entry["input"], dict) else f" (got {entry['input']!r})"  # of a section the keys are named
    return f"{path}: {message}{found}"


def _locate(kind: type[Config], location: Sequence[Any]) -> tuple[list[Any], Any]:
    """``location`` as it is written in the file (pydantic adds the `kind` of a union's member), and the model there."""
    model: Any = kind
    written = []
    for part in location:
        if not (isinstance(model, tuple) and isinstance(part, str)):
            written.append(part)
        model = _step(model, part)
    return written, model


def _step(model: Any, part: Any) -> Any:
    """The model of a model's field, a tuple of models for a union; of a union, the member of that kind."""
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
    if members and all(map(_kind_of, members)):
        return members
    models = [member for member in (*members, field.annotation) if hasattr(member, "model_fields")]
    return models[0] if models else None


def _kind_of(model: Any) -> str | None:
    field = getattr(model, "model_fields", {}).get("kind")
    return get_args(field.annotation)[0] if field is not None and get_args(field.annotation) else None
