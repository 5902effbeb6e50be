"""Page checksums of Parquet files, for readers that do not look at them: pyarrow 14 neither writes nor verifies them.

A page is a header, in Thrift's compact protocol, and so many bytes as the header says; where it has a checksum, that is
the CRC-32 of these bytes (`parquet.thrift`, PageHeader).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from precise_core.errors import DataError

_SIZE, _SUM = 3, 4  # fields of a PageHeader
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


def require_page_sums(uri: str, file: pa.NativeFile, metadata: pq.FileMetaData, columns: Collection[str]) -> None:
    """Compare every checksum that pages of ``columns`` have with their bytes.

    Raises:
        DataError: One does not hold; the message names the file.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema in columns and not _holds(_bytes_of(file, chunk)):
                raise DataError(
                    f"{uri}: cannot be read, the checksum of a page does not hold; "
                    "docs/operations.md says how to get a file back"
                )


def _bytes_of(file: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> memoryview:
    # 0 or None where there is no dictionary, depending on the writer.
    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    return memoryview(file.read_at(chunk.total_compressed_size, start))


def _holds(pages: memoryview) -> bool:
    """Of pages, one after the other; false also where they are no pages."""
    at = 0
    try:
        while at < len(pages):
            fields, at = _header(pages, at)
            if fields[_SIZE] < 0:
                return False
            page = pages[at : at + fields[_SIZE]]
            at += fields[_SIZE]
            if _SUM in fields and zlib.crc32(page) != fields[_SUM] & 0xFFFF_FFFF:
                return False
    except (IndexError, KeyError):
        return False
    return at == len(pages)


def _header(data: memoryview, at: int) -> tuple[dict[int, int], int]:
    """Whole numbers of a struct by field, and where it ends."""
    fields: dict[int, int] = {}
    field = 0
    while data[at]:
        kind, step = data[at] & 0xF, data[at] >> 4
        at += 1
        if step:
            field += step
        else:
            field, at = _number(data, at)
        if _BYTE < kind < _DOUBLE:
            fields[field], at = _number(data, at)
        else:
            at = _after(data, at, kind)
    return fields, at + 1


def _after(data: memoryview, at: int, kind: int) -> int:
    """Where a value ends that is of no interest."""
    if kind in (_TRUE, _FALSE):
        return at
    if kind == _BYTE:
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind == _STRUCT:
        return _header(data, at)[1]
    if kind in (_LIST, _SET):
        size, of = data[at] >> 4, data[at] & 0xF
        size, at = _varint(data, at + 1) if size == 0xF else (size, at + 1)
        for _ in range(size):
            at = at + 1 if of in (_TRUE, _FALSE) else _after(data, at, of)
        return at
    return _varint(data, at)[1]  # a whole number


def _number(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at  # zigzag


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1
