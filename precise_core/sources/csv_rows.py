"""Rows of CSV files whose lines are not their rows, or that are not UTF-8: streamed through Python's csv module.

A row that goes wrong (a quote that is never closed, text after a closing quote, too few or too many cells) costs its
first line only: what follows is read anew from the next line, so that no row is swallowed. Of lines read anew, one with
an odd number of quotes is malformed, too: it may be the end of a cell that began in the row that went wrong.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from urllib.parse import quote

import pyarrow as pa

from precise_core.errors import DataError
from precise_core.sources.config import FileInput
from precise_core.sources.objects import SourceFile
from precise_core.sources.text_files import lines_of

Row = tuple[list[str] | None, str]  # the cells, None of a malformed row; the text of the row
ReadNumbered = Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]
_LONGEST_ROW = 64 << 20  # characters; a quote that is never closed is given up after so many
_SHOWN_CHARACTERS = 200
_BATCH_CHARACTERS = 4 << 20
_BLANKS = "".join(map(chr, range(33)))  # what Spark takes for blank when it leaves out blank lines


def header_of(file: SourceFile, source: FileInput) -> tuple[str, ...]:
    """The cells of the first line that is not blank.

    Raises:
        DataError: A quote of it is never closed, or followed by other text.
    """
    cells, text = next(csv_rows(file, source), ([], ""))
    if cells is None:
        shown = repr(text[:_SHOWN_CHARACTERS])
        why = f"the header is not CSV, a quote is not closed or followed by other text: {shown}"
        raise DataError(f"{file}: {why}", private=shown)  # without a header it may be a row
    return tuple(cells)


def csv_rows(file: SourceFile, source: FileInput) -> Iterator[Row]:
    """The header and the rows; blank lines are left out, and a row must have as many cells as the header."""
    escapes = _Escapes(source.delimiter) if source.escape == "\\" else None
    lines = lines_of(file, source.encoding)
    rows = _rows(lines if escapes is None else escapes.protect(lines), source.delimiter)
    return rows if escapes is None else map(escapes.restore, rows)


def swallowed_line(file: SourceFile, source: FileInput) -> int | None:
    """The first line that lies inside a quoted cell and would be a row of its own; None where there is none.

    Of two quotes that are meant as inch marks, rows apart, the lines between are one cell: valid CSV, and rows lost.
    """
    number, width = 1, 0
    for cells, text in csv_rows(file, source):
        lines = text.splitlines(keepends=True)
        width = width or len(cells or ())
        if cells is not None and width > 1:
            inside = csv.reader(lines[1:-1], delimiter=source.delimiter)
            for place, row in enumerate(inside, start=1):
                if len(row) == width:
                    return number + place
        number += max(1, len(lines))
    return None


def _rows(lines: Iterator[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_ROW)
    feed, width = _Feed(lines), None
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.taken.clear()
        try:
            cells: list[str] | None = next(reader)
        except StopIteration:
            return
        except (csv.Error, _TooLongError):
            cells = None
        if cells is not None and len(feed.taken) == 1 and not feed.taken[0].strip(_BLANKS):
            continue
        if width is None:
            width = -1 if cells is None else len(cells)
        elif cells is not None and len(cells) != width:
            cells = None
        if cells is None:
            feed.give_back_all_but_first()
        text = "".join(feed.taken)
        yield None if feed.is_again and text.count('"') % 2 else cells, text


class _TooLongError(Exception):
    """A row is longer than a row can be."""


class _Feed:
    """Lines for a reader; lines already read can be given back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.taken: list[str] = []
        self.is_again = False  # whether the first of them had been given back
        self._lines, self._again, self._length = lines, deque[str](), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.taken:
            self.is_again = bool(self._again)
        line = self._again.popleft() if self._again else next(self._lines)
        self._length = len(line) + (self._length if self.taken else 0)
        self.taken.append(line)
        if self._length > _LONGEST_ROW and len(self.taken) > 1:
            raise _TooLongError
        return line

    def give_back_all_but_first(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


class _Escapes:
    """`escape: "\\"`: the quote, delimiter, backslash or line break after a backslash is text.

    What is escaped passes the csv module as a NUL and a letter, and a NUL of the file as two.
    """

    def __init__(self, delimiter: str) -> None:
        letters = {'"': "q", "\\": "b", delimiter: "d", "\n": "n", "\r": "r", "\r\n": "c"}
        self._protected = {f"\\{mark}": f"\0{letter}" for mark, letter in letters.items()} | {"\0": "\0\0"}
        self._restored = {f"\0{letter}": mark for mark, letter in letters.items()} | {"\0\0": "\0"}
        self._escape = re.compile(rf'\\(?:\r\n|["\\\r\n{re.escape(delimiter)}])|\0')
        self._mark = re.compile(r"\0(.)", re.DOTALL)

    def protect(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            text = self._escape.sub(lambda found: self._protected[found[0]], line)
            while text.endswith(("\0n", "\0r", "\0c")) and (more := next(lines, None)) is not None:
                text += self._escape.sub(lambda found: self._protected[found[0]], more)
            yield text

    def restore(self, row: Row) -> Row:
        cells, text = row
        if "\0" not in text:
            return row
        restored = None if cells is None else [self._plain(cell) for cell in cells]
        return restored, self._mark.sub(lambda found: self._in_file(found[0]), text)

    def _plain(self, cell: str) -> str:
        return self._mark.sub(lambda found: self._restored[found[0]], cell)

    def _in_file(self, mark: str) -> str:
        return mark[0] if mark == "\0\0" else f"\\{self._restored[mark]}"


def csv_batches(files: Sequence[SourceFile], source: FileInput, width: int) -> ReadNumbered:
    """For ``mapInArrow`` over numbers of ``files``: ``width`` cells, the text of a malformed row, and the file."""

    def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
        rows = islice(csv_rows(file, source), 1, None)
        return (_batch(chunk, file, width) for chunk in _chunks(rows))

    return _of_every_file(files, read)


def line_batches(files: Sequence[SourceFile], source: FileInput) -> ReadNumbered:
    """For ``mapInArrow`` over numbers of ``files``: a line without its end, and the file."""

    def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
        lines, name = (([line.rstrip("\r\n")], line) for line in lines_of(file, source.encoding)), str(file)
        for chunk in _chunks(lines):
            yield _arrow([[text for cells, _ in chunk for text in cells or []], [name] * len(chunk)])

    return _of_every_file(files, read)


def _of_every_file(files: Sequence[SourceFile], read: Callable[[SourceFile], Iterator[pa.RecordBatch]]) -> ReadNumbered:
    def read_numbered(numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in (number for batch in numbers for number in batch.column(0).to_pylist()):
            try:
                yield from read(files[number])
            except (OSError, EOFError, zlib.error) as error:
                shown = quote(str(files[number]))  # as Spark names it
                raise DataError(f"Encountered error while reading file {shown} : {error}") from error

    return read_numbered


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk, characters = list[Row](), 0
    for row in rows:
        chunk.append(row)
        characters += len(row[1])
        if characters > _BATCH_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _batch(chunk: Sequence[Row], file: SourceFile, width: int) -> pa.RecordBatch:
    nothing: list[str | None] = [None] * width
    columns = zip(*[nothing if cells is None else [cell or None for cell in cells] for cells, _ in chunk], strict=True)
    malformed = [text.rstrip("\r\n") if cells is None else None for cells, text in chunk]
    return _arrow([*columns, malformed, [str(file)] * len(chunk)])


def _arrow(columns: Sequence[Sequence[str | None]]) -> pa.RecordBatch:
    arrays = [pa.array(column, pa.string()) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, names=[f"_{number}" for number in range(len(arrays))])
