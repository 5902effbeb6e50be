"""Check every table of the warehouse as it is, one pass per table, and across tables.

Fails after all tables are checked where an expectation of level `fail` does not hold.

Reads every table. Writes validation_results, which build_report shows.
"""

from precise_core.command import command, flag
from precise_core.errors import ConfigError, ValidationError
from precise_core.run.job import Job
from schemas import EVENTS, TABLES, Table
from validation.gate import GateResult
from validation.references import gates_of, tables_needed
from validation.volume import gate_volume


@command(flag("--table", "only this table; repeatable; all by default", action="append"))
def main(job: Job) -> None:
    names, gates = job.arguments.table or [], job.settings.gates
    unknown = sorted(set(names) - {table.name for table in TABLES})
    if unknown:
        raise ConfigError(f"--table {unknown[0]}: unknown; tables are {[table.name for table in TABLES]}")
    results: list[GateResult] = []
    for table in TABLES:
        if (names and table.name not in names) or not job.warehouse.exists(table):
            continue
        with job.watching(f"checking {table.name}"):
            results += _verdicts(job, table)
        if table is EVENTS:
            limits = gates.model_dump(include={"largest_volume_ratio", "smallest_mix_overlap", "trailing_days"})
            results.append(gate_volume(job.read(table), run_id=job.run_id, newest_days=gates.newest_days, **limits))
    failures = [failure for result in results for failure in _checked(job, result)]
    rows = sum(result.rows for result in results)
    job.balance("rows looked at", rows_in=rows, rows_out=rows)
    if failures:
        raise ValidationError(f"{len(failures)} expectations failed: " + "; ".join(failures))


def _verdicts(job: Job, table: Table) -> list[GateResult]:
    frame = job.read(table)
    others = {other.name: job.read(other) for other in tables_needed(table) if job.warehouse.exists(other)}
    return gates_of(table, frame, others, settings=job.settings, run_id=job.run_id)


def _checked(job: Job, result: GateResult) -> list[str]:
    try:
        job.check(result)
    except ValidationError as error:
        job.say(str(error))
        failures = result.with_levels(job.settings.gates.levels).failures
        return [f"table {result.table.name}: {failure}" for failure in failures]
    return []


if __name__ == "__main__":
    raise SystemExit(main())
