"""Only what is new, changed or missing is encoded, and the table is what encoding everything would give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from precise_core.warehouse.tables import Warehouse
from schemas import (
    ITEM_EMBEDDINGS,
    ITEM_TOKENS,
    ITEM_VOCABULARY,
    ITEMS,
    TOKEN_EMBEDDINGS,
    USER_EMBEDDINGS,
    USER_SEQUENCES,
    Table,
)
from schemas import columns as c
from tests import vector_world as world
from tests.fake_warehouse import put
from tests.night import copy_of, run, said
from tests.training.test_checkpoints import make_model

LATER = ("--set", "as_of=2024-02-21T00:00:00Z")


def vectors(warehouse: Path, table: Table, version: str) -> dict[str, world.Row]:
    return {row[table.key[0]]: row for row in world.read(warehouse, table, model_version=version)}


def assert_same_vectors(found: dict[str, world.Row], expected: dict[str, world.Row]) -> None:
    """Up to the last bits: which vectors share a batch differs."""
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        np.testing.assert_allclose(found[key][c.EMBEDDING], row[c.EMBEDDING], atol=1e-5, err_msg=key)


@pytest.fixture(scope="module")
def encoded(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A warehouse with the vectors of one checkpoint, and its version."""
    assert spark is not None
    return world.encoded(tmp_path_factory.mktemp("vectors") / "warehouse")


def test_a_new_checkpoint_encodes_everything(encoded: tuple[Path, str]) -> None:
    warehouse, version = encoded
    assert world.metric(warehouse, "embed_items", "encoded") == len(world.INDICES)
    assert world.metric(warehouse, "embed_users", "encoded") == world.USERS
    hashes = {row[c.ITEM_ID]: row[c.TEXT_HASH] for row in world.read(warehouse, ITEM_TOKENS)}
    items = vectors(warehouse, ITEM_EMBEDDINGS, version)
    assert {key: row[c.TEXT_HASH] for key, row in items.items()} == hashes


def test_only_what_changed_is_encoded_and_nothing_else_is_touched(encoded: tuple[Path, str], tmp_path: Path) -> None:
    warehouse, version = copy_of(encoded[0], tmp_path / "warehouse"), encoded[1]
    before = vectors(warehouse, USER_EMBEDDINGS, version)
    longest = world.items_of(11)
    assert len(longest) == 12  # four more than the model reads
    changed = [world.sequence(3, [*world.items_of(3), 9]), world.sequence(40, [5, 6])]
    beyond = world.sequence(11, [7, *longest[1:]])  # another item, but before the newest 8
    world.change(warehouse, USER_SEQUENCES, [*changed, beyond], gone=["u5"])
    new = world.INDICES.stop
    world.change(warehouse, ITEM_VOCABULARY, [{c.ITEM_ID: f"i{new}", c.ITEM_INDEX: new}])
    world.change(warehouse, ITEM_TOKENS, [world.tokens(7, "other words"), world.tokens(new)])
    world.change(warehouse, ITEMS, [world.item(8, is_deleted=True), world.item(new)])
    for job in ("embed_items", "embed_users"):
        assert run(job, warehouse, *LATER) == 0
    assert world.metric(warehouse, "embed_users", "encoded") == 2  # u3 and u40
    assert world.metric(warehouse, "embed_items", "encoded") == 2  # i7 and the new one
    users, items = vectors(warehouse, USER_EMBEDDINGS, version), vectors(warehouse, ITEM_EMBEDDINGS, version)
    assert "u5" not in users and "i8" not in items and f"i{new}" in items
    for key in users.keys() - {"u3", "u40"}:
        assert users[key] == before[key]
    assert users["u3"][c.AS_OF] > before["u3"][c.AS_OF]
    for job in ("embed_items", "embed_users"):
        assert run(job, warehouse, *LATER, "--full") == 0
    assert_same_vectors(items, vectors(warehouse, ITEM_EMBEDDINGS, version))
    # i7 has other words: whoever has it in the sequence follows with the next event, or with --full.
    with_7 = {row[c.USER_ID] for row in world.read(warehouse, USER_SEQUENCES) if 7 in row[c.ITEM_INDICES][-8:]}
    others = {key: row for key, row in users.items() if key not in with_7 - {"u3", "u40"}}
    anew = vectors(warehouse, USER_EMBEDDINGS, version)
    assert_same_vectors(others, {key: anew[key] for key in others})


def test_nothing_new_is_no_commit(encoded: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    warehouse, _ = encoded
    house = Warehouse(str(warehouse))
    before = [house.version(table) for table in (ITEM_EMBEDDINGS, USER_EMBEDDINGS)]
    for job in ("embed_items", "embed_users"):
        assert run(job, warehouse, *LATER) == 0
    assert [house.version(table) for table in (ITEM_EMBEDDINGS, USER_EMBEDDINGS)] == before
    out = said(capsys)
    assert "0 encoded, 20 kept, 0 removed" in out and "0 encoded, 30 kept, 0 removed" in out


def test_a_new_checkpoint_is_committed_in_parts_beside_the_old_vectors(
    encoded: tuple[Path, str], tmp_path: Path
) -> None:
    warehouse, old = copy_of(encoded[0], tmp_path / "warehouse"), encoded[1]
    house = Warehouse(str(warehouse))
    before, version = house.version(USER_EMBEDDINGS), world.train(warehouse, seed=2)
    assert run("embed_users", warehouse, "--set", "encoding.part_mib=0.001") == 0
    assert house.version(USER_EMBEDDINGS) == before + 2  # 30 x 16 floats are two parts, one per bucket
    users = vectors(warehouse, USER_EMBEDDINGS, version)
    assert len(users) == len(vectors(warehouse, USER_EMBEDDINGS, old)) == world.USERS
    # Half of them are lost: the same command encodes these and no other.
    kept = [row for row in world.read(warehouse, USER_EMBEDDINGS) if int(row[c.USER_ID][1:]) % 2]
    world.make(warehouse, USER_EMBEDDINGS, kept)
    assert run("embed_users", warehouse) == 0
    assert world.metric(warehouse, "embed_users", "encoded") == world.USERS // 2
    assert_same_vectors(vectors(warehouse, USER_EMBEDDINGS, version), users)


def refused(warehouse: Path, job: str, capsys: pytest.CaptureFixture[str], tables: Sequence[Table]) -> str:
    """What a job says that has to refuse; nothing may have been written."""
    house = Warehouse(str(warehouse))
    before = [house.version(table) for table in tables]
    capsys.readouterr()
    assert run(job, warehouse) == 2
    assert [house.version(table) for table in tables] == before
    return said(capsys)


def test_vectors_that_are_not_finite_are_refused_in_one_line(
    encoded: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, broken = copy_of(encoded[0], tmp_path / "warehouse"), make_model(seed=3)
    broken.fusion.id_table.weight.data[9] = float("nan")
    world.train(warehouse, seed=3, model=broken)
    assert "embed_items failed: 1 of " in (out := refused(warehouse, "embed_items", capsys, [ITEM_EMBEDDINGS]))
    assert "item vectors are NaN, infinite or all zero" in out and "Traceback" not in out
    assert "user vectors are NaN, infinite or all zero" in refused(warehouse, "embed_users", capsys, [USER_EMBEDDINGS])


def test_texts_of_another_tokenizer_or_length_are_refused(
    encoded: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(encoded[0], tmp_path / "warehouse")
    rows = world.read(warehouse, ITEM_TOKENS)
    world.make(warehouse, ITEM_TOKENS, [row | {c.TOKENIZER_ID: "other"} for row in rows])
    for job in ("embed_items", "embed_users"):
        out = refused(warehouse, job, capsys, [ITEM_EMBEDDINGS, USER_EMBEDDINGS])
        assert "reads 3 tokens of toy-tokenizer, item_tokens has 3 of other" in out
    world.make(warehouse, ITEM_TOKENS, [row | {c.TOKEN_IDS: [*row[c.TOKEN_IDS], 0]} for row in rows])
    out = refused(warehouse, "embed_items", capsys, [ITEM_EMBEDDINGS])
    assert "reads 3 tokens of toy-tokenizer, item_tokens has 4 of toy-tokenizer" in out


def test_token_vectors_of_another_language_model_are_refused(
    encoded: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(encoded[0], tmp_path / "warehouse")
    world.train(warehouse, seed=5, language_model="lm@1")
    put(warehouse, TOKEN_EMBEDDINGS, [{c.TOKEN_ID: 10, c.LANGUAGE_MODEL: "lm@2"}])
    for job in ("embed_items", "embed_users"):
        out = refused(warehouse, job, capsys, [ITEM_EMBEDDINGS, USER_EMBEDDINGS])
        assert "began with vectors of lm@1, token_embeddings has those of lm@2; run jobs/train_universal.py" in out


def test_an_item_without_text_is_counted_where_a_model_reads_nothing_else(
    encoded: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(encoded[0], tmp_path / "warehouse")
    assert world.tokens(2)[c.TOKEN_COUNT] == 0
    assert "i2" in vectors(warehouse, ITEM_EMBEDDINGS, encoded[1])  # its id has been trained
    version = world.train(warehouse, seed=6, model=make_model("llm", seed=6))
    assert run("embed_items", warehouse) == 0
    found = vectors(warehouse, ITEM_EMBEDDINGS, version)
    assert found.keys() == {f"i{index}" for index in world.INDICES} - {"i2"}
    out = said(capsys)
    assert "1 items have no text, and this model reads nothing else" in out and "20 in = 19 out + 1 rejected" in out
