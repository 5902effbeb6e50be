"""The contract of a store, against a folder and against a server: who writes first wins, and nothing is seen half."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precise_core.errors import CheckpointError, ConfigError, ConflictError, StoreError
from precise_core.store import Store, store_at
from precise_core.store.sums import write_sums

WRITERS = 6
FOLDER = "things/v1"
PARTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=40)
NAMES = st.lists(PARTS.filter(lambda part: part not in (".", "..") and part[-8:] != ".writing"), min_size=1, max_size=3)

DYING_UPLOAD = """
import os, signal, sys
from precise_core.store import store_at
from precise_core.store.sums import write_sums

store = store_at(sys.argv[1])
with store.draft("things/v1") as draft:
    (draft / "a").write_text("a")
    (draft / "b").write_text("b")
    write_sums(draft)
    if store.local is not None:  # renamed in one step, so that before it is as late as it can be
        os.kill(os.getpid(), signal.SIGKILL)
    import obstore
    put, sent = obstore.put, []

    def dying(*arguments, **named):
        if sent:
            os.kill(os.getpid(), signal.SIGKILL)
        sent.append(put(*arguments, **named))

    obstore.put = dying
    store.put_folder(draft, "things/v1")
"""


def upload(store: Store, files: dict[str, str], folder: str = FOLDER) -> None:
    with store.draft(folder) as draft:
        for name, text in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text)
        write_sums(draft)
        store.put_folder(draft, folder)


def files_of(folder: Path) -> dict[str, str]:
    found = (file for file in folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    return {file.relative_to(folder).as_posix(): file.read_text() for file in found}


def test_what_is_put_is_read_listed_and_removed(store: Store, root: str) -> None:
    assert store.get("rankers/latest.json") is None and store.list() == [] and not store.delete("rankers/latest.json")
    store.put("rankers/latest.json", "old")
    store.put("rankers/latest.json", "néw")
    store.put("sizes.json", b"\x00\xff")
    store.put("rankers2/x", "beside")
    found = store_at(root).get("rankers/latest.json")
    assert found is not None and found.text == "néw"
    assert abs((datetime.now(UTC) - found.modified).total_seconds()) < 60
    assert [(entry.name, entry.size_bytes) for entry in store.list()] == [
        ("rankers/latest.json", 4),
        ("rankers2/x", 6),
        ("sizes.json", 2),
    ]
    assert [entry.name for entry in store.list("rankers")] == ["rankers/latest.json"]
    assert store.names() == ["rankers", "rankers2", "sizes.json"] and store.names("rankers") == ["latest.json"]
    assert store.names("nothing") == [] and store.list("nothing") == []
    assert store.delete("rankers/latest.json") and store.get("rankers/latest.json") is None


def test_a_folder_has_another_state_when_something_has_come_or_gone(store: Store) -> None:
    seen = [store.state("log")]
    for change in (lambda: store.put("log/1", "x"), lambda: store.put("log/2", "x"), lambda: store.delete("log/1")):
        change()
        assert store.state("log") == store.state("log") not in seen
        seen.append(store.state("log"))


def test_one_object_is_found_and_moved(store: Store) -> None:
    store.put("x.old/part=a b/1", "x")
    store.put("x/2", "there")
    assert store.find("x.old/part=a b/1") in store.list() and store.find("x.old") is store.find("x/1") is None
    store.move("x.old/part=a b/1", "x/part=a b/1")
    store.move("x/2", "x/part=a b/1")
    assert [entry.name for entry in store.list()] == ["x/part=a b/1"]
    moved = store.get("x/part=a b/1")
    assert moved is not None and moved.text == "there"


def test_a_bucket_says_whether_it_keeps_what_is_removed(store: Store, lake: str) -> None:
    assert lake and not store.keeps_versions()
    client = boto3.client("s3")
    client.create_bucket(Bucket="kept")
    for status, is_kept in (("Enabled", True), ("Suspended", False)):
        client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": status})
        assert store_at("s3a://kept/lake").keeps_versions() == is_kept


def test_of_many_who_write_what_is_absent_one_wins(root: str) -> None:
    def write(name: str, writer: int) -> bool:
        try:
            store_at(root).put_if_absent(name, f"of {writer}")
        except ConflictError as error:
            assert name in str(error)
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(8):
            won = list(pool.map(write, [f"lock-{number}"] * WRITERS, range(WRITERS)))
            found = store_at(root).get(f"lock-{number}")
            assert sum(won) == 1 and found is not None and found.text == f"of {won.index(True)}"


def test_the_same_content_once_more_is_no_conflict(store: Store) -> None:
    """A client that repeats a request after its answer was lost meets what it has written itself."""
    first = store.put_if_absent("a", "one")
    second = store.put_if_match("a", "two", store.put_if_absent("a", "one"))
    assert store.put_if_match("a", "two", first) and store.put_if_match("a", "three", second)


def test_a_stale_tag_loses(store: Store) -> None:
    tag = store.put("state/a", "one")
    newer = store.put_if_match("state/a", "two", tag)
    with pytest.raises(ConflictError, match="state/a"):
        store.put_if_match("state/a", "three", tag)
    found = store.get("state/a")
    assert found is not None and found.text == "two"
    assert store.put_if_match("state/a", "three", found.tag)
    store.put("state/a", "four")
    with pytest.raises(ConflictError):
        store.put_if_match("state/a", "five", newer)
    store.delete("state/a")
    with pytest.raises(ConflictError):
        store.put_if_match("state/a", "six", newer)
    assert store.get("state/a") is None


@pytest.mark.parametrize("seed", range(3))
def test_no_change_is_lost_between_writers_who_read_first(root: str, seed: int) -> None:
    """Each adds its own lines to one object; pauses between reading and writing come from the seed."""
    store_at(root).put("lines", "")

    def add(writer: int) -> None:
        own, pauses = store_at(root), random.Random(f"{seed}-{writer}")
        for line in range(3):
            while True:
                found = own.get("lines")
                assert found is not None
                time.sleep(pauses.random() / 200)
                try:
                    own.put_if_match("lines", f"{found.text}{writer}.{line}\n", found.tag)
                except ConflictError:
                    continue
                break

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(add, range(WRITERS)))
    found = store_at(root).get("lines")
    assert found is not None
    assert sorted(found.text.split()) == sorted(f"{writer}.{line}" for writer in range(WRITERS) for line in range(3))
    assert [entry.name for entry in store_at(root).list()] == ["lines"]


@pytest.mark.parametrize("name", ["a b", "a%20b", "task=a b/ü+&=@", "#?*[x]{y}~^`|\"'<>", "..a/.b", "%", "🦊"])
def test_an_odd_name_is_taken_to_the_letter(store: Store, name: str) -> None:
    store.put(name, name)
    found = store.get(name)
    assert found is not None and found.text == name
    assert [entry.name for entry in store.list()] == [name] and store.delete(name) and store.list() == []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=NAMES)
def test_any_name_is_found_again(store: Store, parts: list[str]) -> None:
    folder = uuid.uuid4().hex  # a file system has no `a` beside `a/b`
    name = "/".join([folder, *parts])
    store.put(name, name)
    found = store.get(name)
    assert found is not None and found.text == name and [entry.name for entry in store.list(folder)] == [name]
    assert store.delete(name) and store.list(folder) == []


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/./b", "a\\b", "a\nb", "a.writing"])
def test_a_name_that_could_lead_elsewhere_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match=r"object .*: a name has parts between single slashes"):
        store.put(name, "x")
    with pytest.raises(StoreError, match="a name has parts"):
        store.get(name)


def test_a_folder_is_fetched_whole_and_replaced_whole(store: Store) -> None:
    upload(store, {"a": "one", "part/b c": "two", "gone": "x"})
    assert files_of(store.fetch(FOLDER)) == {"a": "one", "part/b c": "two", "gone": "x"}
    upload(store, {"a": "other", "part/b c": "two"})
    assert files_of(store.fetch(FOLDER)) == {"a": "other", "part/b c": "two"}
    upload(store, {"a": "beside"}, f"{FOLDER}1")
    store.delete_folder(FOLDER)
    store.delete_folder(FOLDER)
    with pytest.raises(CheckpointError, match=rf"{FOLDER}: no SHA256SUMS"):
        store.fetch(FOLDER)
    assert files_of(store.fetch(f"{FOLDER}1")) == {"a": "beside"}
    with store.draft(FOLDER) as draft, pytest.raises(CheckpointError, match="no SHA256SUMS"):
        store.put_folder(draft, FOLDER)


def test_a_folder_that_differs_from_its_sums_is_refused_by_name(
    store: Store, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, {"a": "one", "b": "two"})
    monkeypatch.setenv("PRECISE_CACHE", str(tmp_path / "of another machine"))
    store = store_at(root)
    store.put(f"{FOLDER}/b", "tow")
    with pytest.raises(CheckpointError, match=r"things/v1.*changed.*|things/v1/b: changed") as refused:
        store.fetch(FOLDER)
    assert "b" in str(refused.value).split("v1")[1]
    store.delete(f"{FOLDER}/b")
    with pytest.raises(CheckpointError, match="missing") as refused:
        store.fetch(FOLDER)
    assert "things/v1" in str(refused.value)
    store.put(f"{FOLDER}/b", "two")
    assert files_of(store.fetch(FOLDER)) == {"a": "one", "b": "two"}
    store.put(f"{FOLDER}/SHA256SUMS", f"{'0' * 64}  ../../b\n")
    with pytest.raises((CheckpointError, StoreError), match=r"\.\./\.\./b"):
        store.fetch(FOLDER)
    store.put(f"{FOLDER}/SHA256SUMS", "<html>")
    with pytest.raises(CheckpointError, match="SHA256SUMS: not a line of sha256sum: '<html>'"):
        store.fetch(FOLDER)


def test_a_killed_upload_shows_nothing_and_can_be_repeated(store: Store, root: str) -> None:
    killed = subprocess.run([sys.executable, "-c", DYING_UPLOAD, root])
    assert killed.returncode == -signal.SIGKILL
    assert [entry.name for entry in store.list()] == ([] if store.local else ["things/v1/a"])
    with pytest.raises(CheckpointError, match="things/v1: no SHA256SUMS, so this is not a complete artefact"):
        store.fetch(FOLDER)
    upload(store, {"a": "a", "b": "b"})
    assert files_of(store.fetch(FOLDER)) == {"a": "a", "b": "b"}


def test_a_local_copy_is_made_once_and_again_when_it_is_damaged(lake: str, request: pytest.FixtureRequest) -> None:
    root = f"{lake}/{request.node.name}"
    store = store_at(root)
    upload(store, {"a": "one", "b": "two"})
    shutil.rmtree(store.scratch)  # as on another machine
    copy = store.fetch(FOLDER)
    inode = (copy / "a").stat().st_ino
    assert store_at(f"{root}/").fetch(FOLDER) == copy and (copy / "a").stat().st_ino == inode
    for damage in (lambda: (copy / "a").write_text("eno"), (copy / "a").unlink, (copy / "SHA256SUMS").unlink):
        damage()
        assert files_of(store.fetch(FOLDER)) == {"a": "one", "b": "two"} and (copy / "SHA256SUMS").is_file()
    with ThreadPoolExecutor(WRITERS) as pool:
        (copy / "b").write_text("x")
        assert all(files_of(path)["a"] == "one" for path in pool.map(lambda _: store.fetch(FOLDER), range(WRITERS)))
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("hdfs://name/x", r"hdfs://name/x: no store of this kind is known; there are s3a://"),
        ("s3a:///x", r"s3a:///x: names no bucket"),
        ("abfss://container/x", r"no store of this kind.*abfss://container@account\.dfs\.core\.windows\.net"),
        ("s3a://lake/../x", r"object '\.\./x': a name has parts"),
    ],
)
def test_a_root_that_is_no_store_is_refused(root: str, message: str) -> None:
    with pytest.raises((ConfigError, StoreError), match=message):
        store_at(root)


def test_a_bucket_that_is_not_there_is_named(lake: str) -> None:
    assert lake
    store = store_at("s3a://nowhere/x")
    for refused in (
        lambda: store.put("a", "x"),
        lambda: store.put_if_absent("a", "x"),
        lambda: store.get("a"),
        store.list,
    ):
        with pytest.raises(StoreError, match=r"s3a://nowhere/x/.*: cannot be \w+ \(NoSuchBucket: .+\)$") as told:
            refused()
        assert "\n" not in str(told.value) and not isinstance(told.value, ConflictError)


def test_a_local_folder_needs_no_package_and_a_uri_says_which(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["obstore"] = None  # as where it is not installed
from precise_core.errors import ConfigError
from precise_core.store import store_at
store_at(sys.argv[1]).put("a", "x")
try:
    store_at("s3a://lake/x")
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (tmp_path / "a").read_text() == "x" and "pip install 'precise[s3]'" in done.stdout


def test_what_a_killed_removal_of_a_folder_has_left_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".gone.0123abcd.old"
    left.mkdir()
    (left / "rows.parquet").write_text("of an erased user")
    store_at(str(tmp_path)).delete_folder("gone")
    assert not left.exists()
