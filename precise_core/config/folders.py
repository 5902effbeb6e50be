"""Paths that Delta's libraries read literally."""

from __future__ import annotations

import re

from precise_core.errors import ConfigError

_READ_AS_ANOTHER = r"%[0-9A-Fa-f]{2}|\\"  # deltalake reads `a%20b` as `a b`, and `a\b` as `a/b`
_UNREACHABLE = r"[\[\]{}*?^|`\x00-\x1f\x7f]"  # Spark's half takes some for wildcards, deltalake's writer panics


def require_delta_path(what: str, path: str, *, is_read_only: bool = False) -> None:
    """Refuse a path of a table or warehouse at which Delta's libraries would end the process, or read another place.

    Args:
        what: Names the path in the message.
        is_read_only: It is read without Spark, which allows more characters.
    """
    if found := re.search(_READ_AS_ANOTHER if is_read_only else f"{_READ_AS_ANOTHER}|{_UNREACHABLE}", path):
        raise ConfigError(
            f"{what} {path}: its path must not have {found[0]!r}; Delta's libraries take any characters but "
            "[ ] { } * ? ^ | ` \\, control characters, and % before two hexadecimal digits"
        )
