"""The declarations agree with each other, with Spark, with Arrow and with docs/tables.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql.pandas.types import to_arrow_schema

from precise_core.reference import tables as table_reference
from schemas import TABLES, Column, Table, columns

ROOT = Path(__file__).resolve().parents[2]

every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def test_table_names_are_unique() -> None:
    names = [table.name for table in TABLES]
    assert len(set(names)) == len(names)


def test_column_constants_are_unique() -> None:
    values = [value for name, value in vars(columns).items() if name.isupper()]
    assert len(set(values)) == len(values)


@every_table
def test_spark_and_arrow_see_the_same_schema(table: Table) -> None:
    """PySpark's own conversion is the oracle: names, types, nullability, elements of lists and maps."""
    assert table.arrow_schema().equals(to_arrow_schema(table.spark_schema()))
    assert table.spark_schema().names == table.column_names == table.arrow_schema().names


@every_table
def test_spark_spells_each_type_as_declared(table: Table) -> None:
    spelled = {field.name: field.dataType.simpleString() for field in table.spark_schema()}
    assert spelled == {column.name: column.type for column in table.columns}


@every_table
def test_keys_and_partitions_are_never_null(table: Table) -> None:
    assert not [name for name in (*table.key, *table.partition_by) if table.column(name).nullable]


@every_table
def test_partitions_are_scalars(table: Table) -> None:
    assert all("<" not in table.column(name).type for name in table.partition_by)


@every_table
def test_only_bookkeeping_is_left_out_of_the_stable_columns(table: Table) -> None:
    volatile = set(table.column_names) - set(table.stable_columns)
    assert not volatile & set(table.key)
    assert all(table.column(name).volatile for name in volatile)


@every_table
def test_every_declaration_is_explained_in_a_sentence(table: Table) -> None:
    for text in (table.doc, *(column.doc for column in table.columns)):
        assert text.strip() == text and (text.endswith(".") or text.endswith("..."))


def test_the_same_column_has_the_same_type_wherever_a_name_means_one_thing() -> None:
    for name in (columns.USER_ID, columns.ITEM_ID, columns.MODEL_VERSION, columns.TASK, columns.AS_OF):
        found = {table.column(name).type for table in TABLES if name in table.column_names}
        assert len(found) == 1, f"{name}: {found}"


def test_a_faulty_declaration_is_refused_by_name() -> None:
    column = Column(name="a", type="int", doc="A.")
    with pytest.raises(ValueError, match=r"table t: a column is declared twice in \['a', 'a'\]"):
        Table(name="t", doc="T.", key=(), columns=(column, column), written_by="x")
    with pytest.raises(ValueError, match="table t: key, partition or range column 'b' is not among"):
        Table(name="t", doc="T.", key=("b",), columns=(column,), written_by="x")
    with pytest.raises(ValueError, match="'b' is not among"):
        Table(name="t", doc="T.", key=(), columns=(column,), written_by="x", partition_by=("b",))
    with pytest.raises(KeyError, match=r"table t has no column 'b'; it has \['a'\]"):
        Table(name="t", doc="T.", key=(), columns=(column,), written_by="x").column("b")


def test_schemas_import_no_engine() -> None:
    code = (
        "import sys, schemas; print([m for m in ('pyspark', 'pyarrow', 'torch', 'precise_core') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_page_is_up_to_date() -> None:
    assert table_reference.TARGET.read_text(encoding="utf-8") == table_reference.render(TABLES), "run `make references`"


def test_the_reference_page_says_everything_about_a_table() -> None:
    table = Table(
        name="things",
        doc="One thing | or another.",
        key=("a",),
        written_by="every job",
        partition_by=("b",),
        columns=(
            Column(name="a", type="int", doc="Which."),
            Column(name="b", type="string", nullable=True, volatile=True, doc="x | y."),
        ),
    )
    page = table_reference.render([table])
    assert "| [things](#things) | One thing \\| or another. | every job |" in page
    assert "- key: `a`\n- partitioned by: `b`\n- written by: every job\n" in page
    assert "| `a` | `int` |  | Which. |" in page
    assert "| `b` | `string` | yes | x \\| y. Differs between runs over the same input. |" in page
