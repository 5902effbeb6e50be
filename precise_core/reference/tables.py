"""Render every table declaration to docs/tables.md: `python -m precise_core.reference.tables`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from schemas import TABLES, Column, Table

TARGET = Path(__file__).resolve().parents[2] / "docs" / "tables.md"

_HEADER = """# Tables

Generated from `schemas/` by `make references`; do not edit. Every table is a Delta table under
`<warehouse>/tables/<name>`.
Times are UTC. A column is never null unless the table says so.
"""


def render(tables: Iterable[Table]) -> str:
    """One Markdown page: a list of the tables, then each with its key, partitions, writer and columns."""
    tables = list(tables)
    parts = [_HEADER, _overview(tables), *(_section(table) for table in tables)]
    return "\n".join(parts)


def main() -> None:
    TARGET.write_text(render(TABLES), encoding="utf-8")
    print(f"wrote {TARGET.name}: {len(TABLES)} tables")


def _overview(tables: Iterable[Table]) -> str:
    rows = [f"| [{table.name}](#{table.name}) | {_cell(table.doc)} | {_writer(table)} |" for table in tables]
    return "\n".join(["| table | a row is | written by |", "| --- | --- | --- |", *rows, ""])


def _section(table: Table) -> str:
    facts = [
        f"- key: {_names(table.key) or 'none; rows have no identity'}",
        f"- partitioned by: {_names(table.partition_by) or 'nothing'}",
        *([f"- files told apart by: `{table.range_by}`"] if table.range_by else []),
        f"- written by: {_writer(table)}",
    ]
    head = ["| column | type | null | meaning |", "| --- | --- | --- | --- |"]
    lines = [f"## {table.name}", "", table.doc, "", *facts, "", *head, *map(_row, table.columns), ""]
    return "\n".join(lines)


def _row(column: Column) -> str:
    meaning = _cell(column.doc) + (" Differs between runs over the same input." if column.volatile else "")
    return f"| `{column.name}` | `{column.type}` | {'yes' if column.nullable else ''} | {meaning} |"


def _writer(table: Table) -> str:
    # "every job" is a sentence, "ingest" a file.
    return table.written_by if " " in table.written_by else f"`jobs/{table.written_by}.py`"


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in columns)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
