"""Folders whose names every library behind a warehouse takes for what they are."""

from __future__ import annotations

import re
from pathlib import Path

from precise_core.errors import ConfigError

_DECODED = r"%[0-9A-Fa-f]{2}|\\"  # deltalake reads `a%20b` as `a b`, and `a\b` as `a/b`
_UNWRITABLE = r"[\[\]|^]"  # its writer panics


def require_literal(folder: Path, *, is_written: bool = False) -> None:
    """Refuse a path that would be read as another one, or could not be written to.

    Raises:
        ConfigError: It holds `%` with two hexadecimal digits or a backslash; or, where it is written, one of `[]|^`.
    """
    if found := re.search(f"{_DECODED}|{_UNWRITABLE}" if is_written else _DECODED, str(folder)):
        raise ConfigError(f"folder {folder}: the Delta library does not take {found[0]!r} in a name; rename the folder")
