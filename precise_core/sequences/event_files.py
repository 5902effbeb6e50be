"""Events of a pinned version read by the tasks themselves: whole Parquet files as Arrow, past the JVM's row format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from precise_core.errors import DataError, NewerFileError
from precise_core.warehouse.page_sums import require_page_sums
from precise_core.warehouse.places import file_of
from schemas import columns as c

EVENTS_OF_SEQUENCES = (c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION, c.EVENT_TS)

_REPEATED = [c.USER_ID, c.ITEM_ID, c.SCENE, c.ACTION]  # as dictionaries, as they lie in the file
_SHARE_ROWS = 1_000_000  # that a task reads, at least where there are several files
_BATCH_ROWS = 1 << 19


@dataclass(frozen=True)
class EventFiles:
    """Files of one version of `events`, the number of rows in them all, and the vocabulary of their items.

    Args:
        files: URIs with the real characters, not percent-encoded ones.
        vocabulary: item_id and item_index; every task gets it.
    """

    files: Sequence[str]
    rows: int
    vocabulary: pa.Table

    def frame(self, spark: SparkSession) -> tuple[DataFrame, FileShares]:
        """A frame with a number for each share of the files, a task each, and what reads them."""
        each = self.rows / max(1, len(self.files))
        size = max(1, round(_SHARE_ROWS / each)) if each else 1
        shares = [list(self.files[first : first + size]) for first in range(0, len(self.files), size)]
        count = max(1, len(shares))
        return spark.range(0, count, 1, count), FileShares(shares)


@dataclass(frozen=True)
class FileShares:
    """Reads files by the number of their share; sent to tasks."""

    shares: Sequence[Sequence[str]]

    def events(self, numbers: Iterable[pa.RecordBatch], as_of: datetime) -> Iterator[pa.RecordBatch]:
        """``EVENTS_OF_SEQUENCES`` strictly before ``as_of``.

        Raises:
            DataError: A file is damaged or gone; the message names it.
            NewerFileError: pyarrow cannot read a file that Spark can.
        """
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                for uri in self.shares[number] if self.shares else ():
                    yield from _events(uri, as_of)


def _events(uri: str, as_of: datetime) -> Iterator[pa.RecordBatch]:
    until = pa.scalar(as_of, pa.timestamp("us", tz="UTC"))
    try:
        filesystem, path = file_of(uri)
        with filesystem.open_input_file(path) as stream, pq.ParquetFile(stream, read_dictionary=_REPEATED) as parquet:
            require_page_sums(path, stream, parquet.metadata, EVENTS_OF_SEQUENCES)
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=list(EVENTS_OF_SEQUENCES), use_threads=False):
                is_before = pc.less(batch.column(c.EVENT_TS), until)
                yield batch if pc.all(is_before).as_py() else batch.filter(is_before)
    except (OSError, pa.ArrowException) as error:
        if "Unrecognized type" in str(error):  # of the Arrow schema in the footer: deltalake's own writer, for one
            raise NewerFileError(f"{uri.removeprefix('file://')}: {error}") from error
        file, why = uri.removeprefix("file://"), str(error).partition("\n")[0]
        raise DataError(
            f"{file}: cannot be read, damaged, cut off or gone ({why}); docs/operations.md says how to get a file back"
        ) from error
