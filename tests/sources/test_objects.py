"""Files of an object store are named as those on a disk: the same rules, on the same names."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from precise_core.errors import DataError, StoreError
from precise_core.sources.listing import list_files, look_up, sha256_of
from precise_core.sources.objects import is_there
from precise_core.sources.text_files import lines_of
from precise_core.store import store_at
from tests.moto_server import s3_server

BUCKET = "s3a://sources"
FILES = (
    "log/1.csv", "log/date=2024-03-01/2.csv", "log/date=2024-03-01/_temporary/0/part.csv", "log/_SUCCESS",
    "log/.hidden.csv", "log/_delta_log/0.json", "_out/1.csv", "_out/_temporary/2.csv", "team [eu]/a?b.csv",
    "team [eu]/aXb.csv", "team e/3.csv", "100% of/a%20b.csv", "wäre/p+q=r&s.csv",
)  # fmt: skip
PATTERNS = (
    "log", "log/", "log/*", "log/**", "log/**/*.csv", "*", "*/*", "l[o]g", "**/*.csv", "log/1.csv", "_out", "_*/*.csv",
    "*/_*", "team [eu]", "team [eu]/a?b.csv", "team [eu]/*", "team ?eu]/*.csv", "team [e]/*.csv", "100% of/a%20b.csv",
    "100% of/a b.csv", "wäre/*", "nothing", "nothing/*.csv", "log/1.csv/x",
)  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The same files in a folder and in a bucket."""
    folder = tmp_path_factory.mktemp("sources")
    with s3_server("sources") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in FILES:
            store_at(folder).put(name, name)
            store_at(BUCKET).put(name, name)
        yield folder, BUCKET


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_names_the_same_files(both: tuple[Path, str], pattern: str) -> None:
    folder, bucket = both
    here, there = look_up(f"{folder}/{pattern}"), look_up(f"{bucket}/{pattern}")
    assert [str(file).replace(bucket, str(folder)) for file in there.files] == [str(file) for file in here.files]
    assert [note.replace(bucket, str(folder)) for note in there.notes] == here.notes
    for file in there.files:
        assert list(lines_of(file, "utf-8")) == [str(file).removeprefix(f"{bucket}/")]


def test_an_object_is_known_by_its_etag_and_read_where_it_lies(both: tuple[Path, str]) -> None:
    store = store_at(both[1])
    store.put("a.csv.gz", gzip.compress(b"x,y\n"))
    (first,) = list_files(f"{BUCKET}/a.csv.gz")
    assert list(lines_of(first, "utf-8")) == ["x,y\n"] and is_there(str(first)) and first.suffix == ".gz"
    store.put("a.csv.gz", gzip.compress(b"x,z\n"))
    (second,) = list_files(f"{BUCKET}/a.csv.gz")
    assert first.stat().st_size == second.stat().st_size and sha256_of(first) != sha256_of(second)
    store.delete("a.csv.gz")
    assert not is_there(str(second))
    with pytest.raises(DataError, match=r"s3a://sources/a.csv.gz: no such file, and no file matches it"):
        list_files(f"{BUCKET}/a.csv.gz")


def test_a_mark_of_a_folder_is_no_file(both: tuple[Path, str]) -> None:
    assert both
    client = boto3.client("s3")
    for name in ("marked/", "marked/day/", "marked/day/1.csv"):
        client.put_object(Bucket="sources", Key=name, Body=b"x" if name.endswith("csv") else b"")
    assert [str(file) for file in look_up(f"{BUCKET}/marked").files] == [f"{BUCKET}/marked/day/1.csv"]


def test_a_bucket_that_is_not_there_is_named(both: tuple[Path, str]) -> None:
    assert both
    with pytest.raises(StoreError, match=r"s3a://nowhere/.*: cannot be listed \(NoSuchBucket"):
        look_up("s3a://nowhere/*.csv")
