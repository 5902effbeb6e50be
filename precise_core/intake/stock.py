"""Which files of an own source are read tonight, whether their columns have changed, and what is recorded of them.

A file is taken once, recorded as a row of `source_files`; a file of the same size and time is trusted, any other one is
compared by its SHA-256. Where the table it was taken into was removed, or made anew, it is read again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from precise_core.errors import DataError, SchemaError
from precise_core.sources.cells import Batch
from precise_core.sources.column_drift import columns_to_remember, differences
from precise_core.sources.config import FilesSource, TableInput
from precise_core.sources.files import inputs_of, needs_of
from precise_core.sources.formats import batches_of, columns_of, warnings_of, why_without_rows
from precise_core.sources.listing import look_up, no_such_file, sha256_of
from precise_core.sources.objects import SourceFile, folder_of, is_there
from precise_core.sources.typed_formats import delta_version, jdbc_label
from precise_core.warehouse.session import require_names, require_s3
from schemas import columns as c

Record = Mapping[str, Any]  # a row of `source_files`
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_NAMED = 10  # files that a message names; of more it gives the number


@dataclass(frozen=True)
class Policy:
    """The flags of the command line about files.

    Args:
        full: Take every file again.
        evolve: Accept columns that are of another kind than before.
        reread: Take a file again whose content has changed, whatever `changed_files` says.
        reassign: Accept corrections that give a row to another user.
    """

    full: bool = False
    evolve: bool = False
    reread: bool = False
    reassign: bool = False


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A file (or Delta table, or database table) that is read tonight.

    Args:
        path: The real path, or the label of the database table; `source_files` and rejected rows have it.
        file: The file as the configuration reaches it, for messages; None for a database table.
        checksum: Of the content, or the version of a Delta table.
        sequence: Place in the order of taking.
    """

    path: str
    file: SourceFile | None = None
    size_bytes: int = 0
    modified_at: datetime = NO_TIME
    checksum: str = ""
    columns: Mapping[str, str]
    sequence: int
    version: int | None = None

    @property
    def must_have_rows(self) -> bool:
        """Files without rows are not taken; a Delta or database table may have none."""
        return self.file is not None and self.version is None

    def record(self, table_name: str, table_id: str, rows: int, run_id: str, taken_at: datetime) -> dict[str, Any]:
        """Its row of `source_files`."""
        return {
            c.TABLE_NAME: table_name,
            "table_id": table_id,
            c.PATH: self.path,
            "size_bytes": self.size_bytes,
            "modified_at": self.modified_at,
            "checksum": self.checksum,
            "columns": dict(self.columns),
            "rows": rows,
            "sequence": self.sequence,
            c.RUN_ID: run_id,
            "taken_at": taken_at,
        }


@dataclass(frozen=True)
class Intake:
    """What is read tonight, by table name, and messages about the rest."""

    arrivals: dict[str, list[Arrival]] = field(default_factory=dict)
    batches: dict[str, list[Batch]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


def decide_what_to_read(
    spark: SparkSession, source: FilesSource, known: Sequence[Record], table_ids: Mapping[str, str], policy: Policy
) -> Intake:
    """Decide what of ``source`` is read tonight; ``table_ids`` are those of the existing tables, by name."""
    intake = Intake()
    for name, spec in inputs_of(source).items():
        own = {record[c.PATH]: record for record in known if record[c.TABLE_NAME] == name}
        lost = lost_files(own, table_ids.get(name))
        arrivals, messages = _arrivals(spark, spec, own, lost, policy)
        if lost and not policy.full:
            require_lost_files(name, lost, [arrival.path for arrival in arrivals])
            messages.append(
                f"the table is gone or was made anew: {len(lost)} files that were taken into it are read again"
            )
        require_names(spark, [arrival.path for arrival in arrivals if arrival.file])
        require_s3(spark, str(spec.path))
        batches = _batches(spec, arrivals)
        arrivals, accepted = _with_checked_columns(spec, own, arrivals, policy.evolve)
        skipped = len(own.keys() - {arrival.path for arrival in arrivals})
        intake.arrivals[name] = arrivals
        intake.batches[name] = batches
        intake.messages.extend(f"{name}: {line}" for line in [*messages, *accepted])
        intake.messages.append(f"{name}: {len(arrivals)} to read, {skipped} taken before")
    return intake


def _arrivals(
    spark: SparkSession, spec: TableInput, known: Mapping[str, Record], lost: Container[str], policy: Policy
) -> tuple[list[Arrival], list[str]]:
    """What is read, in the order of taking: known files keep their place, new ones follow, by path."""
    first = max((record["sequence"] for record in known.values()), default=0) + 1
    if spec.jdbc is not None:
        label = jdbc_label(spec.jdbc)
        sequence = known[label]["sequence"] if label in known else first
        return [Arrival(path=label, columns=columns_of(spark, spec, None), sequence=sequence)], []
    if spec.format_in_use == "delta":
        return _delta_arrivals(spark, spec, known, lost, first, policy), []
    arrivals = []
    listing = look_up(str(spec.path))
    messages, empty = [f"warning: {note}" for note in listing.notes], []
    for file in listing.files:
        record, is_lost = known.get(str(file.resolve())), str(file.resolve()) in lost
        is_changed = record is not None and checksum_of(file, record) != record["checksum"]
        if record is not None and not (is_changed or is_lost or policy.full):
            continue
        if why := why_without_rows(spec, file):
            _require_no_loss(file, record, policy)
            empty.append(f"{file}: {why}")
            continue
        if record is not None and is_changed:
            if not is_lost:
                _require_permission(file, record, spec, policy)
            messages.append(f"{file.name} has changed since it was taken and is read again")
        if record is None or is_changed:
            arrivals.append(_arrival_of(spark, spec, file, first))
            first += 1
        else:
            arrivals.append(_arrival_of(spark, spec, file, record["sequence"]))
    # Files that were taken may be archived; then there is simply nothing new.
    is_nothing = len(empty) == len(listing.files)
    if is_nothing and not (known and not policy.full and not any(map(is_there, known))):
        raise DataError(empty[0] if empty else no_such_file(str(spec.path)))
    messages += [f"warning: {line}; it is left out tonight" for line in empty]
    messages += [line for arrival in arrivals if arrival.file for line in warnings_of(spec, arrival.file)]
    return sorted(arrivals, key=lambda arrival: arrival.sequence), messages


def _require_no_loss(file: SourceFile, record: Record | None, policy: Policy) -> None:
    if policy.full and record is not None and record["rows"]:
        raise DataError(f"{file}: empty now, and was not when it was taken; --full would lose its rows")


def _require_permission(file: SourceFile, record: Record, spec: TableInput, policy: Policy) -> None:
    if not (policy.full or policy.reread or spec.changed_files == "read_again"):
        raise DataError(
            f"{file}: has changed since run {record[c.RUN_ID]} took it; a file is taken once: put what is new into "
            "another file, or read this one again with --reread (always: `changed_files: read_again`)"
        )


def _arrival_of(spark: SparkSession, spec: TableInput, file: SourceFile, sequence: int) -> Arrival:
    size_bytes, modified = _look(file)
    return Arrival(
        path=str(file.resolve()),
        file=file,
        size_bytes=size_bytes,
        modified_at=modified,
        checksum=sha256_of(file),
        columns=columns_of(spark, spec, file),
        sequence=sequence,
    )


def _delta_arrivals(
    spark: SparkSession,
    spec: TableInput,
    known: Mapping[str, Record],
    lost: Container[str],
    sequence: int,
    policy: Policy,
) -> list[Arrival]:
    folder = folder_of(str(spec.path))
    version = delta_version(folder)
    checksum = f"version {version}"
    is_taken = str(folder) in known and known[str(folder)]["checksum"] == checksum
    if is_taken and not policy.full and str(folder) not in lost:
        return []
    columns, path = columns_of(spark, spec, folder), str(folder)
    return [Arrival(path=path, file=folder, checksum=checksum, columns=columns, sequence=sequence, version=version)]


def _with_checked_columns(
    spec: TableInput, known: Mapping[str, Record], arrivals: Sequence[Arrival], evolve: bool
) -> tuple[list[Arrival], list[str]]:
    """The arrivals with the columns to remember, and what differs from those of the file before it."""
    needs, is_open = needs_of(spec), spec.format_in_use == "jsonl"
    with_rows = [record for record in known.values() if record["rows"]]
    last = max(with_rows, key=lambda record: record["sequence"], default=None)
    before = None if last is None else dict(last["columns"])
    checked, messages = [], []
    for arrival in arrivals:
        record = known.get(arrival.path)
        if record is not None and arrival.checksum and arrival.checksum == record["checksum"]:
            checked.append(replace(arrival, columns=record["columns"]))  # looked at when it was taken
            continue
        if before is not None:
            retyped, harmless = differences(before, arrival.columns, needs, is_open=is_open)
            if retyped and not evolve:
                raise SchemaError(
                    f"{arrival.file or arrival.path}: its columns differ from those taken before: "
                    f"{'; '.join(retyped)}; correct the file, or accept them with --evolve"
                )
            name = arrival.path.rpartition("/")[2]
            messages += [f"{name}: {difference}, accepted" for difference in retyped]
            messages += [f"warning: {name}: {difference}" for difference in harmless]
        before = columns_to_remember(before or {}, arrival.columns, is_open=is_open)
        checked.append(replace(arrival, columns=before))
    return checked, messages


def _batches(spec: TableInput, arrivals: Sequence[Arrival]) -> list[Batch]:
    if spec.jdbc is not None:
        return [Batch() for _ in arrivals]
    if spec.format_in_use == "delta":
        return [Batch((one.file,), one.version) for one in arrivals if one.file]
    return batches_of(spec, [one.file for one in arrivals if one.file])


def _look(file: SourceFile) -> tuple[int, datetime]:
    return file.stat().st_size, modified_at(file)


def modified_at(file: SourceFile) -> datetime:
    return NO_TIME + timedelta(microseconds=file.stat().st_mtime_ns // 1000)


def checksum_of(file: SourceFile, record: Record | None) -> str:
    """SHA-256 of a file; a file of the size and time of ``record`` is trusted, and not read for it.

    Of an object its etag, which the listing has.
    """
    if record is not None and isinstance(file, Path) and _look(file) == (record["size_bytes"], record["modified_at"]):
        return str(record["checksum"])
    return sha256_of(file)


def lost_files(own: Mapping[str, Record], table_id: str | None) -> set[str]:
    """Paths whose rows were lost with the table they were taken into; ``table_id`` is that of the current table."""
    if table_id is None:
        return set(own)
    return {path for path, record in own.items() if record["table_id"] not in (None, table_id)}


def require_lost_files(table_name: str, lost: Iterable[str], read_again: Iterable[str]) -> None:
    """Refuse to go on without the rows of files that can no longer be read.

    Raises:
        DataError: A lost file is not among those read again; the message names it, and says what to do.
    """
    missing: Sequence[str] = sorted(set(lost) - set(read_again))
    if missing:
        more = f", and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataError(
            f"table {table_name}: it is gone or was made anew since these files were taken, and they are not in the "
            f"source any more (or are empty): {', '.join(missing[:_NAMED])}{more}; put them back, or accept that their "
            "rows are lost: --full makes the tables what the files there say"
        )
