"""Bookkeeping: what every run did, and what every gate saw."""

from schemas import columns as c
from schemas.table import Column, Table

VALIDATION_RESULTS = Table(
    name="validation_results",
    doc="The outcome of one expectation on one table in one run.",
    key=(c.RUN_ID, "table_name", "part", "expectation", "column"),
    written_by="every gated job",
    columns=(
        Column(name=c.RUN_ID, type="string", doc="The run that checked."),
        Column(name="table_name", type="string", doc="The table that was checked before it was written."),
        Column(name="part", type="string", doc="The slice that was checked (a task), empty for the whole table."),
        Column(name="expectation", type="string", doc="Great Expectations name of the rule."),
        Column(name="column", type="string", doc="Column or columns it looks at; empty for the whole table."),
        Column(name="level", type="string", doc="`fail` = the job stops before it writes, `warn` = only noted."),
        Column(name="success", type="boolean", doc="Whether it held."),
        Column(name="element_count", type="bigint", doc="Rows it looked at."),
        Column(name="unexpected_count", type="bigint", doc="Rows that broke it."),
        Column(name="checked_at", type="timestamp", doc="When, UTC."),
    ),
)

RUNS = Table(
    name="runs",
    doc="One run of one job: what it read, what it wrote, how long it took.",
    key=(c.RUN_ID,),
    written_by="every job",
    columns=(
        Column(name=c.RUN_ID, type="string", doc="Identity of the run."),
        Column(name=c.JOB, type="string", doc="Name of the job."),
        Column(name="status", type="string", doc="succeeded or failed."),
        Column(name="started_at", type="timestamp", doc="When it started, UTC."),
        Column(name="seconds", type="double", doc="How long it took."),
        Column(name="config_hash", type="string", doc="SHA-256 of the resolved configuration."),
        Column(name="code_version", type="string", doc="Git commit or package version."),
        Column(name="input_versions", type="map<string,bigint>", doc="Delta version of every table it read."),
        Column(name="output_versions", type="map<string,bigint>", doc="Delta version of every table it left behind."),
        Column(
            name="table_ids",
            type="map<string,string>",
            nullable=True,
            doc="Delta's identity of each of these tables: a table made anew at the same place has another.",
        ),
        Column(name="input_fingerprint", type="string", doc="Hash of what it read beside tables: files, checkpoints."),
        Column(name="rows_in", type="bigint", doc="Rows it took in, in the unit the job states."),
        Column(name="rows_out", type="bigint", doc="Rows it passed on."),
        Column(name="rows_rejected", type="bigint", doc="Rows it refused; rows_in = rows_out + rows_rejected."),
        Column(name="row_unit", type="string", doc="What a row is in the three counts."),
        Column(name="metrics", type="map<string,double>", doc="Figures the job reports."),
        Column(
            name="artefacts",
            type="map<string,string>",
            doc="Checkpoints and indexes it made, by name; empty = none in use now.",
        ),
        Column(
            name="error",
            type="string",
            nullable=True,
            doc="Message of a failed run, without values of the data.",
        ),
        Column(name="configuration", type="string", doc="The resolved configuration as JSON."),
    ),
)
