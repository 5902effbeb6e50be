"""The engines that `make bench-data` compares write the same sequences, and differences would be seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from pyspark.sql import SparkSession

from benchmarks.data import engine_duckdb, engine_precise, engine_spark_sql
from benchmarks.data.measure import content_of
from benchmarks.data.peers import runnable
from benchmarks.data.world import events_of, source_of, vocabulary_of

MAX_LENGTH = 20


@pytest.fixture(scope="module")
def world(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    source = source_of(4_000, seed=3, is_skewed=True)
    events_of(spark, source).write.parquet(str(folder / "events"))
    # An item that the vocabulary lacks is the unknown row for all of them.
    vocabulary_of(spark, source).where("item_id <> 'item-0'").write.parquet(str(folder / "vocabulary"))
    return folder


def test_engines_write_the_same_rows(world: Path, tmp_path: Path) -> None:
    found = {}
    for engine in (engine_precise, engine_spark_sql, engine_duckdb):
        out = tmp_path / engine.__name__
        engine.build(world / "events", world / "vocabulary", out, MAX_LENGTH)
        found[engine.__name__] = content_of(out)
    assert len(set(found.values())) == 1, found
    lengths = duckdb.read_parquet(f"{tmp_path / engine_duckdb.__name__}/*.parquet")
    assert lengths.aggregate("max(len(item_indices)), min(list_min(item_indices))").fetchall() == [(MAX_LENGTH, 1)]


def test_engines_without_their_environment_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "bin" / "python"
    assert runnable(["duckdb", "polars", "precise", "replay"], python) == ["duckdb", "precise"]
    out = capsys.readouterr().out
    assert f"RePlay on Spark: left out, there is no {python}: benchmarks/data/README.md says how" in out
    python.parent.mkdir()
    python.touch()
    assert runnable(["polars", "replay"], python) == ["polars", "replay"] and not capsys.readouterr().out


def test_one_missing_row_is_noticed(world: Path, tmp_path: Path) -> None:
    engine_duckdb.build(world / "events", world / "vocabulary", tmp_path / "all", MAX_LENGTH)
    shutil.copytree(tmp_path / "all", tmp_path / "less")
    kept = duckdb.read_parquet(str(tmp_path / "all" / "share.parquet")).limit(5)
    kept.write_parquet(str(tmp_path / "less" / "share.parquet"))
    assert content_of(tmp_path / "all") != content_of(tmp_path / "less")
