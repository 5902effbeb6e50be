"""The published archive of Amazon reviews with titles becomes the files that the adapter reads."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.amazon_titles_archive import main, tables_of
from precise_core.errors import DataError

USERS = pd.DataFrame(
    {"UserID": [100, 101], "ItemID": [[7, 9, 7], [8]], "Timestamp": [[86_400, 86_400, 172_800], [1_405_296_000]]}
)
ITEMS = pd.DataFrame({"ItemID": [7, 8, 9], "Title": ["Brush &amp; comb", "Soap", "Öl"]})


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def archive(folder: Path, users: Any = USERS, items: Any = ITEMS) -> Path:
    path = folder / "proc.zip"
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("user2item.pkl", pickle.dumps(users))
        parts.writestr("item2title.pkl", pickle.dumps(items))
    return path


def test_every_event_keeps_its_user_its_day_and_its_place(tmp_path: Path) -> None:
    events, items = tables_of(archive(tmp_path))
    rows = events.to_pylist()
    assert [(row["user_id"], row["item_id"], row["position"]) for row in rows] == [
        ("100", "7", 0),
        ("100", "9", 1),
        ("100", "7", 2),
        ("101", "8", 0),
    ]
    assert [row["event_ts"].isoformat() for row in rows[1:3]] == [
        "1970-01-02T00:00:00+00:00",
        "1970-01-03T00:00:00+00:00",
    ]
    assert rows[3]["event_ts"].isoformat() == "2014-07-14T00:00:00+00:00"
    assert items.to_pydict() == {"item_id": ["7", "8", "9"], "title": ["Brush &amp; comb", "Soap", "Öl"]}


@pytest.mark.parametrize(
    ("users", "message"),
    [(Harmful(), "posix.system in a pickled table"), ([1, 2], "a list where a table is expected")],
    ids=["runs a command", "no table"],
)
def test_a_pickle_of_anything_but_a_table_is_refused(tmp_path: Path, users: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tables_of(archive(tmp_path, users=users))


def test_another_archive_writes_nothing_and_says_what_belongs_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = archive(tmp_path), tmp_path / "out"
    assert main(["--archive", str(path), "--domain", "toys", "--to", str(folder)]) == 2
    assert f"{path}: not the archive of this domain" in capsys.readouterr().out
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"not a zip"], ids=["missing", "no zip"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "proc.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="proc.zip: expected a zip archive with user2item.pkl and item2title.pkl"):
        tables_of(path)
