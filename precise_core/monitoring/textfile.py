"""`runs`, freshness and the figures of a night as metrics, in the text format of Prometheus.

All are gauges, with the label `environment` (the configuration's `name`): a file says how things stood when it was
written. Only alerts know what is too old or too bad (examples/prometheus/alerts.yaml). prometheus_client, which could
write the lines, is of the extra `serve`; a machine that runs jobs alone does without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import pyarrow.dataset as ds

from precise_core.consume.ages import freshness
from precise_core.evaluation.names import NDCG_GAIN, RECOMMENDATIONS
from precise_core.store.local import replace_file
from precise_core.warehouse.reader import TableReader
from schemas import EVALUATION_METRICS, PUBLISHED_MODELS, RUNS
from schemas import columns as c

if TYPE_CHECKING:
    from precise_core.settings import Settings

_RUN_COLUMNS = [c.JOB, "status", "started_at", "seconds", "rows_in", "rows_out", "rows_rejected", "metrics"]


class Family(NamedTuple):
    """A metric, with what `# HELP` says of it."""

    name: str
    meaning: str


SUCCEEDED = Family("precise_run_succeeded", "1 = the last run of the job succeeded.")
LAST_SUCCESS = Family("precise_run_last_success_seconds", "When a run of the job last succeeded, seconds since 1970.")
RUN_SECONDS = Family("precise_run_duration_seconds", "How long the last run of the job took.")
ROWS = Family("precise_run_rows", "Rows of the last successful run of the job: in = out + rejected.")
TABLE_AS_OF = Family("precise_table_as_of_seconds", "What the table says of the world ends here, seconds since 1970.")
TABLE_ROWS = Family("precise_table_rows", "Rows of the table.")
PUBLISHED_AS_OF = Family(
    "precise_published_as_of_seconds", "What is published for the task knows the world up to here, seconds since 1970."
)
INDEX_RECALL = Family("precise_index_recall", "Share of the nearest items by exact search that the index finds.")
DRIFT = Family("precise_drift", "How far the newest vectors are from those published before, by figure of gates.drift.")
NDCG_GAIN_MEAN = Family("precise_ndcg_gain", "NDCG of the published lists above that of the best simple reference.")
NDCG_GAIN_HIGH = Family("precise_ndcg_gain_high", "Upper end of the 95 % interval of precise_ndcg_gain.")
FAMILIES = (
    SUCCEEDED,
    LAST_SUCCESS,
    RUN_SECONDS,
    ROWS,
    TABLE_AS_OF,
    TABLE_ROWS,
    PUBLISHED_AS_OF,
    INDEX_RECALL,
    DRIFT,
    NDCG_GAIN_MEAN,
    NDCG_GAIN_HIGH,
)


class Sample(NamedTuple):
    """One value of a family."""

    family: Family
    labels: dict[str, str]
    value: float


def write_textfile(settings: Settings) -> str | None:
    """Write `monitoring.prometheus_file`, if it is configured, in one step.

    Returns:
        A warning where it could not be written: a monitor that is out of order must not stop a night.
    """
    file = settings.monitoring.prometheus_file
    if file is None:
        return None
    try:
        replace_file(Path(file), exposition(settings.warehouse, settings.name))
    except OSError as error:
        return f"monitoring.prometheus_file {file}: not written, {error.strerror or error}"
    except Exception as error:  # a table that cannot be read, a row of `runs` that an older state wrote
        reason = (str(error).splitlines() or [""])[0]
        return f"monitoring.prometheus_file {file}: not written, {type(error).__name__}: {reason}"
    return None


def exposition(warehouse: str | Path, environment: str) -> str:
    """The whole text file; families without a value are left out."""
    by_family: dict[Family, list[Sample]] = {family: [] for family in FAMILIES}
    for sample in _samples(TableReader(warehouse)):
        if not math.isnan(sample.value):
            by_family[sample.family].append(sample)
    lines: list[str] = []
    for family, samples in by_family.items():
        if samples:
            lines += [f"# HELP {family.name} {family.meaning}", f"# TYPE {family.name} gauge"]
            lines += [_line(sample, environment) for sample in samples]
    return "".join(f"{line}\n" for line in lines)


def _line(sample: Sample, environment: str) -> str:
    labels = {"environment": environment} | sample.labels
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{sample.family.name}{{{shown}}} {sample.value!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _samples(tables: TableReader) -> Iterator[Sample]:
    if tables.exists(RUNS):
        yield from _of_runs(tables.frame(RUNS, _RUN_COLUMNS).sort_values("started_at"))
        yield from _of_tables(freshness(tables.root))
    if tables.exists(PUBLISHED_MODELS):
        for row in tables.read(PUBLISHED_MODELS, [c.TASK, c.AS_OF]).to_pylist():
            yield Sample(PUBLISHED_AS_OF, {"task": row[c.TASK]}, row[c.AS_OF].timestamp())
    if tables.exists(EVALUATION_METRICS):
        yield from _of_lists(tables)


def _of_runs(runs: pd.DataFrame) -> Iterator[Sample]:
    """The last run of each job, and its last successful one; figures also of a run that refused to publish them."""
    for job, of_job in runs.groupby(c.JOB):
        labels, last = {"job": str(job)}, of_job.iloc[-1]
        yield Sample(SUCCEEDED, labels, float(last["status"] == "succeeded"))
        yield Sample(RUN_SECONDS, labels, float(last["seconds"]))
        yield from _figures(dict(last["metrics"]))
        good = of_job[of_job["status"] == "succeeded"]
        if len(good):
            done = good.iloc[-1]
            yield Sample(LAST_SUCCESS, labels, done["started_at"].timestamp() + float(done["seconds"]))
            for kind in ("in", "out", "rejected"):
                yield Sample(ROWS, labels | {"kind": kind}, float(done[f"rows_{kind}"]))


def _figures(metrics: dict[str, float]) -> Iterator[Sample]:
    for name, value in metrics.items():
        kind, _, rest = name.partition("/")
        task, _, figure = rest.partition("/")
        if kind == "index_recall":
            yield Sample(INDEX_RECALL, {"task": task}, value)
        elif kind == "drift":
            yield Sample(DRIFT, {"task": task, "figure": figure}, value)


def _of_tables(ages: pd.DataFrame) -> Iterator[Sample]:
    for row in ages[["table", "rows", "as_of"]].to_dict("records"):
        labels = {"table": str(row["table"])}
        yield Sample(TABLE_ROWS, labels, float(row["rows"]))
        if not pd.isna(row["as_of"]):
            yield Sample(TABLE_AS_OF, labels, row["as_of"].timestamp())


def _of_lists(tables: TableReader) -> Iterator[Sample]:
    chosen = (ds.field("question") == RECOMMENDATIONS) & (ds.field("metric") == NDCG_GAIN)
    columns = [c.TASK, "system", "user_filter", "value", "ci_high"]
    for row in tables.read(EVALUATION_METRICS, columns, chosen).to_pylist():
        labels = {"task": row[c.TASK], "system": row["system"], "user_filter": row["user_filter"]}
        yield Sample(NDCG_GAIN_MEAN, labels, row["value"])
        if row["ci_high"] is not None:
            yield Sample(NDCG_GAIN_HIGH, labels, row["ci_high"])
