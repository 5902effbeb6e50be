"""CSV and JSON Lines through Spark: every row comes out as it was written, whichever of the two readers takes it."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.errors import DataError
from precise_core.intake.cleaning import clean_events
from precise_core.intake.read import read_source
from precise_core.sources.cells import Batch, cell
from precise_core.sources.config import FileInput, FilesSource, TimeReading
from precise_core.sources.files import read_time
from precise_core.sources.formats import read_cells
from precise_core.sources.text_files import look
from tests.ingest_world import Shop
from tests.sources.test_csv_rows import FIRST_CELLS, as_csv

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def cells_of(spark: SparkSession, files: Sequence[Path], names: Sequence[str], **keys: Any) -> DataFrame:
    source = FileInput(path=str(files[0]), **keys)
    return read_cells(spark, source, Batch(tuple(files)), [(name, "text") for name in names])


def cleaned_events(spark: SparkSession, spec: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Users of the accepted events, and the reasons of the others."""
    raw = read_source(spark, FilesSource.model_validate({"kind": "files", "events": spec})).events
    assert raw is not None
    checked = clean_events(raw, raw.select("item_id").distinct(), not_after=NOW).checked.select("user_id", "reason")
    rows = checked.collect()
    return [row["user_id"] for row in rows if row["reason"] is None], [row["reason"] for row in rows if row["reason"]]


def written_as(frame: pd.DataFrame, file: Path) -> Path:
    if file.suffix == ".csv":
        frame.to_csv(file, index=False, quoting=csv.QUOTE_ALL)
    elif file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    return file


def rows_by_file(frame: DataFrame, names: Sequence[str]) -> dict[str, Counter[tuple[str, ...]]]:
    found: dict[str, Counter[tuple[str, ...]]] = {}
    for row in frame.select(*[cell(name) for name in names], "source_file", "problem").collect():
        assert row["problem"] is None
        found.setdefault(Path(row["source_file"]).name, Counter())[tuple(text or "" for text in row[: len(names)])] += 1
    return found


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_csv_files_come_out_as_they_were_written(spark: SparkSession, tmp_path: Path, delimiter: str) -> None:
    draw, names = random.Random(delimiter), ["who", "what", "at"]
    files, written = list[Path](), dict[str, Counter[tuple[str, ...]]]()
    for number in range(40):
        # Without strange quotes and line breaks in its cells a file goes to Spark's own reader.
        firsts, marks = draw.choice([(FIRST_CELLS[:2], "ab,;5 é\t"), (FIRST_CELLS, 'ab"", \n\r\t\\')])
        rows = [
            [draw.choice(firsts), *("".join(draw.choices(marks, k=draw.randrange(6))) for _ in range(2))]
            for _ in range(draw.randrange(1, 8))
        ]
        content = as_csv([names, *rows], draw.choice, delimiter).encode()
        file = tmp_path / f"{number}.csv{draw.choice(['', '.gz'])}"
        file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
        files.append(file)
        written[file.name] = Counter(map(tuple, rows))
    source = FileInput(path=str(files[0]), delimiter=delimiter)
    assert {look(file, source, "csv").is_plain for file in files} == {True, False}
    assert rows_by_file(cells_of(spark, files, names, delimiter=delimiter), names) == written


def test_what_spark_wrote_with_its_escape_character_is_read(spark: SparkSession, tmp_path: Path) -> None:
    rows = [("1", 'say "a", "b"'), ("2", "C:\\temp"), ("3", "two\nlines"), ("4", "plain"), ("5", 'ends with "')]
    frame = spark.createDataFrame(rows, "id string, name string").coalesce(1)
    frame.write.csv(str(tmp_path / "written"), header=True)
    (file,) = (tmp_path / "written").glob("*.csv")
    found = rows_by_file(cells_of(spark, [file], ["id", "name"], escape="\\"), ["id", "name"])
    assert found[file.name] == Counter(rows)
    rejected = cells_of(spark, [file], ["id"]).where("problem is not null").collect()
    assert any('\\"' in json.loads(row["raw"])["line"] for row in rejected), "without the key such rows are malformed"


def test_a_relative_path_is_read_by_workers_that_are_elsewhere(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two lines.csv").write_text('id,name\n1,"a\nb"\n', encoding="utf-8")
    (tmp_path / "log.jsonl").write_bytes('{"id": "ü", "name": "x"}\n'.encode("utf-16"))
    monkeypatch.chdir(tmp_path)
    for name, keys in (("two lines.csv", {}), ("log.jsonl", {"encoding": "utf-16"})):
        (row,) = cells_of(spark, [Path(name)], ["id", "name"], **keys).collect()
        assert row["problem"] is None and row["source_file"] == str((tmp_path / name).resolve())


def test_an_id_of_blanks_alone_is_missing_in_any_script(spark: SparkSession, tmp_path: Path) -> None:
    users = ["u", "\u00a0", "\u3000 ", "\u200b", "\u00ad\u2060", "a\u00a0b"]
    file = written_as(pd.DataFrame({"u": users, "i": "a", "t": "2024-03-01"}), tmp_path / "log.csv")
    found, reasons = cleaned_events(spark, {"path": str(file), "user": "u", "item": "i", "time": "t"})
    assert sorted(found) == ["a\u00a0b", "u"] and reasons == ["missing_user_id"] * 4


JSON_LINES: list[tuple[str, list[str | None] | None]] = [
    ('{"u": "a", "ID": "b", "id": "c"}', ["a", "c", "b"]),
    ('{"u": 12345678901234567890}', ["12345678901234567890", None, None]),
    ('{"u": 123456789012345678.25, "id": 10000000.0, "ID": 1e7}', ["123456789012345678.25", "10000000.0", "1e7"]),
    ('{"u": true, "id": null, "ID": NaN}', ["true", None, "NaN"]),
    ('{"u": {"a": 1.1, "b": ["é"]}, "id": [1, "x"]}', ['{"a":1.1,"b":["é"]}', '[1,"x"]', None]),
    ('{"u": "first", "u": "last"}', ["last", None, None]),
    ('{"U": "other case"}', [None, None, None]),
    ('{"u": "\\ud800", "id": "\\ud83d\\ude00", "ID": "\\\\ud800"}', ["\ufffd", "😀", "\\ud800"]),
    ('{"u": "a\\nb", "id": "\\u0000"}', ["a\nb", "\0", None]),
    ('{"u": "1"}{"u": "2"}', None),
    ('{"u": "1"} and more', None),
    ("{'u': '1'}", None),
    ('{"u": "1"', None),
    ('["u"]', None),
    ('{"u": 007}', None),
    ("[" * 10_000, None),
    (f'{{"u": true, "id": [1, {"1" * 5000}], "x": {"1" * 5000}}}', ["true", "[1,Infinity]", None]),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_lines_come_out_as_they_were_written(spark: SparkSession, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "log.jsonl"
    ends = ("\n", "\r\n", "\r", "\n\n", "\n \t\r\n")
    text = "".join(line + ends[number % len(ends)] for number, (line, _) in enumerate(JSON_LINES))
    file.write_bytes(text.encode(encoding))
    names = ["u", "id", "ID"]
    found = cells_of(spark, [file], names, encoding=encoding)
    rows = {row["raw"]: row for row in found.collect()}
    assert len(rows) == len(JSON_LINES)
    for line, expected in JSON_LINES:
        row = rows[line]
        assert (row["problem"] is None) == (expected is not None), line
        assert [row[f"cell:{name}"] for name in names] == (expected or [None] * 3), line


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_an_encoding_is_read_with_its_key_and_no_two_ids_become_one_without(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    users, file = ["café", "cafè", "ann"], tmp_path / name

    def events(written: str, user: str, **keys: str) -> tuple[set[str], Counter[str]]:
        frame = pd.DataFrame({user: users, "item": "i", "time": "2024-03-01"})
        if name == "log.csv":
            text = frame.to_csv(index=False)
        else:
            text = frame.to_json(orient="records", lines=True, force_ascii=False)
        file.write_bytes(text.encode(written))
        spec = {"path": str(file), "user": user, "item": "item", "time": "time", **keys}
        accepted, rejected = cleaned_events(spark, spec)
        return set(accepted), Counter(rejected)

    assert events("latin-1", "name") == ({"ann"}, Counter({"invalid_id": 2}))
    assert events("latin-1", "prénom", encoding="latin-1") == (set(users), Counter())
    assert events("utf-16", "prénom", encoding="utf-16") == (set(users), Counter())
    with pytest.raises(DataError, match="is UTF-16, not utf-8; set `encoding: utf-16`"):
        events("utf-16", "name")


HOSTILE = ["u\r", "u\n", "u\t1", "u\x01", "u\x7f", "u\x85", "u\u2028", "\ufeffu", "u\ufffd"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_control_character_makes_no_id_in_any_format(spark: SparkSession, tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"user": [*HOSTILE, "u", " u ", "ü"], "item": "i", "time": "2024-03-01"})
    file = written_as(frame, tmp_path / f"log.{suffix}")
    spec = {"path": str(file), "user": "user", "item": "item", "time": "time"}
    accepted, rejected = cleaned_events(spark, spec)
    assert set(accepted) == {"u", " u ", "ü"} and rejected == ["invalid_id"] * len(HOSTILE)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_null_values_are_missing_in_every_format(spark: SparkSession, tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"user": ["NULL", " NULL", "null", "", "ann"], "item": "i", "time": "2024-03-01"})
    file = written_as(frame, tmp_path / f"log.{suffix}")
    spec = {"path": str(file), "user": "user", "item": "item", "time": "time", "null_values": ["NULL", "\\N"]}
    accepted, rejected = cleaned_events(spark, spec)
    assert set(accepted) == {"null", "ann"} and rejected == ["missing_user_id"] * 3


def test_a_night_of_files_as_people_have_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path)
    catalog = 'item,name,changed\r\na,"Heat (1995)\nb,"Two\r\nlines",\nc,5" pipe,\rd,D,\n'
    (tmp_path / "items.csv").write_text(catalog, encoding="utf-8", newline="")
    head, tail = "id,who,what,at,did,note\r", ",2024-03-01T08:00:00Z,click,"
    log = [f"1,ann,b{tail}\n", f'2,"bob",c{tail}\r\n', f"3,NULL,c{tail}\r", f"4,nan,d{tail}\n", f"5,NULL,b{tail}"]
    (tmp_path / "log" / "1.csv").write_text(head + "".join(log), encoding="utf-8", newline="")
    log = [f'6,"eve",b{tail}"one\nand two"\n', f"7,café,b{tail}\r\n", f"8,cafè,b{tail}"]
    (tmp_path / "log" / "2.csv").write_bytes((head + "".join(log)).encode("latin-1"))
    assert shop.run("ingest") == 0
    out = capsys.readouterr().out

    def said(text: str) -> bool:
        return "".join(text.split()) in "".join(out.split())

    titles = shop.rows("items").set_index("item_id")["title"].to_dict()
    assert titles == {"b": "Two\r\nlines", "c": '5" pipe', "d": "D"}
    assert shop.rows("items_rejected")["reason"].to_list() == ["malformed_row"]
    users = {"1": "ann", "2": "bob", "3": "NULL", "4": "nan", "5": "NULL", "6": "eve"}
    assert shop.rows("events").set_index("event_id")["user_id"].to_dict() == users
    assert shop.reasons() == {"invalid_id": 2}
    assert said("warning: events: 2 rows have 'NULL' in column 'who'") and said("`source.events.null_values`")
    assert said("warning: events: 1 rows have 'nan' in column 'who'")
    assert said("2.csv: line 4 is not utf-8")
    assert not said("in column 'what'")


@settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_times_of_every_unit_are_those_of_python(spark: SparkSession, data: st.DataObject) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    instants = st.datetimes(datetime(1900, 1, 1), datetime(9999, 1, 1)).map(lambda when: when.replace(tzinfo=UTC))
    drawn = data.draw(st.lists(instants, min_size=40, max_size=40))
    micros = [(when - epoch) // timedelta(microseconds=1) for when in drawn]
    as_text = [
        {
            "seconds": f"{'-' if number < 0 else ''}{abs(number) // 10**6}.{abs(number) % 10**6:06d}",
            "milliseconds": f"{'-' if number < 0 else ''}{abs(number) // 1000}.{abs(number) % 1000:03d}",
            "microseconds": str(number),
            "iso": when.isoformat(),
            "zone": when.astimezone(tz=None).isoformat(sep=" "),
        }
        for when, number in zip(drawn, micros, strict=True)
    ]
    frame = spark.createDataFrame(as_text)
    units = {unit: TimeReading(unit=unit) for unit in ("seconds", "milliseconds", "microseconds")}
    readings = {**units, "iso": TimeReading(), "zone": TimeReading()}
    found = frame.select(*[F.unix_micros(read_time(F.col(name), reading)) for name, reading in readings.items()])
    assert [list(row) for row in found.collect()] == [[number] * len(readings) for number in micros]
