"""One entrance to every source: the adapter that a configuration names."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pyspark.sql import SparkSession

from precise_core.data_sets import amazon_sequences, amazon_titles, completejourney, movielens, synthetic
from precise_core.intake.stock import Record, checksum_of
from precise_core.sources import files
from precise_core.sources.cells import Batch
from precise_core.sources.config import FilesSource, Source, SyntheticSource
from precise_core.sources.listing import fingerprint_files
from precise_core.sources.objects import SourceFile
from precise_core.sources.raw import RawTables
from schemas import columns as c

_GENERATED_BYTES = 100  # a row that is made up, as if it were in a file


class Adapter(Protocol):
    """The module of a source; ``source`` is its part of the configuration."""

    def read(self, spark: SparkSession, source: Any, /) -> RawTables:
        """The rows in the raw shape (precise_core/sources/raw.py)."""

    def input_files(self, source: Any, /) -> Sequence[SourceFile]:
        """The files that it is read from."""

    def has_impressions(self, source: Any, /) -> bool:
        """Whether the source has impressions, without which there is nothing to rank."""

    def describe(self, source: Any, /) -> str:
        """One sentence for reports: what the data is and where it comes from."""


_ADAPTERS: Mapping[str, Adapter] = {
    "files": files,
    "completejourney": completejourney,
    "amazon_titles": amazon_titles,
    "amazon_sequences": amazon_sequences,
    "movielens_small": movielens,
    "synthetic": synthetic,
}


def read_source(spark: SparkSession, source: Source, batches: Mapping[str, Sequence[Batch]] | None = None) -> RawTables:
    """``Adapter.read``; of own files only ``batches``, if given."""
    if isinstance(source, FilesSource):
        return files.read(spark, source, batches)
    return _ADAPTERS[source.kind].read(spark, source)


def has_impressions(source: Source) -> bool:
    return _ADAPTERS[source.kind].has_impressions(source)


def describe_source(source: Source) -> str:
    return _ADAPTERS[source.kind].describe(source)


def input_bytes(source: Source) -> int:
    """About how much will be read; very much where only a database or a Delta table could tell."""
    if isinstance(source, SyntheticSource):
        return int(source.users * source.events_per_user) * _GENERATED_BYTES
    if isinstance(source, FilesSource) and any(
        spec.jdbc is not None or spec.format_in_use == "delta" for spec in files.inputs_of(source).values()
    ):
        return sys.maxsize
    return sum(file.stat().st_size for file in _ADAPTERS[source.kind].input_files(source))


def source_fingerprint(source: Source, known: Sequence[Record] = ()) -> str:
    """SHA-256 over the source's configuration and its files' names, sizes and contents: equal input, equal hash.

    Args:
        known: The rows of `source_files`: a file of the size and time they know is not read to hash it.
    """
    content = synthetic.GENERATOR if isinstance(source, SyntheticSource) else _files_fingerprint(source, known)
    if isinstance(source, FilesSource):
        content += files.state_of_tables(source)
    text = json.dumps(source.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{text}\n{content}".encode()).hexdigest()


def _files_fingerprint(source: Source, known: Sequence[Record]) -> str:
    records = {record[c.PATH]: record for record in known}
    inputs = _ADAPTERS[source.kind].input_files(source)
    return fingerprint_files(inputs, lambda file: checksum_of(file, records.get(str(file.resolve()))))
