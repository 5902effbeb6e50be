"""Files of a published data set: only the exact content that published figures are measured on is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from precise_core.errors import DataError

_COMPRESSED = ".zst"


@dataclass(frozen=True)
class KnownFile:
    """What a file must hold, decompressed: its size in bytes and its SHA-256."""

    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size} bytes, SHA-256 {self.sha256[:16]}..."


def plain_or_compressed(folder: Path, name: str) -> Path:
    """``name`` or ``name.zst`` of ``folder``; DataError where it has neither."""
    for candidate in (folder / name, folder / f"{name}{_COMPRESSED}"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{folder / name}: no such file, nor {name}{_COMPRESSED} (docs/data_sets.md)")


def known_content(file: Path, known: KnownFile, *, refused: Mapping[str, str] | None = None) -> bytes:
    """The file's content, decompressed where it ends in `.zst`.

    Args:
        refused: SHA-256 sums of contents that are known to be wrong, and what is wrong with each.

    Raises:
        DataError: The file is missing, damaged, or not the known one; the message says what belongs there.
    """
    expected = f"{file.name.removesuffix(_COMPRESSED)} of {known} belongs there (docs/data_sets.md)"
    if not file.is_file():
        raise DataError(f"{file}: no such file; {expected}")
    content = content_of(file)
    found = KnownFile(len(content), hashlib.sha256(content).hexdigest())
    if found != known:
        why = (refused or {}).get(found.sha256)
        raise DataError(f"{file}: {f'{why}; ' if why else f'holds {found}; '}{expected}")
    return content


def content_of(file: Path) -> bytes:
    """The file's bytes, decompressed where it ends in `.zst`; DataError where it is not compressed, or cut off."""
    if file.suffix != _COMPRESSED:
        return file.read_bytes()
    try:
        with pa.input_stream(str(file), compression="zstd") as stream:
            content: bytes = stream.read()
            return content
    except OSError as error:
        raise DataError(f"{file}: not zstd-compressed, or cut off ({error})") from error
