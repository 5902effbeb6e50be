"""Both readers give the same batches, prefetching changes none, and a resumed epoch is the rest of the whole one."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precise_core.errors import DataError, RowCountError
from precise_core.feed import petastorm_rows
from precise_core.feed import windows as feed_windows
from precise_core.feed.config import FeedConfig
from precise_core.feed.prefetch import prefetched
from precise_core.feed.readers import RowReader, read_arrow_rows, row_count
from precise_core.feed.windows import SequenceBatch, WindowFeed
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import columns as c
from tests.night import ROOT
from tests.torch_world import LENGTH, grouped_windows, write_windows

READERS = ("petastorm", "arrow")
ROW_BYTES = 8 * (2 * LENGTH + 1)
SMALL_POOL = 48 * ROW_BYTES


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> DeltaSnapshot:
    """Uneven files, more than one Petastorm reader opens at once, with spaces in their folder."""
    folder = tmp_path_factory.mktemp("with space") / "training_windows"
    write_windows(folder, grouped_windows(131, seed=0), files=20)
    write_windows(folder, grouped_windows(40, seed=1, with_targets=True), split="validation", files=3)
    return DeltaSnapshot(folder)


@pytest.fixture
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precise_core.feed.windows._POOL_BYTES", SMALL_POOL)


def feed_of(windows: DeltaSnapshot, split: Any = "train", batch_size: int = 16, **config: Any) -> WindowFeed:
    return WindowFeed(windows, "all", split, batch_size, seed=3, config=FeedConfig.model_validate(config))


def assert_same(first: list[SequenceBatch], second: list[SequenceBatch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name, tensor in vars(one).items():
            assert tensor.dtype == vars(other)[name].dtype == torch.int64
            assert torch.equal(tensor, vars(other)[name]), name


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    split=st.sampled_from(["train", "validation"]),
    batch_size=st.integers(2, 70),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 5),
    world_size=st.integers(1, 3),
    bucket_batches=st.sampled_from([0, 1, 2, 16]),
    pool_bytes=st.sampled_from([1, SMALL_POOL, 2**20]),
)
def test_both_readers_give_the_same_batches(
    windows: DeltaSnapshot,
    monkeypatch: pytest.MonkeyPatch,
    split: Any,
    batch_size: int,
    seed: int,
    epoch: int,
    world_size: int,
    bucket_batches: int,
    pool_bytes: int,
) -> None:
    monkeypatch.setattr("precise_core.feed.windows._POOL_BYTES", pool_bytes)
    for rank in range(world_size):
        both = [
            WindowFeed(
                windows,
                "all",
                split,
                batch_size,
                seed,
                rank,
                world_size,
                FeedConfig.model_validate({"reader": reader, "bucket_batches": bucket_batches, "prefetch_batches": 0}),
            )
            for reader in READERS
        ]
        assert_same(*(list(feed.epoch(epoch)) for feed in both))


@pytest.mark.usefixtures("small_pools")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_prefetching_changes_no_batch(windows: DeltaSnapshot, reader: str, ahead: int) -> None:
    plain = list(feed_of(windows, reader=reader, prefetch_batches=0).epoch(2))
    assert_same(plain, list(feed_of(windows, reader=reader, prefetch_batches=ahead).epoch(2)))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("pool_bytes", [SMALL_POOL, 2**20])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(
    windows: DeltaSnapshot, monkeypatch: pytest.MonkeyPatch, reader: str, pool_bytes: int, split: str
) -> None:
    monkeypatch.setattr("precise_core.feed.windows._POOL_BYTES", pool_bytes)
    feed = feed_of(windows, split, reader=reader)
    whole = list(feed.epoch(4))
    assert len(whole) == feed.num_steps > 2
    for first_step in {0, 1, 3, feed.num_steps - 1, feed.num_steps}:
        assert_same(whole[first_step:], list(feed_of(windows, split, reader=reader).epoch(4, first_step)))
        assert_same(whole[first_step:], list(feed.epoch(4, first_step)))


@pytest.mark.usefixtures("small_pools")
def test_resuming_does_not_read_the_pools_it_leaves_out(
    windows: DeltaSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, read, real = feed_of(windows, reader="arrow"), [], read_arrow_rows

    def watched(files: list[str], columns: list[str], first_row: int) -> Iterator[Any]:
        for rows in real(files, columns, first_row):
            read.append(row_count(rows))
            yield rows

    monkeypatch.setattr(feed_windows, "read_arrow_rows", watched)
    list(feed.epoch(1, first_step=6))  # two pools of three batches of 16
    assert sum(read) == 131 - 96


@pytest.mark.parametrize("read_rows", [petastorm_rows.read_rows, read_arrow_rows])
def test_a_reader_starts_at_any_row_of_any_row_group(tmp_path: Path, read_rows: RowReader) -> None:
    files = []
    for number, rows in enumerate([range(0, 10), range(10, 13), range(13, 20)]):
        file = tmp_path / f"{number}.parquet"
        table = {c.LENGTH: pa.array(rows, pa.int32()), c.ITEM_INDICES: pa.array([[r, -r] for r in rows])}
        pq.write_table(pa.table(table), file, row_group_size=4)
        files.append(f"file://{file}")
    for first_row in range(22):
        portions = list(read_rows(files, [c.ITEM_INDICES, c.LENGTH], first_row))
        lengths = [int(value) for rows in portions for value in rows[c.LENGTH]]
        assert lengths == list(range(first_row, 20))
        assert [row.tolist() for rows in portions for row in rows[c.ITEM_INDICES]] == [[r, -r] for r in lengths]


def test_without_buckets_windows_are_not_sorted_by_length(windows: DeltaSnapshot) -> None:
    def padded(bucket_batches: int) -> int:
        return sum(batch.item_indices_BL.numel() for batch in feed_of(windows, bucket_batches=bucket_batches).epoch(1))

    assert padded(0) == padded(1) > padded(4)


def test_the_arrow_reader_never_imports_petastorm(windows: DeltaSnapshot) -> None:
    code = (
        "import sys; from precise_core.feed.windows import WindowFeed; "
        "from precise_core.feed.config import FeedConfig; "
        "from precise_core.warehouse.reader import DeltaSnapshot; import precise_core.training.universal; "
        "feed = WindowFeed(DeltaSnapshot(sys.argv[1]), 'all', 'train', 16, 0, config=FeedConfig(reader='arrow')); "
        "print(len(list(feed.epoch(1))), 'petastorm' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, windows.path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["9", "False"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ahead", [0, 2])
def test_lost_rows_are_an_error_in_every_epoch(windows: DeltaSnapshot, reader: str, ahead: int) -> None:
    feed = feed_of(windows, reader=reader, prefetch_batches=ahead)
    feed.num_rows += 1
    for epoch in (1, 2):
        batches = feed.epoch(epoch)
        received = 0
        with pytest.raises(RowCountError, match=f"{reader} delivered 131 rows, the snapshot has 132"):
            for batch in batches:
                received += len(batch)
        assert received == 131


@pytest.mark.parametrize("reader", READERS)
def test_a_small_partition_is_read_once_and_a_large_one_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    folder = tmp_path / "training_windows"
    write_windows(folder, grouped_windows(60, seed=0), files=3)
    fresh, kept = (feed_of(DeltaSnapshot(folder), reader=reader) for _ in range(2))
    next(iter(kept.epoch(0)))  # an epoch that is left half-way keeps nothing that could be wrong
    list(kept.epoch(0))
    expected = list(fresh.epoch(1))
    next(iter(kept.epoch(1))).item_indices_BL.zero_()  # a batch is a copy
    monkeypatch.setattr("precise_core.feed.windows._POOL_BYTES", 16 * ROW_BYTES)
    large = feed_of(DeltaSnapshot(folder), reader=reader)
    list(large.epoch(0))
    for file in folder.rglob("*.parquet"):
        file.unlink()
    assert_same(expected, list(kept.epoch(1)))
    with pytest.raises(DataError, match=r"task 'all', train: cannot read .*\.parquet"):
        list(large.epoch(1))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("items", [[[1, 2], [3]], [[1, 2], [None, 3]]])
def test_lists_that_are_not_a_matrix_are_refused(tmp_path: Path, reader: str, items: list[list[int | None]]) -> None:
    snapshot = _one_file(tmp_path, items)
    with pytest.raises(DataError, match="task 'all', train: "):
        list(feed_of(snapshot, reader=reader).epoch(0))


@pytest.mark.parametrize("pool_bytes", [SMALL_POOL, 2**20])
def test_new_windows_alone_are_shuffled_resumed_and_kept_with_either_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool_bytes: int
) -> None:
    monkeypatch.setattr("precise_core.feed.windows._POOL_BYTES", pool_bytes)
    walks = [
        (items, [1000 * n + second for second in times], [])
        for n, (items, times, _) in enumerate(grouped_windows(200, 0))
    ]
    write_windows(tmp_path / "training_windows", [walks[i] for i in torch.randperm(200)], files=7)
    windows, since = DeltaSnapshot(tmp_path / "training_windows"), 1000 * 90
    feeds = [
        WindowFeed(windows, "all", "train", 16, 3, config=FeedConfig.model_validate({"reader": reader}), since=since)
        for reader in READERS
    ]
    for epoch in (1, 2):  # the second one from memory where all of them fit one pool
        whole = list(feeds[0].epoch(epoch))
        assert_same(whole, list(feeds[1].epoch(epoch)))
        newest = sorted(int(seconds) for batch in whole for seconds in batch.event_ts_BL[:, -1])
        assert newest == sorted(times[-1] for _, times, _ in walks[90:])
        for first_step in (1, 3, 5, feeds[0].num_steps):
            assert_same(whole[first_step:], list(feeds[1].epoch(epoch, first_step)))
    feeds[0].num_rows += 1
    with pytest.raises(RowCountError, match="since 1970-01-02 01:00: petastorm delivered 110 rows"):
        list(feeds[0].epoch(3))


def _one_file(folder: Path, items: list[list[int | None]]) -> DeltaSnapshot:
    """A table of train windows whose only file holds these items instead of proper ones."""
    write_windows(folder / "training_windows", grouped_windows(len(items), seed=0))
    (file,) = (folder / "training_windows").rglob("*.parquet")
    table = pq.read_table(file, partitioning=None)
    at = table.column_names.index(c.ITEM_INDICES)
    pq.write_table(table.set_column(at, c.ITEM_INDICES, pa.array(items, pa.list_(pa.int32()))), file)
    return DeltaSnapshot(folder / "training_windows")


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feed-prefetch"]


@pytest.mark.usefixtures("small_pools")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("taken", [1, 4, 9])
def test_no_thread_outlives_its_consumer(windows: DeltaSnapshot, reader: str, taken: int) -> None:
    before = set(threading.enumerate())
    for number, _ in enumerate(feed_of(windows, reader=reader, prefetch_batches=1).epoch(1), start=1):
        assert number == 9 or prefetch_threads()
        if number == taken:
            break
    gc.collect()
    assert not prefetch_threads()
    assert set(threading.enumerate()) <= before


def test_no_thread_outlives_a_consumer_that_fails(windows: DeltaSnapshot) -> None:
    def consume() -> None:
        for _ in feed_of(windows).epoch(1):
            raise KeyError("of the consumer")

    with pytest.raises(KeyError, match="of the consumer"):
        consume()
    gc.collect()
    assert not prefetch_threads()


def test_an_epoch_nobody_asks_starts_no_thread(windows: DeltaSnapshot) -> None:
    batches = feed_of(windows).epoch(1)
    assert not prefetch_threads()
    del batches


def test_what_the_source_raises_comes_after_the_items_before_it() -> None:
    def source() -> Generator[int, None, None]:
        yield from range(5)
        raise DataError("file 5")

    received = []
    with pytest.raises(DataError, match="file 5"):
        for item in prefetched(source(), 2):
            received.append(item)
    assert received == list(range(5))
    assert not prefetch_threads()


def test_the_queue_is_bounded_and_the_source_is_closed() -> None:
    made, closed = [], []

    def source() -> Generator[int, None, None]:
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            closed.append(threading.current_thread().name)

    items = iter(prefetched(source(), 3))
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 5  # one taken, three waiting, one in hand
    items.close()  # type: ignore[attr-defined]
    assert closed == ["feed-prefetch"]


@pytest.mark.parametrize("first_row", [0, 2, 5])
def test_petastorm_reads_below_a_folder_of_any_name(tmp_path: Path, first_row: int) -> None:
    folder = tmp_path / "it's 100% ours #1; or?"
    folder.mkdir()
    for name, values in (("a", [1, 2, 3, 4]), ("b", [5, 6])):
        pq.write_table(pa.table({"n": pa.array(values)}), folder / f"{name}.parquet")
    files = [f"file://{folder}/{name}.parquet" for name in ("a", "b")]
    rows = petastorm_rows.read_rows(files, ["n"], first_row)
    assert [n for group in rows for n in group["n"].tolist()] == [1, 2, 3, 4, 5, 6][first_row:]
