"""One run of one job: pinned reads, gated writes, log lines and counts, one row in `runs`."""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession

from precise_core.artefacts import CHECKPOINTS, ROLLBACK_JOURNAL
from precise_core.artefacts import TABLES as TABLES_FOLDER
from precise_core.config import config_hash
from precise_core.errors import InterruptedRollbackError, RowCountError
from precise_core.run.code import code_version
from precise_core.run.progress import StepProgress, console, spark_progress
from precise_core.run.run_log import send_spark_log_to
from precise_core.store import Place, below, store_at
from precise_core.warehouse.holders import Lease
from precise_core.warehouse.locks import require_held
from precise_core.warehouse.session import get_session, jobs_so_far, plan_for, require_names
from precise_core.warehouse.tables import Warehouse, WriteResult
from precise_core.warehouse.task_files import TaskFiles
from precise_core.warehouse.upsert import UpsertResult
from schemas import RUNS, TABLES, VALIDATION_RESULTS, Table

if TYPE_CHECKING:
    from precise_core.settings import Settings


_LIGHT_BYTES = 32 << 20


class GateOutcome(Protocol):
    """What a validation gate returns (validation.gate)."""

    @property
    def records(self) -> list[dict[str, Any]]: ...

    @property
    def warnings(self) -> list[str]: ...

    @property
    def seconds(self) -> float: ...

    def with_levels(self, levels: Mapping[str, Literal["fail", "warn"]]) -> GateOutcome: ...

    def raise_on_failure(self) -> None: ...


class TrainedCheckpoint(Protocol):
    """What a training returns (training.checkpoint), as far as a run records it."""

    @property
    def model_version(self) -> str: ...

    @property
    def manifest(self) -> Any: ...


class Job:
    """One run of one job: all that it reads and writes goes through here and is recorded."""

    def __init__(
        self, name: str, settings: Settings, arguments: argparse.Namespace, checkpoints: Place | None = None
    ) -> None:
        self.name = name
        self.root = below(settings.warehouse)
        self.checkpoints = checkpoints or below(self.root, CHECKPOINTS)
        self.settings = settings
        self.arguments = arguments
        self.warehouse = Warehouse(settings.warehouse)
        self.run_id = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.input_versions: dict[str, int] = {}
        self.output_versions: dict[str, int] = {}
        self.input_fingerprints: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        self.artefacts: dict[str, str] = {}
        self.rows = {"rows_in": 0, "rows_out": 0, "rows_rejected": 0, "row_unit": "rows"}
        self.input_bytes = 0  # of what is read from outside the warehouse, where a job knows it
        self.lease: Lease | None = None
        self.log_file: Path | None = None  # where Spark's own lines go; None: to the terminal

    @cached_property
    def spark(self) -> SparkSession:
        """The session, started on first use: jobs that only train need none."""
        config, data_bytes = self.settings.spark, self._bytes()
        is_light = config.java == "light" or (config.java == "auto" and data_bytes < _LIGHT_BYTES)
        session = get_session(f"precise-{self.name}", config, is_light=is_light, environment=self.settings.name)
        plan_for(session, config, data_bytes)
        self._jobs_before = jobs_so_far(session)
        require_names(session, [self.warehouse.root])
        if self.log_file:
            send_spark_log_to(session, self.log_file)
        return session

    def _bytes(self) -> int:
        """Of the source, where the job knows it, and of all tables."""
        stored = store_at(self.root).list(TABLES_FOLDER)
        return self.input_bytes + sum(entry.size_bytes for entry in stored if entry.name.endswith(".parquet"))

    @property
    def scratch(self) -> Path:
        """Where this machine keeps what is of it alone: logs, what is half-done. A local warehouse has it inside."""
        return store_at(self.root).scratch

    def require_held(self) -> None:
        """To be called before whatever makes others see a change: refuse it where the warehouse is no longer ours."""
        require_held(self.settings.warehouse)

    def say(self, message: str) -> None:
        console.print(f"  {message}", markup=False)

    def progress(self, unit: str = "steps") -> StepProgress:
        return StepProgress(unit)

    def pin(self, table: Table) -> int:
        """The version of ``table`` this run reads, fixed by the first call."""
        if table.name not in self.input_versions:
            self.pin_at(table, self.warehouse.version(table))
        return self.input_versions[table.name]

    def pin_at(self, table: Table, version: int) -> int:
        """A version that a publication has chosen; where a run reads several of a table, the oldest is recorded."""
        self.input_versions[table.name] = min(version, self.input_versions.get(table.name, version))
        if self.lease:
            self.lease.pin(table.name, self.input_versions[table.name])
        return version

    def read(self, table: Table) -> DataFrame:
        version = self.pin(table)
        return self.warehouse.read(self.spark, table, version)

    def read_optional(self, table: Table) -> DataFrame | None:
        """The table, or None where no earlier job has written it."""
        return self.read(table) if self.warehouse.exists(table) else None

    def read_written(self, table: Table) -> DataFrame:
        """What this run has just written, pinned at that version."""
        return self.warehouse.read(self.spark, table, self.output_versions[table.name])

    def watching(self, description: str) -> AbstractContextManager[None]:
        """Shows how far Spark is while the block runs."""
        return spark_progress(self.spark, description)

    def check(self, outcome: GateOutcome) -> None:
        """Record what a validation gate found and what it cost; stop where it failed."""
        outcome = outcome.with_levels(self.settings.gates.levels)
        self.metrics["gate_seconds"] = self.metrics.get("gate_seconds", 0.0) + outcome.seconds
        self.require_held()
        self.warehouse.append_records(VALIDATION_RESULTS, outcome.records)
        for warning in outcome.warnings:
            self.say(f"warning: {warning}")
        outcome.raise_on_failure()

    def write(
        self,
        table: Table,
        frame: DataFrame,
        *,
        replace: Mapping[str, str] | None = None,
        note: Mapping[str, Any] | None = None,
        check: Callable[[DataFrame], None] | None = None,
    ) -> int:
        """Make ``frame`` the table (or the slice ``replace``); returns its rows.

        ``check`` is given the computed rows before the commit; where it raises, nothing is written.
        """
        to_table = partial(self.warehouse.write, self.spark, table, frame, run_id=self.run_id)

        def check_and_ask(rows: DataFrame) -> None:
            if check:
                check(rows)
            self.require_held()  # minutes after the job has begun to compute

        write = partial(to_table, replace=replace, note=note, check=check_and_ask)
        return self._commit("writing", table, write, replace)

    def write_files(self, files: TaskFiles, *, note: Mapping[str, Any] | None = None) -> int:
        """Make what tasks have written into a table's folder its content; returns its rows."""

        def ask(_: DataFrame) -> None:
            self.require_held()

        to_table = partial(self.warehouse.write_files, self.spark, files, run_id=self.run_id)
        return self._commit("writing", files.table, partial(to_table, note=note, check=ask))

    def replace_partitions(
        self,
        table: Table,
        frame: DataFrame,
        partitions: Sequence[Mapping[str, Any]],
        note: Mapping[str, Any] | None = None,
    ) -> int:
        """Make ``frame`` the content of these partitions; returns the rows written."""
        write = partial(self.warehouse.replace_partitions, table, frame, partitions, run_id=self.run_id, note=note)
        return self._commit("writing", table, write)

    def keep(self, table: Table) -> None:
        """Nothing to write: the current version is recorded as the output of this run."""
        version = self.output_versions[table.name] = self.warehouse.version(table)
        self.say(f"{table.name}: {_state(version, changed=False)}")

    def added(self, table: Table, result: UpsertResult) -> None:
        """Record and log what an upsert did to a table."""
        self.output_versions[table.name] = result.version
        counts = {"new": result.new, "corrected": result.corrected, "already_stored": result.kept}
        self.metrics |= {f"{table.name}/{name}": float(rows) for name, rows in counts.items()}
        shown = ", ".join(f"{rows:,} {name.replace('_', ' ')}" for name, rows in counts.items())
        self.say(f"{table.name}: {shown}; {_state(result.version, result.changed)}")

    def append(self, table: Table, frame: DataFrame) -> int:
        """Add the rows of ``frame``; returns how many."""
        write = partial(self.warehouse.append, table, frame, run_id=self.run_id)
        return self._commit("appending to", table, write)

    def write_records(self, table: Table, records: Sequence[Mapping[str, Any]]) -> None:
        """Make a few rows the content of a small table, without Spark."""
        self.require_held()
        self.output_versions[table.name] = self.warehouse.replace_records(table, records)
        self.say(f"{table.name}: {len(records):,} rows, version {self.output_versions[table.name]}")

    def describe_checkpoint(self, key: str, checkpoint: TrainedCheckpoint) -> None:
        """Record and log the checkpoint that a training chose for ``key``, with its metrics on the validation slice."""
        self.artefacts[f"checkpoint:{key}"] = checkpoint.model_version
        for name, value in checkpoint.manifest.metrics.items():
            self.metrics[f"{key}/{name}"] = value
        shown = ", ".join(f"{name} {value:.4f}" for name, value in checkpoint.manifest.metrics.items())
        self.say(f"{key}: checkpoint {checkpoint.model_version}, epoch {checkpoint.manifest.best_epoch} kept; {shown}")

    def balance(self, unit: str, *, rows_in: int, rows_out: int, rows_rejected: int = 0) -> None:
        """Record and log where every row went; lost ones are an error."""
        self.rows = {"rows_in": rows_in, "rows_out": rows_out, "rows_rejected": rows_rejected, "row_unit": unit}
        self.say(f"{unit}: {rows_in:,} in = {rows_out:,} out + {rows_rejected:,} rejected or left out")
        if rows_in != rows_out + rows_rejected:
            lost = rows_in - rows_out - rows_rejected
            raise RowCountError(
                f"{self.name}: {rows_in} {unit} in, but {rows_out} out + {rows_rejected} rejected; {lost} are lost"
            )

    def release(self) -> None:
        """Drop what the job cached: the next job of a night runs in the same session."""
        if "spark" in self.__dict__:
            with suppress(Py4JError, ConnectionError):  # where Java has died, nothing is cached
                self.spark.catalog.clearCache()

    def end_application(self) -> None:
        """With lineage, which knows jobs as Spark applications, the next job of a night starts its own."""
        if self.settings.spark.lineage and "spark" in self.__dict__:
            with suppress(Py4JError, ConnectionError):
                self.spark.stop()

    def record(self, status: str, started_at: datetime, seconds: float, error: str | None) -> None:
        """Write the run down, with the number of jobs that Spark has run for it."""
        if "spark" in self.__dict__:
            with suppress(Py4JError, ConnectionError):
                self.metrics["spark_jobs"] = float(jobs_so_far(self.spark) - self._jobs_before)
        row = {
            "run_id": self.run_id,
            "job": self.name,
            "status": status,
            "started_at": started_at,
            "seconds": seconds,
            "config_hash": config_hash(self.settings),
            "code_version": code_version(),
            "input_versions": self.input_versions,
            "output_versions": self.output_versions,
            "table_ids": self._table_ids(),
            "input_fingerprint": json.dumps(self.input_fingerprints, sort_keys=True),
            "metrics": {key: float(value) for key, value in self.metrics.items()},
            "artefacts": self.artefacts,
            "error": error,
            "configuration": self.settings.model_dump_json(),
            **self.rows,
        }
        self.warehouse.append_records(RUNS, [row])

    def _table_ids(self) -> dict[str, str]:
        names = self.input_versions.keys() | self.output_versions.keys()
        there = [table for table in TABLES if table.name in names and self.warehouse.exists(table)]
        return {table.name: self.warehouse.table_id(table) for table in there}

    def _commit(
        self, doing: str, table: Table, write: Callable[[], WriteResult], replace: Mapping[str, str] | None = None
    ) -> int:
        self.require_held()
        started = time.monotonic()
        with spark_progress(self.spark, f"{doing} {table.name}"):
            result = write()
        seconds, rows = time.monotonic() - started, result.rows
        self.output_versions[table.name] = result.version
        where = f" [{', '.join(replace.values())}]" if replace else ""
        speed = f"{seconds:.1f} s ({rows / max(seconds, 0.1):,.0f} rows/s)"
        self.say(f"{table.name}{where}: {rows:,} rows, {_state(result.version, result.changed)}, {speed}")
        return rows


def _state(version: int, changed: bool) -> str:
    return f"version {version}" if changed else f"unchanged, version {version} kept"


def require_no_rollback(warehouse: str | Path) -> None:
    """Refuse to work on tables that an interrupted rollback has left between two states; it alone may go on."""
    journal = store_at(warehouse).get(ROLLBACK_JOURNAL)
    if journal is not None:
        raise InterruptedRollbackError(
            f"warehouse {warehouse}: a rollback to {json.loads(journal.text)['to_run']} was interrupted; "
            "run jobs/rollback.py with the same --to-run to finish it first"
        )
