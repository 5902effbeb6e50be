"""Two warehouses table by table: what is the same in spite of run ids and hashes, and what is not."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from benchmarks.same_tables import main


def warehouse(root: Path, **columns: list[object]) -> Path:
    write_deltalake(str(root / "tables" / "user_embeddings"), pa.table(columns), mode="overwrite")
    return root


def test_rows_are_compared_without_run_ids_and_hashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors: list[object] = [[0.5, 1.0], [0.25, 2.0]]
    one = warehouse(tmp_path / "one", user_id=["a", "b"], model_version=["all-0123abc"] * 2, embedding=vectors)
    same = warehouse(tmp_path / "same", user_id=["b", "a"], model_version=["all-9876fed"] * 2, embedding=vectors[::-1])
    assert main([str(one), str(same)]) == 0
    assert "user_embeddings: the same rows" in capsys.readouterr().out
    other = warehouse(tmp_path / "other", user_id=["a", "a"], model_version=["all-1"] * 2, embedding=[vectors[0]] * 2)
    assert main([str(one), str(other)]) == 1
    assert "user_embeddings: 2 and 2 rows; 2 and 2 in one only" in capsys.readouterr().out


def test_a_table_may_have_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    days = [date(2024, 3, 1), date(2024, 3, 2)]
    for root, folders in (("one", ["event_date", "run_id"]), ("same", None)):
        rows = pa.table({"event_id": ["a", "b"], "event_date": days, "run_id": [root] * 2})
        write_deltalake(str(tmp_path / root / "tables" / "events"), rows, partition_by=folders)
    assert main([str(tmp_path / "one"), str(tmp_path / "same")]) == 0
    moved = pa.table({"event_id": ["a", "b"], "event_date": days[::-1], "run_id": ["r"] * 2})
    write_deltalake(str(tmp_path / "same" / "tables" / "events"), moved, mode="overwrite")
    assert main([str(tmp_path / "one"), str(tmp_path / "same")]) == 1
    assert "events: 2 and 2 rows; 2 and 2 in one only" in capsys.readouterr().out


def test_a_column_of_one_alone_is_named_and_the_others_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = warehouse(tmp_path / "one", user_id=["a", "b"], run_id=["x", "y"])
    more = warehouse(tmp_path / "more", user_id=["a", "b"], file_sequence=[1, 2])
    assert main([str(one), str(more)]) == 1
    expected = "user_embeddings: columns ['file_sequence'] are in one of the two only; the other columns have the same"
    assert expected in capsys.readouterr().out
