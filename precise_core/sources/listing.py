"""Which local files a path or wildcard means, and what is in them."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from precise_core.errors import ConfigError, DataError


def list_files(pattern: str) -> list[Path]:
    """Files with content that ``pattern`` names, sorted; a folder stands for the data files below it.

    Raises:
        ConfigError: The path is a URI; sources are read from local or mounted folders.
        DataError: Nothing matches, or all that does is empty.
    """
    files = _matches(pattern)
    if not files:
        raise DataError(f"{pattern}: no such file, and no file matches it")
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        raise DataError(f"{files[0]}: the file is empty")
    return filled


def empty_files(pattern: str) -> list[Path]:
    """Files without a byte that ``pattern`` names, sorted: ``list_files`` leaves them out.

    Raises:
        ConfigError: The path is a URI.
    """
    return [file for file in _matches(pattern) if not file.stat().st_size]


def _matches(pattern: str) -> list[Path]:
    if "://" in pattern:
        raise ConfigError(f"path {pattern!r}: sources are read from local or mounted folders, not from a URI")
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 Path.glob takes no absolute pattern
    return [file.resolve() for file in sorted(file for match in matches for file in _data_files(Path(match)))]


def _data_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    inside = (file for file in path.rglob("*") if file.is_file())
    # Spark and Hadoop write _SUCCESS and .crc files beside the data.
    return [
        file
        for file in inside
        if not file.relative_to(path).as_posix().startswith(("_", ".")) and file.name[0] not in "_."
    ]


def sha256_of(file: Path) -> str:
    """SHA-256 of the content; asked for again, an unchanged file is not read again."""
    status = file.stat()
    return _sha256_of(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _sha256_of(file: Path, _size: int, _modified_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_files(files: Iterable[Path], checksum_of: Callable[[Path], str] = sha256_of) -> str:
    """SHA-256 over the name, size and content hash of every file."""
    lines = [f"{file.name} {file.stat().st_size} {checksum_of(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
