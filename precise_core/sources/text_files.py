"""Text files: opened whatever their compression and encoding, and scanned once.

The scan finds what a few lines do not show: bytes that do not fit the encoding, another encoding or no text at all, and
whether Spark, which reads line by line, parses the quotes of a CSV correctly (csv_rows.py reads the others).
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from precise_core.errors import DataError
from precise_core.sources.config import FileInput
from precise_core.sources.objects import SourceFile

REPLACEMENT = "\ufffd"  # what decoding leaves of bytes that do not fit
# Replaces bytes that do not fit where they must be distinguished from a U+FFFD of the file.
_MARK, _MARKING = "\ufdd0", "precise.mark"
codecs.register_error(_MARKING, lambda error: (_MARK, getattr(error, "end", 0)))
_BLOCK_BYTES = 8 << 20
_LONGEST_ROW_BYTES = 256 << 20
_SAMPLE_BYTES = 64  # about a header
_BEGINNING_CHARACTERS = 1 << 20
_PACKED = (".gz", ".bz2")
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x1f\x8b": "compressed with gzip, which its name does not say (.gz)",
    b"BZh91AY": "compressed with bzip2, which its name does not say (.bz2)",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"PAR1": "Parquet",
}


@dataclass(frozen=True)
class Look:
    """What a file holds.

    Args:
        is_plain: Spark reads it right: UTF-8, and of a CSV every quote opens, doubles or closes a cell of one line.
        undecodable_line: The first line with bytes that do not fit the encoding, counted from 1.
        has_escapes: A CSV that is not plain and has a backslash before a quote.
    """

    is_plain: bool = True
    undecodable_line: int | None = None
    has_escapes: bool = False


def open_bytes(file: SourceFile) -> BinaryIO:
    """The content, unpacked where the name says that it is packed."""
    suffix, packed = file.suffix.lower(), file if isinstance(file, Path) else file.open()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(packed, "rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.open(packed, "rb"))
    return packed.open("rb") if isinstance(packed, Path) else packed


def lines_of(file: SourceFile, encoding: str, errors: str = "replace") -> Iterator[str]:
    """The lines with their ends (LF, CRLF or CR); bytes that do not fit the encoding become U+FFFD."""
    with io.TextIOWrapper(open_bytes(file), encoding=encoding, errors=errors, newline="") as stream:
        yield next(stream, "").removeprefix("\ufeff")
        yield from stream


def look(file: SourceFile, source: FileInput, kind: str) -> Look:
    """Scan a CSV or JSON Lines file; the result is cached until the file changes."""
    status = file.stat()
    delimiter = source.delimiter if kind == "csv" else None
    return _look(file, delimiter, source.escape, source.encoding, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _look(file: SourceFile, delimiter: str | None, escape: str, encoding: str, _size: int, _modified_ns: int) -> Look:
    try:
        with open_bytes(file) as stream:
            _require_text(file, stream.read(_SAMPLE_BYTES), encoding)
        if delimiter is None:
            _require_lines(file, encoding)
        is_plain, is_valid, has_escapes = False, False, False
        if encoding == "utf-8":
            with open_bytes(file) as stream:
                is_plain, is_valid, has_escapes = _look_through(stream, delimiter, escape)
        undecodable = None if is_valid else _undecodable_line(file, encoding)
    except PermissionError as error:
        raise DataError(f"{file}: cannot be read (Permission denied)") from error
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file}: cannot be unpacked, damaged or cut off ({error})") from error
    # Hadoop knows packed files by their ending in small letters.
    is_plain = is_plain and (file.suffix.lower() not in _PACKED or file.suffix in _PACKED)
    return Look(is_plain, undecodable, has_escapes and not is_plain)


def _require_text(file: SourceFile, sample: bytes, encoding: str) -> None:
    for beginning, what in _BEGINNINGS.items():
        if sample.startswith(beginning):
            raise DataError(f"{file}: is {what}; what is read is text, packed as .gz or .bz2 or not at all")
    wide = _wide_encoding(sample)
    if wide is not None and not re.fullmatch("utf[-_]?(16|32).*", encoding.lower()):
        raise DataError(f"{file}: is {wide.upper()}, not {encoding}; set `encoding: {wide}`")


def _wide_encoding(sample: bytes) -> str | None:
    """UTF-16 or UTF-32, by their mark or by the zero bytes that most letters have in them."""
    for mark, name in _BYTE_ORDER_MARKS.items():
        if sample.startswith(mark):
            return name
    whole = np.frombuffer(sample[: len(sample) // 4 * 4], np.uint8).reshape(-1, 4)
    if not len(whole):
        return None
    zeros = [bool(share > 0.5) for share in (whole == 0).mean(axis=0)]
    names = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return names.get((zeros[0], zeros[1], zeros[2], zeros[3]))


def _require_lines(file: SourceFile, encoding: str) -> None:
    """Refuse a JSON file that is one array, or objects over several lines: every line would be malformed."""
    with io.TextIOWrapper(open_bytes(file), encoding=encoding, errors="replace") as stream:
        beginning = stream.read(_BEGINNING_CHARACTERS).removeprefix("\ufeff")
    filled = [line.strip() for line in beginning.split("\n") if line.strip()]
    first, second = [*filled, "", ""][:2]
    if first in ("[", "{") or (first.startswith("[") and (not second or not _is_json(first))):
        what = "a JSON array" if first.startswith("[") else "JSON over several lines"
        raise DataError(f"{file}: is {what}; what is read is one object per line (`jq -c '.[]'` or `jq -c .` makes it)")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _undecodable_line(file: SourceFile, encoding: str) -> int | None:
    lines = lines_of(file, encoding, errors=_MARKING)
    return next((number for number, line in enumerate(lines, 1) if _MARK in line), None)


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _look_through(stream: BinaryIO, delimiter: str | None, escape: str) -> tuple[bool, bool, bool]:
    """Whether UTF-8 is plain, whether it is valid, and whether it has a backslash before a quote."""
    is_plain, is_valid, has_escapes = True, True, False
    for block in _blocks(stream):
        is_valid = is_valid and _is_utf8(block)
        if delimiter is not None:
            is_plain = is_plain and _is_plain(block, delimiter, escape)
            has_escapes = has_escapes or (not is_plain and b'\\"' in block)
    return is_plain, is_valid, has_escapes


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The content in blocks of whole lines, without a byte order mark."""
    rest = stream.read(3).removeprefix(b"\xef\xbb\xbf")
    while block := stream.read(_BLOCK_BYTES):
        block = rest + block
        end = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        if end == 0 and len(block) > _LONGEST_ROW_BYTES:
            end = len(block)
        if end:
            yield block[:end]
        rest = block[end:]
    if rest:
        yield rest


def _is_plain(rows: bytes, delimiter: str, escape: str) -> bool:
    """Whether lines and cells can be found without the state of a CSV parser."""
    # A NUL has a meaning of its own to Spark's CSV parser.
    if not delimiter.isascii() or b"\0" in rows or (escape == "\\" and b"\\" in rows):
        return False
    if b'"' not in rows:
        return True
    codes = np.frombuffer(rows, np.uint8)
    quotes = np.flatnonzero(codes == ord('"'))
    if len(quotes) % 2:
        return False
    # Of quotes that are right the first, third, ... open a cell and the others close it; a doubled one does both.
    opening, closing = quotes[::2], quotes[1::2]
    is_edge = np.zeros(256, bool)
    is_edge[[ord(mark) for mark in (delimiter, '"', "\n", "\r")]] = True
    opens = is_edge[codes[opening - 1]] | (opening == 0)
    closes = is_edge[codes[np.minimum(closing + 1, len(codes) - 1)]] | (closing == len(codes) - 1)
    line_ends = np.flatnonzero((codes == ord("\n")) | (codes == ord("\r")))
    is_inside = np.searchsorted(quotes, line_ends) % 2
    return bool(opens.all() and closes.all() and not is_inside.any())
