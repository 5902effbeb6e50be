"""CSV as it comes: what was written is read, whatever quoting, line ends and encoding; what is broken costs a line."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precise_core.errors import DataError
from precise_core.sources import csv_rows as module
from precise_core.sources.config import FileInput
from precise_core.sources.csv_rows import csv_rows, header_of
from precise_core.sources.text_files import Look, look
from precise_core.sources.text_formats import csv_columns, jsonl_columns, text_warnings

LINE_ENDS = ("\n", "\r\n", "\r")
DELIMITERS = (",", ";", "\t", "|")
ENCODINGS = ("utf-8", "utf-16", "utf-16-be", "utf-32", "cp1252", "shift_jis", "gb18030")
FIRST_CELLS = ("u1", "ü", '5" pipe', "x,y", "two\nlines")


def a_source(file: Path, **keys: Any) -> FileInput:
    return FileInput(path=str(file), **keys)


def as_csv(rows: list[list[str]], choose: Callable[[Sequence[Any]], Any], delimiter: str) -> str:
    """Rows as some program writes them: quotes where they must be, or may be, and any line end after each row."""
    text = ""
    for row in rows:
        cells = []
        for cell in row:
            must = cell.startswith('"') or any(mark in cell for mark in (delimiter, "\n", "\r"))
            quoted = '"' + cell.replace('"', '""') + '"'
            cells.append(quoted if must or choose([False, True]) else cell)
        text += delimiter.join(cells) + choose(LINE_ENDS)
    return text.rstrip("\r\n") if choose([False, True]) and not rows[-1][-1].endswith(("\n", "\r")) else text


def tables() -> st.SearchStrategy[list[list[str]]]:
    cell = st.text(st.sampled_from('ab"",;|\t\n\r \\5'), max_size=6)
    # The first cell is never blank: a blank line is left out.
    row = st.tuples(st.sampled_from(FIRST_CELLS), cell, cell).map(list)
    return st.lists(row, min_size=1, max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_was_written_is_read(tmp_path: Path, data: st.DataObject) -> None:
    encoding, delimiter = data.draw(st.sampled_from(ENCODINGS)), data.draw(st.sampled_from(DELIMITERS))
    rows = [["who", "what", "at"], *data.draw(tables())]
    text = as_csv(rows, lambda options: data.draw(st.sampled_from(options)), delimiter)
    file = tmp_path / "log.csv"
    file.write_bytes(text.encode(encoding, "replace"))
    rows = [[cell.encode(encoding, "replace").decode(encoding) for cell in row] for row in rows]
    source = a_source(file, delimiter=delimiter, encoding=encoding)
    assert [cells for cells, _ in csv_rows(file, source)] == rows
    assert [cells for cells, _ in csv_rows(file, source)] == list(
        csv.reader(io.StringIO(text.encode(encoding, "replace").decode(encoding), newline=""), delimiter=delimiter)
    )
    if look(file, source, "csv").is_plain:
        alone = [next(csv.reader([line], delimiter=delimiter)) for line in io.StringIO(text, newline="")]
        assert alone == rows, "a file that Spark reads line by line has a row per line"
    else:
        has_break = any(mark in cell for row in rows for cell in row for mark in "\r\n")
        has_stray = any('"' in cell and not cell.startswith('"') for row in rows for cell in row)
        assert encoding != "utf-8" or has_break or has_stray


GOOD = ["2", "b"]
BROKEN: dict[str, tuple[str, list[list[str] | None]]] = {
    "never closed": ('1,"Heat (1995)\n2,b\n2,b\n', [None, GOOD, GOOD]),
    "never closed, at the end": ('2,b\n1,"Heat', [GOOD, None]),
    "closed by the next row's quote": ('1,"Heat\n2,b\n3,"Casino"\n', [None, GOOD, ["3", "Casino"]]),
    "closed where a cell of the next row ends": ('1,"Heat\n2,b\n3,",x"\n', [None, GOOD, ["3", ",x"]]),
    "all cells quoted": ('"1","Heat\n"2","b"\n', [None, GOOD]),
    "text after the quote": ('1,"a"b\n2,b\n', [None, GOOD]),
    "a blank after the quote": ('1,"a" \n2,b\n', [None, GOOD]),
    "escaped as MySQL does": ('1,"a \\"b\\" c"\n2,b\n', [None, GOOD]),
    "too few cells, too many": ("1\n1,2,3\n2,b\n1,2,\n", [None, None, GOOD, None]),
    "too many cells over two lines": ('1,"x\ny",3\n2,b\n', [None, None, GOOD]),
    "a quote inside": ('1,5" pipe\n2,b"\n', [["1", '5" pipe'], ["2", 'b"']]),
    "blank lines": ("\n2,b\n\r\n  \t\n2,b\n\n", [GOOD, GOOD]),
    "rows of nothing": (",\n2,b\n", [["", ""], GOOD]),
    "a line break in a cell": ('1,"a\nb\r\nc\rd"\n2,b\n', [["1", "a\nb\r\nc\rd"], GOOD]),
    "blanks around cells": (' 1 , "b"\n', [[" 1 ", ' "b"']]),
    "a NUL": ("1,a\0b\n2,b\n", [["1", "a\0b"], GOOD]),
    "CR CR LF": ("1,a\r\r\n2,b\r\r\n", [["1", "a"], GOOD]),
    "other line ends of Unicode": ("1,a\u2028b\x85c\x0bd\n2,b\n", [["1", "a\u2028b\x85c\x0bd"], GOOD]),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("header", ["who,what\n", "\ufeffwho,what\r\n", '"who","what"\r', "\n \nwho,what\n"])
def test_a_broken_row_costs_its_first_line_and_nothing_else(tmp_path: Path, name: str, header: str) -> None:
    text, expected = BROKEN[name]
    file = tmp_path / "items.csv"
    file.write_text(header + text, encoding="utf-8", newline="")
    found = list(csv_rows(file, a_source(file)))
    assert [cells for cells, _ in found] == [["who", "what"], *expected]
    assert "".join(line for _, line in found[1:] if line.strip()).split() == text.split(), "every text is somewhere"


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_ROW", 10_000)
    file = tmp_path / "items.csv.gz"
    rows = [f"{number},item {number}\n" for number in range(20_000)]
    file.write_bytes(gzip.compress(("id,name\n" + '0,"Heat (1995)\n' + "".join(rows)).encode()))
    found = [cells for cells, _ in csv_rows(file, a_source(file))]
    assert found[1] is None and len(found) == 20_002 and found[2:] == [row.strip().split(",") for row in rows]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('1,"Cable,5\n2,Mouse,7\n3,Monitor 27",99\n', 3),  # two quotes that are inch marks: rows 2 and 3 are in a cell
        ('0,x,1\n1,"Cable,5\n2,Mouse,7\n3,Lamp,8\n4,Monitor 27",99\n', 4),
        ('1,"two\nlines",5\n2,"three\nshort\nlines",7\n', None),
    ],
)
def test_a_row_inside_a_quoted_cell_is_warned_of(tmp_path: Path, rows: str, line: int | None) -> None:
    file = tmp_path / "items.csv"
    file.write_text("id,name,price\n" + rows, encoding="utf-8")
    said = [text for text in text_warnings(file, a_source(file), "csv") if "would be a row by itself" in text]
    assert said == ([] if line is None else [f"warning: {file}: line {line} stands inside a quoted cell and would be a "
                                             "row by itself: is a quote not closed?"])  # fmt: skip


def test_of_a_header_that_may_be_a_row_nothing_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text('user-17,"abc\nuser-18,x\n' + "y\n" * 1000, encoding="utf-8")
    with pytest.raises(DataError, match="the header is not CSV.*user-17") as raised:
        header_of(file, a_source(file))
    assert "user-17" not in raised.value.stored and len(str(raised.value)) < 500


def test_a_replacement_character_that_the_file_has_is_no_wrong_encoding(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("id,name\n1,M\ufffdller\n2,Ä\n", encoding="utf-8")
    assert look(file, a_source(file), "csv") == Look()
    file.write_bytes("id,name\n1,M\ufffdller\n".encode() + b"2,\xc4\n")
    assert look(file, a_source(file), "csv").undecodable_line == 3


def test_escape_characters_as_pandas_reads_them(tmp_path: Path) -> None:
    text = 'id,name\n1,"a \\"b\\" c"\n2,a\\,b\n3,"two\nlines"\n4,"C:\\\\dir\\\\"\n'
    text += '5,"doubled "" too"\n6,"x\\\ny"\n7,x\\\r\ny\n'
    file = tmp_path / "items.csv"
    file.write_text(text, encoding="utf-8", newline="")
    found = [cells for cells, _ in csv_rows(file, a_source(file, escape="\\"))]
    frame = pd.read_csv(io.StringIO(text), escapechar="\\", dtype=str, skiprows=[], lineterminator=None, nrows=6)
    assert found[1:7] == frame.to_numpy().tolist()
    assert found[7] == ["7", "x\r\ny"]
    file.write_text("id,name\n1,\\N\n2,C:\\temp\n3,a\0b\\\n", encoding="utf-8", newline="")
    found = [cells for cells, _ in csv_rows(file, a_source(file, escape="\\"))]
    assert found[1:3] == [["1", "\\N"], ["2", "C:\\temp"]], "before anything else it is text"
    assert not look(file, a_source(file, escape="\\"), "csv").is_plain


REFUSED = {
    "utf-16 without the key": ("who,what\n".encode("utf-16"), "is UTF-16, not utf-8; set `encoding: utf-16`"),
    "its mark is missing": (
        "who,what\n1,2\n".encode("utf-16-be"),
        "is UTF-16-BE, not utf-8; set `encoding: utf-16-be`",
    ),
    "utf-32 without the key": ("who,what\n".encode("utf-32"), "is UTF-32, not utf-8"),
    "a spreadsheet": (b"PK\x03\x04rest", "a zip archive or a spreadsheet"),
    "compressed under a plain name": (
        gzip.compress(b"who,what\n"),
        "compressed with gzip, which its name does not say",
    ),
    "Parquet": (b"PAR1....", "is Parquet"),
    "a header that is no CSV": (b'who,"what\n1,2\n', "the header is not CSV"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    file = tmp_path / "log.csv"
    file.write_bytes(content)
    with pytest.raises(DataError) as told:
        csv_columns(file, a_source(file))
    assert str(told.value).startswith(f"{file}: ") and message in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["log.csv.gz", "log.csv.bz2"])
def test_packed_files_that_are_cut_off_are_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(b"who,what\n" * 1000)[:-12])
    with pytest.raises(DataError, match=f"{name}: cannot be unpacked, damaged or cut off"):
        csv_columns(file, a_source(file, format="csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n {"a": 1},\n {"a": 2}\n]', "is a JSON array"),
        ('[{"a": 1}, {"a": 2}]', "is a JSON array"),
        ('[{"a": 1},\n{"a": 2}]\n', "is a JSON array"),
        ('{\n "a": 1\n}\n', "is JSON over several lines"),
    ],
)
def test_json_that_is_not_json_lines_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "log.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        jsonl_columns(file, a_source(file))
    file.write_text('[1, 2]\n{"a": 1}\n', encoding="utf-8")
    assert jsonl_columns(file, a_source(file)) == {"a": "number"}


def test_the_first_line_with_bytes_that_do_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_bytes("who,what\r\n\r1,ü\ncafé,1\ncafè,1\n".encode("latin-1"))
    found = look(file, a_source(file), "csv")
    assert found == Look(is_plain=True, undecodable_line=3)
    assert "line 3 is not utf-8" in text_warnings(file, a_source(file), "csv")[0]
    assert not text_warnings(file, a_source(file, encoding="latin-1"), "csv")
    assert "line 3 is not ascii" in text_warnings(file, a_source(file, encoding="ascii"), "csv")[0]
    file.write_text('who,what\n1,"a \\"b\\" c"\n', encoding="utf-8")
    assert "escape" in text_warnings(file, a_source(file), "csv")[0]
    assert header_of(file, a_source(file)) == ("who", "what")


@pytest.mark.parametrize("value", ["::", "", "a", "7", '"', "\\", "\n", "\r", "\\t"])
def test_a_delimiter_is_one_mark(value: str) -> None:
    with pytest.raises(ValueError, match="must be one character") as told:
        FileInput(path="log.csv", delimiter=value)
    assert ("a tab is" in str(told.value)) == (value == "\\t")


@pytest.mark.parametrize("value", ["base64", "rot13", "unicode_escape", "idna", "utf-7", "", "ü"])
def test_an_encoding_is_one_of_text(value: str) -> None:
    with pytest.raises(ValueError, match="no text encoding"):
        FileInput(path="log.csv", encoding=value)


def test_keys_of_text_are_refused_where_nothing_reads_them() -> None:
    with pytest.raises(ValueError, match="`encoding` is for csv and jsonl, not for parquet"):
        FileInput(path="log.parquet", encoding="latin-1")
    with pytest.raises(ValueError, match="`delimiter` is for csv, not for jsonl"):
        FileInput(path="log.jsonl", delimiter=";")
