"""Windows of a table on S3: the batches are those of the same table on a disk, by either reader, and no copy stays."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake

from precise_core.errors import StoreError
from precise_core.feed.config import FeedConfig
from precise_core.feed.windows import WindowFeed, window_ids
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import columns as c
from tests.s3_proxy import Harm, harmful_proxy
from tests.torch_world import grouped_windows, write_windows

URI = "s3a://lake/the feed/tables/training_windows"
TASK = "a b&c/d"  # the name of a folder, escaped


@pytest.fixture(scope="module")
def both(s3: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[DeltaSnapshot, DeltaSnapshot]:
    """The same rows in the same files, on a disk and on S3."""
    assert s3
    folder = tmp_path_factory.mktemp("windows") / "training_windows"
    write_windows(folder, grouped_windows(131, seed=0), task=TASK, files=5)
    on_disk = DeltaSnapshot(folder)
    for uri in on_disk.files():
        table = pa.parquet.ParquetFile(uri.removeprefix("file://")).read()
        rows = {c.TASK: pa.array([TASK] * len(table)), c.SPLIT: pa.array(["train"] * len(table))}
        full = table.append_column(c.TASK, rows[c.TASK]).append_column(c.SPLIT, rows[c.SPLIT])
        write_deltalake(URI, full, mode="append", partition_by=[c.TASK, c.SPLIT])
    return on_disk, DeltaSnapshot(URI)


def feed_of(snapshot: DeltaSnapshot, reader: str, **more: Any) -> WindowFeed:
    return WindowFeed(snapshot, TASK, "train", 16, seed=3, config=FeedConfig.model_validate({"reader": reader}), **more)


def copies() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("precise-feed-*"))


@pytest.mark.lake
@pytest.mark.parametrize("reader", ["petastorm", "arrow"])
def test_the_batches_are_those_of_the_same_files_on_a_disk(
    both: tuple[DeltaSnapshot, DeltaSnapshot], reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    here, there = (feed_of(snapshot, reader) for snapshot in both)
    assert copies() and there.num_rows == here.num_rows == 131
    assert sorted(window_ids(there, there.epoch(0))) == sorted(window_ids(here, here.epoch(0)))
    seen = torch.cat([batch.lengths_B for batch in there.epoch(1)])
    assert np.array_equal(np.sort(seen), np.sort(torch.cat([batch.lengths_B for batch in here.epoch(1)])))
    del there
    assert not copies()


@pytest.mark.lake
def test_windows_are_counted_and_chosen_by_time(both: tuple[DeltaSnapshot, DeltaSnapshot]) -> None:
    here, there = (feed_of(snapshot, "arrow", since=106) for snapshot in both)
    assert 0 < there.num_rows == here.num_rows < 131


@pytest.mark.lake
def test_a_store_that_refuses_is_one_line_and_leaves_no_copy(
    both: tuple[DeltaSnapshot, DeltaSnapshot], s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with harmful_proxy(s3, Harm(requests=r"\.parquet")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(StoreError, match=r"s3a://lake/the feed/.*\.parquet: .* these credentials may not do this"):
            feed_of(both[1], "petastorm")
    assert not copies()
