"""The query vector of an item is that of a user whose only event it is; older tables get it without a new start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, Stage
from precise_core.vectors.encoding import encode_catalog, encode_users, fuse_catalog, fuse_items, query_vectors
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_EMBEDDINGS
from schemas import columns as c
from tests import vector_world as world
from tests.night import copy_of, run, said
from tests.torch_world import LENGTH, NUM_ITEMS, STATE_WIDTH, states_catalog, tiny_model, world_catalog

ITEMS = np.arange(1, NUM_ITEMS + 5)  # the unknown item, one without a text, and three newer than the model
CATALOG, STATES = world_catalog(NUM_ITEMS + 3), states_catalog(NUM_ITEMS + 3)

_ENCODER = {"heads": 2, "ffn_width": 16, "max_length": LENGTH}


def encoder(kind: str, **changes: Any) -> dict[str, Any]:
    return {"encoder": _ENCODER | {"kind": kind, "layers": 1} | changes}


def model_of(stage: Stage, changes: dict[str, Any]) -> Precise:
    """A model whose every weight counts: a new head would be zero, and its input without effect."""
    config, seen = tiny_model(**changes), world_catalog()
    is_contextual = config.fusion.token_init == "contextual"
    model = Precise(
        config, seen.num_rows, seen.known_token_ids[: 0 if is_contextual else None], stage, 3, STATE_WIDTH
    ).eval()
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        model.log_temperature.fill_(-1.0)
    return model


def lonely_users(model: Precise, catalog: ItemCatalog, items: np.ndarray = ITEMS) -> np.ndarray:
    return encode_users(model, catalog, [np.array([item]) for item in items], LENGTH)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("universal", {}),
        ("universal", {"similarity": "dot"}),
        ("universal", {"late_fusion": True}),
        ("universal", encoder("sasrec")),
        ("universal", encoder("dssm")),
        ("universal", encoder("bert4rec") | {"prediction": "masked_item"}),
        ("universal", encoder("hstu", ffn_width=None, time_bias=False)),
        ("universal", {"fusion": {"id_width": 8, "token_width": 8, "num_experts": 3, "token_init": "contextual"}}),
        ("targeted", {}),
        ("targeted", {"residual_head": False}),
        ("targeted", encoder("transformer", layers=3)),
    ],
    ids=str,
)
def test_it_is_the_vector_of_a_user_with_one_event(stage: Stage, changes: dict[str, Any]) -> None:
    model = model_of(stage, changes)
    catalog = STATES if model.config.fusion.token_init == "contextual" else CATALOG
    found = query_vectors(model, fuse_catalog(model, catalog, ITEMS))
    np.testing.assert_allclose(found, lonely_users(model, catalog), rtol=1e-5, atol=1e-6)
    among_others = [np.array([item]) for item in ITEMS] + [np.arange(2, 2 + LENGTH)]  # padded to their length
    np.testing.assert_allclose(found, encode_users(model, catalog, among_others, LENGTH)[:-1], rtol=1e-4, atol=1e-5)
    assert np.abs(found - encode_catalog(model, catalog, ITEMS)).max() > 0.01  # and not the item's own


@given(items=st.lists(st.sampled_from(ITEMS.tolist()), min_size=1, max_size=40), batch=st.integers(1, 41))
@settings(max_examples=40, deadline=None)
def test_it_does_not_depend_on_the_items_beside_it(items: list[int], batch: int) -> None:
    model, rows = model_of("targeted", {}), np.array(items)
    tokens = CATALOG.token_ids_VT.numpy()[rows], CATALOG.token_counts_V.numpy()[rows]
    found = query_vectors(model, fuse_items(model, rows, *tokens), batch)
    np.testing.assert_allclose(found, lonely_users(model, CATALOG, rows), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def encoded(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A warehouse with the vectors of two checkpoints, and their versions, the newer one last."""
    assert spark is not None
    warehouse, old = world.encoded(tmp_path_factory.mktemp("queries") / "warehouse")
    new = world.train(warehouse, seed=2)
    assert run("embed_items", warehouse) == 0 == run("embed_users", warehouse)
    return warehouse, old, new


def by_item(warehouse: Path, version: str) -> dict[str, world.Row]:
    return {row[c.ITEM_ID]: row for row in world.read(warehouse, ITEM_EMBEDDINGS, model_version=version)}


def test_a_table_older_than_the_column_gets_it_and_the_night_goes_on(
    encoded: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source, old, new), warehouse = encoded, tmp_path / "warehouse"
    expected, others = by_item(source, new), by_item(source, old)
    world.without_queries(copy_of(source, warehouse))
    assert run("build_index", warehouse) == 2
    out = said(capsys)
    assert f"20 of the 20 vectors of {new} have no query_embedding yet; run jobs/embed_items.py first" in out
    world.change(warehouse, world.ITEMS, [world.item(8, is_deleted=True)])
    assert run("embed_items", warehouse) == 0
    assert "19 encoded, 0 kept, 1 removed" in said(capsys)
    found = by_item(warehouse, new)
    assert found.keys() == expected.keys() - {"i8"}
    for name in (c.EMBEDDING, c.QUERY_EMBEDDING):
        for item, row in found.items():
            np.testing.assert_allclose(row[name], expected[item][name], atol=1e-5, err_msg=item)
    left = by_item(warehouse, old)  # of a checkpoint that is encoded no more
    assert left == {item: row | {c.QUERY_EMBEDDING: None} for item, row in others.items()}
    version = Warehouse(str(warehouse)).version(ITEM_EMBEDDINGS)
    assert run("embed_items", warehouse) == 0 and "0 encoded, 19 kept" in said(capsys)
    assert Warehouse(str(warehouse)).version(ITEM_EMBEDDINGS) == version
    for job in ("build_index", "publish_models"):
        assert run(job, warehouse) == 0
    assert run("validate_tables", warehouse, "--table", ITEM_EMBEDDINGS.name) == 0


def test_a_new_checkpoint_is_added_to_a_table_older_than_the_column(
    encoded: tuple[Path, str, str], tmp_path: Path
) -> None:
    (source, old, new), warehouse = encoded, tmp_path / "warehouse"
    world.without_queries(copy_of(source, warehouse))
    newest = world.train(warehouse, seed=3)
    assert run("embed_items", warehouse, "--set", "encoding.part_mib=0.001") == 0  # parts are appended
    assert all(row[c.QUERY_EMBEDDING] for row in by_item(warehouse, newest).values())
    for version in (old, new):
        assert not any(row[c.QUERY_EMBEDDING] for row in by_item(warehouse, version).values())


def test_a_single_vector_without_its_query_is_encoded_again(encoded: tuple[Path, str, str], tmp_path: Path) -> None:
    (source, _, new), warehouse = encoded, tmp_path / "warehouse"
    copy_of(source, warehouse)
    rows = world.read(warehouse, ITEM_EMBEDDINGS)
    lost = [row for row in rows if row[c.MODEL_VERSION] == new and row[c.ITEM_ID] in ("i5", "i6")]
    for row in lost:
        row[c.QUERY_EMBEDDING] = None
    world.make(warehouse, ITEM_EMBEDDINGS, rows)
    assert run("publish_models", warehouse) == 2
    assert run("embed_items", warehouse) == 0
    assert world.metric(warehouse, "embed_items", "encoded") == 2
    assert len(found := by_item(warehouse, new)) == len(world.INDICES)
    assert all(row[c.QUERY_EMBEDDING] for row in found.values())
