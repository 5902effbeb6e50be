"""The ways to the same vectors: one process, Arrow on Spark, and Spark's own predict_batch_udf."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.resource import ResourceInformation
from pyspark.sql import SparkSession

from precise_core.errors import CheckpointError, ModelError
from precise_core.models.precise import Precise
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors import batch_udf
from precise_core.vectors.encoding import HistoryTimes, encode_catalog, encode_users, load_encoder
from precise_core.vectors.spark import embed_items, embed_users, gpu_of
from schemas import ITEM_TOKENS, USER_SEQUENCES
from schemas import columns as c
from tests import vector_world as world
from tests.torch_world import LENGTH, encoder_sizes, tiny_model, world_catalog
from tests.training.test_checkpoints import make_model, write

AS_OF = datetime(2024, 2, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write(tmp_path_factory.mktemp("checkpoints"))


def test_spark_and_predict_batch_udf_give_the_vectors_of_one_process(
    spark: SparkSession, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    catalog_file = world_catalog().save(tmp_path / "catalog.safetensors")
    items = spark.createDataFrame([world.tokens(index) for index in world.INDICES], ITEM_TOKENS.spark_schema())
    rows = [world.sequence(user, world.items_of(user)) for user in range(world.USERS)]
    users = spark.createDataFrame(rows, USER_SEQUENCES.spark_schema())
    model = checkpoint.load_model()
    expected_items = encode_catalog(model, world_catalog(), np.array(world.INDICES))
    histories = [np.array(world.items_of(user)) for user in range(world.USERS)]
    expected_users = encode_users(model, world_catalog(), histories, LENGTH)
    expected_queries = encode_users(model, world_catalog(), [np.array([index]) for index in world.INDICES], LENGTH)

    by_arrow = embed_items(spark, items, checkpoint.folder, AS_OF).collect()
    of_item = batch_udf.item_vectors(spark, checkpoint.folder, batch_size=7)
    by_udf = items.select(c.ITEM_INDEX, of_item(c.ITEM_INDEX, c.TOKEN_IDS, c.TOKEN_COUNT).alias(c.EMBEDDING)).collect()
    for found in (by_arrow, by_udf):
        vectors = {row[c.ITEM_INDEX]: row[c.EMBEDDING] for row in found}
        np.testing.assert_allclose([vectors[index] for index in world.INDICES], expected_items, atol=1e-6)
    queries = {row[c.ITEM_INDEX]: row[c.QUERY_EMBEDDING] for row in by_arrow}
    np.testing.assert_allclose([queries[index] for index in world.INDICES], expected_queries, atol=1e-6)

    by_arrow = embed_users(spark, users, checkpoint.folder, catalog_file, LENGTH, AS_OF).collect()
    of_user = batch_udf.user_vectors(spark, checkpoint.folder, catalog_file, LENGTH, batch_size=7)
    by_udf = users.select(c.USER_ID, of_user(batch_udf.left_padded(LENGTH)).alias(c.EMBEDDING)).collect()
    for found in (by_arrow, by_udf):
        vectors = {row[c.USER_ID]: row[c.EMBEDDING] for row in found}
        np.testing.assert_allclose([vectors[f"u{user}"] for user in range(world.USERS)], expected_users, atol=1e-6)


def test_a_model_that_reads_times_asks_at_the_instant_of_the_night(spark: SparkSession, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config, catalog = tiny_model("id", encoder=encoder_sizes("hstu", layers=1)), world_catalog()
    model = Precise(config, catalog.num_rows, catalog.known_token_ids, "universal", 3).eval()
    checkpoint = write(tmp_path / "checkpoints", model)
    catalog_file = catalog.save(tmp_path / "catalog.safetensors")
    rows = [world.sequence(user, world.items_of(user)) for user in range(world.USERS)]
    users = spark.createDataFrame(rows, USER_SEQUENCES.spark_schema())
    histories = [np.array(row[c.ITEM_INDICES]) for row in rows]
    seconds = [np.array([int(when.timestamp()) for when in row[c.EVENT_TS]]) for row in rows]
    hashes = []
    for as_of in (AS_OF, AS_OF + timedelta(days=30)):
        asked_B = np.full(world.USERS, int(as_of.timestamp()))
        expected = encode_users(model, catalog, histories, LENGTH, times=HistoryTimes(seconds, asked_B))
        found = embed_users(spark, users, checkpoint.folder, catalog_file, LENGTH, as_of).collect()
        vectors = {row[c.USER_ID]: row[c.EMBEDDING] for row in found}
        np.testing.assert_allclose([vectors[f"u{user}"] for user in range(world.USERS)], expected, atol=1e-6)
        hashes.append({row[c.SEQUENCE_HASH] for row in found})
    assert not hashes[0] & hashes[1]  # every vector of an earlier night is stale
    with pytest.raises(ModelError, match="encoder hstu reads when events happened"):
        batch_udf.user_vectors(spark, checkpoint.folder, catalog_file, LENGTH)


def test_a_model_is_told_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    """A worker that is given another checkpoint under the same path loads it."""
    first = write(tmp_path / "a", make_model(seed=1))
    second = write(tmp_path / "b", make_model(seed=2))
    version, model = load_encoder(first.folder)
    assert load_encoder(first.folder)[1] is model
    first.folder.rename(tmp_path / "aside")
    assert load_encoder(tmp_path / "aside")[1] is model  # the same content elsewhere
    second.folder.rename(first.folder)
    assert load_encoder(first.folder)[0] == second.model_version != version


def test_a_task_uses_the_gpu_that_spark_gave_it() -> None:
    assert gpu_of({"gpu": ResourceInformation("gpu", ["3"])}) == "3"
    assert gpu_of({}) is None and gpu_of({"fpga": ResourceInformation("fpga", ["0"])}) is None


def test_a_checkpoint_that_was_tampered_with_never_reaches_spark(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        embed_items(None, None, tmp_path / "nowhere", AS_OF)  # type: ignore[arg-type]  # no session is asked
    damaged = write(tmp_path / "damaged", make_model(seed=4)).folder
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: changed"):
        embed_items(None, None, damaged, AS_OF)  # type: ignore[arg-type]
