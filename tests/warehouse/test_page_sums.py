"""Checksums of pages that another writer has made are compared without that writer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.errors import DataError
from precise_core.warehouse.page_sums import require_page_sums

ROWS = 30_000


@pytest.fixture(scope="module")
def written(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as Spark writes it: pages with and without a dictionary, several of them a column, statistics, a null."""
    folder = tmp_path_factory.mktemp("pages") / "rows"
    rows = spark.range(ROWS).select(
        F.concat(F.lit("e"), F.sha2(F.col("id").cast("string"), 256)).alias("ids"),
        F.concat(F.lit("s"), F.col("id") % 3).alias("words"),
        F.when(F.col("id") > 5, F.col("id") * 1.5).alias("numbers"),
    )
    rows.coalesce(1).write.option("parquet.page.size", "65536").parquet(str(folder))
    return next(folder.glob("*.parquet"))


def require(file: Path, columns: tuple[str, ...]) -> None:
    with pa.OSFile(str(file)) as stream:
        require_page_sums(str(file), stream, pq.ParquetFile(stream).metadata, columns)


def test_whole_pages_pass_and_a_flipped_bit_does_not(written: Path, tmp_path: Path) -> None:
    require(written, ("ids", "words", "numbers"))
    group = pq.ParquetFile(written).metadata.row_group(0)
    for place in range(group.num_columns):
        column = group.column(place)
        data = bytearray(written.read_bytes())
        start = column.dictionary_page_offset or column.data_page_offset
        data[start + column.total_compressed_size - 3] ^= 0b100  # behind the last header, which has no sum
        copy = tmp_path / "copy.parquet"
        copy.write_bytes(data)
        with pytest.raises(DataError, match="copy.parquet: cannot be read, the checksum of a page does not hold"):
            require(copy, (column.path_in_schema,))
        require(copy, tuple({"ids", "words", "numbers"} - {column.path_in_schema}))


def test_pages_without_a_checksum_are_not_refused(tmp_path: Path) -> None:
    file = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"words": ["a", "b", None] * 5000, "numbers": range(15000)}), file, data_page_size=4096)
    require(file, ("words", "numbers"))
