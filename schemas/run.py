"""Bookkeeping: the record of every run, and the results of every gate."""

from schemas import columns as c
from schemas.table import Column, Table

VALIDATION_RESULTS = Table(
    name="validation_results",
    doc="The outcome of one expectation on one table in one run.",
    key=(c.RUN_ID, "table_name", "part", "expectation", "column"),
    written_by="every gated job",
    columns=(
        Column(c.RUN_ID, "string", "The run that checked."),
        Column("table_name", "string", "The table that was checked before it was written."),
        Column("part", "string", "The slice that was checked (a task), empty for the whole table."),
        Column("expectation", "string", "Great Expectations name of the rule."),
        Column("column", "string", "Column or columns it looks at; empty for the whole table."),
        Column("level", "string", "`fail` = the job stops before it writes, `warn` = only noted."),
        Column("success", "boolean", "Whether it held."),
        Column("element_count", "bigint", "Rows it looked at."),
        Column("unexpected_count", "bigint", "Rows that broke it."),
        Column("checked_at", "timestamp", "When, UTC."),
    ),
)

RUNS = Table(
    name="runs",
    doc="One run of one job: what it read, what it wrote, how long it took.",
    key=(c.RUN_ID,),
    written_by="every job",
    columns=(
        Column(c.RUN_ID, "string", "Identity of the run."),
        Column(c.JOB, "string", "Name of the job."),
        Column("status", "string", "succeeded or failed."),
        Column("started_at", "timestamp", "When it started, UTC."),
        Column("seconds", "double", "How long it took."),
        Column("config_hash", "string", "SHA-256 of the resolved configuration."),
        Column("code_version", "string", "Git commit or package version."),
        Column("input_versions", "map<string,bigint>", "Delta version of every table it read."),
        Column("output_versions", "map<string,bigint>", "Delta version of every table it left behind."),
        Column(
            "table_ids",
            "map<string,string>",
            "Delta's identity of each of these tables: a table made anew at the same place has another.",
            nullable=True,
        ),
        Column("input_fingerprint", "string", "Hash of what it read beside tables: files, checkpoints."),
        Column("rows_in", "bigint", "Rows it took in, in the unit the job states."),
        Column("rows_out", "bigint", "Rows it passed on."),
        Column("rows_rejected", "bigint", "Rows it refused; rows_in = rows_out + rows_rejected."),
        Column("row_unit", "string", "What a row is in the three counts."),
        Column("metrics", "map<string,double>", "Figures the job reports."),
        Column("artefacts", "map<string,string>", "Checkpoints and indexes it made, by name; empty = none in use now."),
        Column("error", "string", "Message of a failed run, without values of the data.", nullable=True),
        Column("configuration", "string", "The resolved configuration as JSON."),
    ),
)
