"""The feed delivers exactly the rows of a pinned snapshot, in an order that only (seed, epoch) decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable, write_deltalake

from precise_core.errors import DataError, MissingTableError, RowCountError, TrainingError
from precise_core.feed.catalog import load_item_catalog, load_token_init
from precise_core.feed.config import FeedConfig
from precise_core.feed.windows import SequenceBatch, WindowFeed
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import ITEM_TOKENS, TOKEN_EMBEDDINGS
from schemas import columns as c
from tests.torch_world import LENGTH, grouped_windows, world_snapshot, write_windows

TRAIN = {c.TASK: "all", c.SPLIT: "train"}
ROW_BYTES = 8 * (2 * LENGTH + 1)  # of a train window in a pool


@pytest.fixture
def windows(tmp_path: Path) -> DeltaSnapshot:
    return world_snapshot(tmp_path / "training_windows", train=100)


def rows_of(batches: list[SequenceBatch]) -> list[tuple[int, ...]]:
    """The real items of every row, so that trimming does not matter."""
    rows = []
    for batch in batches:
        for items, valid in zip(batch.item_indices_BL, batch.valid_mask_BL, strict=True):
            rows.append(tuple(items[valid].tolist()))
    return rows


def test_an_epoch_holds_every_window_once_trimmed_to_the_longest(windows: DeltaSnapshot) -> None:
    feed = WindowFeed(windows, "all", "train", batch_size=16, seed=3)
    batches = list(feed.epoch(1))
    assert len(batches) == feed.num_steps == 7
    assert sorted(rows_of(batches)) == sorted(tuple(items) for items, _, _ in grouped_windows(100, seed=0))
    for batch in batches:
        assert batch.item_indices_BL.dtype == batch.event_ts_BL.dtype == torch.int64
        assert batch.item_indices_BL.shape[1] == int(batch.lengths_B.max())
        assert ((batch.event_ts_BL > 0) == batch.valid_mask_BL).all()
    assert min(batch.item_indices_BL.shape[1] for batch in batches) < LENGTH  # rows of similar length meet


def test_order_depends_on_seed_and_epoch_only(windows: DeltaSnapshot) -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, ...]]:
        return rows_of(list(WindowFeed(windows, "all", "train", batch_size=16, seed=seed).epoch(epoch)))

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 1)


@pytest.mark.parametrize("bucket_batches", [0, 16])
def test_validation_comes_with_its_truth_and_by_length_where_bucketed(
    windows: DeltaSnapshot, bucket_batches: int
) -> None:
    config = FeedConfig(bucket_batches=bucket_batches)
    batches = list(WindowFeed(windows, "all", "validation", batch_size=10, seed=3, config=config).epoch(0))
    expected = grouped_windows(40, seed=100, with_targets=True)
    if bucket_batches:
        expected.sort(key=lambda window: -len(window[0]))  # stable
    assert rows_of(batches) == [tuple(items) for items, _, _ in expected]
    truth = [row for batch in batches for row in batch.target_indices_BM.tolist()]
    assert truth == [list(targets) for _, _, targets in expected]
    assert [count for batch in batches for count in batch.target_counts_B.tolist()] == [2] * 40
    widths = [batch.item_indices_BL.shape[1] for batch in batches]
    assert widths == [max(len(items) for items, _, _ in expected[at : at + 10]) for at in range(0, 40, 10)]


@pytest.mark.parametrize("batch_size", [16, 33])  # 100 % 33 leaves a last batch of one row for two ranks
def test_two_ranks_share_the_batches_of_one(windows: DeltaSnapshot, batch_size: int) -> None:
    alone = WindowFeed(windows, "all", "train", batch_size, seed=3)
    ranks = [WindowFeed(windows, "all", "train", batch_size, 3, rank=r, world_size=2) for r in (0, 1)]
    assert ranks[0].num_steps == ranks[1].num_steps == alone.num_steps
    for whole, first, second in zip(alone.epoch(1), ranks[0].epoch(1), ranks[1].epoch(1), strict=True):
        together = rows_of([first]) + rows_of([second])
        assert sorted(row for row in together if row) == sorted(rows_of([whole]))
        assert first.num_windows + second.num_windows == len(whole)


def test_many_small_pools_still_hold_every_window(windows: DeltaSnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precise_core.feed.windows._POOL_BYTES", 32 * ROW_BYTES)
    feed = WindowFeed(windows, "all", "train", batch_size=16, seed=3)
    batches = list(feed.epoch(1))
    assert [len(batch) for batch in batches].count(16) == 6
    assert len(batches) == feed.num_steps
    assert sorted(rows_of(batches)) == sorted(tuple(items) for items, _, _ in grouped_windows(100, seed=0))


def test_lost_rows_are_an_error(windows: DeltaSnapshot) -> None:
    feed = WindowFeed(windows, "all", "train", batch_size=16, seed=3)
    feed.num_rows += 1
    with pytest.raises(RowCountError, match="delivered 100 rows, the snapshot has 101"):
        list(feed.epoch(1))


def test_a_task_without_windows_is_named(windows: DeltaSnapshot) -> None:
    with pytest.raises(TrainingError, match=r"task 'share' has 0 train windows.*\['all'\]"):
        WindowFeed(windows, "share", "train", batch_size=16, seed=3)


def test_a_snapshot_stays_at_its_version(tmp_path: Path) -> None:
    folder = tmp_path / "with space" / "training_windows"
    write_windows(folder, grouped_windows(10, seed=0))
    pinned = DeltaSnapshot(folder)
    write_windows(folder, grouped_windows(5, seed=1))
    newest = DeltaSnapshot(folder)
    assert (pinned.version, pinned.row_count(TRAIN)) == (0, 10)
    assert (newest.version, newest.row_count(TRAIN)) == (1, 15)
    assert DeltaSnapshot(folder, version=0).files(TRAIN) == pinned.files(TRAIN)
    assert len(rows_of(list(WindowFeed(pinned, "all", "train", 4, seed=0).epoch(0)))) == 10


def test_files_dropped_by_a_later_version_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "training_windows"
    write_windows(folder, grouped_windows(10, seed=0))
    DeltaTable(str(folder)).delete("length > 0")
    write_windows(folder, grouped_windows(3, seed=1))
    feed = WindowFeed(DeltaSnapshot(folder), "all", "train", batch_size=4, seed=0)
    assert sorted(rows_of(list(feed.epoch(0)))) == sorted(tuple(items) for items, _, _ in grouped_windows(3, seed=1))


def test_rows_are_counted_from_footers_where_the_log_has_no_statistics(tmp_path: Path) -> None:
    folder = tmp_path / "training_windows"
    write_windows(folder, grouped_windows(10, seed=0))
    log = folder / "_delta_log" / "00000000000000000000.json"
    lines = log.read_text().splitlines()
    stripped = []
    for line in map(json.loads, lines):
        if "add" in line:
            line["add"].pop("stats", None)
        stripped.append(json.dumps(line))
    log.write_text("\n".join(stripped))
    assert DeltaSnapshot(folder).row_count(TRAIN) == 10


def test_a_missing_table_names_the_job_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingTableError, match=r"training_windows: .*run jobs/build_windows\.py first"):
        DeltaSnapshot(tmp_path / "training_windows")


def test_an_unknown_version_is_refused(windows: DeltaSnapshot) -> None:
    with pytest.raises(DataError, match="version 99 does not exist; versions are 0 to 3"):
        DeltaSnapshot(windows.path, version=99)


@pytest.mark.parametrize(
    ("property_name", "value", "message"),
    [
        ("delta.enableDeletionVectors", "true", "deletion vectors"),
        ("delta.columnMapping.mode", "name", "column mapping"),
    ],
)
def test_tables_that_a_plain_reader_would_misread_are_refused(
    tmp_path: Path, property_name: str, value: str, message: str
) -> None:
    folder = tmp_path / "training_windows"
    write_windows(folder, grouped_windows(3, seed=0))
    log = folder / "_delta_log" / "00000000000000000000.json"
    log.write_text(log.read_text().replace('"configuration":{}', f'"configuration":{{"{property_name}":"{value}"}}'))
    with pytest.raises(DataError, match=message):
        DeltaSnapshot(folder)


def test_a_truncated_file_is_an_error(windows: DeltaSnapshot) -> None:
    file = Path(windows.files(TRAIN)[0].removeprefix("file://"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot read"):
        list(WindowFeed(windows, "all", "train", batch_size=16, seed=3).epoch(1))


def write_tokens(folder: Path, rows: list[tuple[int, list[int], int, str]]) -> DeltaSnapshot:
    values = [
        {
            c.ITEM_ID: f"i{index}",
            c.ITEM_INDEX: index,
            c.TOKEN_IDS: tokens,
            c.TOKEN_COUNT: count,
            c.TEXT_HASH: "",
            c.TOKENIZER_ID: tokenizer,
        }
        for index, tokens, count, tokenizer in rows
    ]
    write_deltalake(str(folder), pa.Table.from_pylist(values, schema=ITEM_TOKENS.arrow_schema()))
    return DeltaSnapshot(folder)


def test_the_catalog_puts_each_item_in_its_row(tmp_path: Path) -> None:
    catalog = load_item_catalog(write_tokens(tmp_path / "t", [(4, [7, 9], 2, "bert"), (2, [7, 0], 1, "bert")]))
    assert catalog.token_ids_VT.tolist() == [[0, 0], [0, 0], [7, 0], [0, 0], [7, 9]]
    assert catalog.token_counts_V.tolist() == [0, 0, 1, 0, 2]
    assert catalog.tokenizer_id == "bert"
    assert catalog.known_token_ids.tolist() == [7, 9]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([(2, [7], 1, "a"), (2, [8], 1, "a")], "unique"),
        ([(1, [7], 1, "a")], "at least 2"),
        ([(2, [7], 1, "a"), (3, [7, 8], 1, "a")], r"lengths \[1, 2\]"),
        ([(2, [7], 1, "a"), (3, [8], 1, "b")], r"\['a', 'b'\]"),
    ],
)
def test_a_catalog_that_cannot_be_right_is_refused(
    tmp_path: Path, rows: list[tuple[int, list[int], int, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_item_catalog(write_tokens(tmp_path / "t", rows))


def write_vectors(folder: Path, vectors: np.ndarray) -> DeltaSnapshot:
    values = [
        {c.TOKEN_ID: 90 - i, c.VECTOR: vector.tolist(), c.COUNT: 1 + i, c.LANGUAGE_MODEL: "lm"}
        for i, vector in enumerate(vectors)
    ]
    write_deltalake(str(folder), pa.Table.from_pylist(values, schema=TOKEN_EMBEDDINGS.arrow_schema()))
    return DeltaSnapshot(folder)


def test_token_vectors_keep_their_geometry_when_reduced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 12)) + 5.0  # rank 3 in 12 dimensions, far from the origin
    init = load_token_init(write_vectors(tmp_path / "v", vectors.astype(np.float32)), width=3, seed=0)
    assert init.token_ids_K.tolist() == list(range(51, 91))
    assert init.vectors_KD.shape == (40, 3)
    assert float(init.vectors_KD.std()) == pytest.approx(3**-0.5, rel=0.05)
    ours, theirs = torch.pdist(init.vectors_KD), torch.pdist(torch.from_numpy(vectors[::-1].copy()).float())
    torch.testing.assert_close(ours / ours.max(), theirs / theirs.max(), rtol=1e-3, atol=1e-4)


def test_a_language_model_narrower_than_the_token_half_is_filled_up(tmp_path: Path) -> None:
    snapshot = write_vectors(tmp_path / "v", np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    first, second = load_token_init(snapshot, width=6, seed=1), load_token_init(snapshot, width=6, seed=1)
    assert first.vectors_KD.shape == (20, 6)
    assert torch.equal(first.vectors_KD, second.vectors_KD)
    assert (first.vectors_KD.std(dim=0) > 0.05).all()


def test_the_feed_reads_only_the_columns_it_needs(windows: DeltaSnapshot) -> None:
    names = pq.ParquetFile(windows.files(TRAIN)[0].removeprefix("file://")).schema_arrow.names
    assert c.WINDOW_ID in names  # present in the file, absent from the batch
    batch = next(iter(WindowFeed(windows, "all", "train", 4, seed=0).epoch(0)))
    assert set(vars(batch)) == {"item_indices_BL", "event_ts_BL", "lengths_B", "target_indices_BM", "target_counts_B"}
