"""A warehouse in front of the encoders, of any size: sequences of the synthetic world, random texts, a model.

The model has random weights: how long it takes to encode does not depend on what it has learnt.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import torch
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.data.world import end_of, events_of, vocabulary_of
from precise_core.config import load_config
from precise_core.models.config import ModelConfig
from precise_core.models.precise import Precise
from precise_core.sequences.build import build_user_sequences, user_bucket
from precise_core.settings import Settings
from precise_core.sources.config import SyntheticSource
from precise_core.training.checkpoint import put_in_use, write_checkpoint
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_TOKENS, ITEM_VOCABULARY, ITEMS, USER_SEQUENCES
from schemas import columns as c

EVENTS_PER_USER, MAX_LENGTH = 30, 50
TOKENS, TOKEN_IDS, TOKENIZER = 12, 5_000, "random-tokens"
_GENERATED_USERS = 100_000  # beyond these, users are copies with ids of their own
_CONFIG = Path(__file__).resolve().parents[2] / "conf" / "synthetic.yaml"
_START = datetime(2024, 1, 1, tzinfo=UTC)


def settings_of(warehouse: Path, users: int) -> Settings:
    """Two cores, a driver of 4 GB, and as many buckets as parts of 128 MiB will be."""
    base = load_config(_CONFIG, Settings, [f"warehouse={warehouse}"]).model_dump()
    buckets = max(2, users // 60_000)
    changes = {
        "tasks": {},
        "ranking_features": {"tasks": ["all"]},
        "sequences": {"max_length": MAX_LENGTH, "buckets": buckets},
        "spark": {"master": "local[2]", "driver_memory": "4g", "shuffle_partitions": 8},
    }
    return Settings.model_validate(base | changes)


def write_world(spark: SparkSession, settings: Settings, users: int, items: int, seed: int) -> None:
    """Items, texts, vocabulary, sequences and a checkpoint."""
    source = SyntheticSource.model_validate(
        {
            "kind": "synthetic",
            "users": min(users, _GENERATED_USERS),
            "items": items,
            "events_per_user": EVENTS_PER_USER,
            "impressions_per_user": 0,
            "seed": seed,
        }
    )
    warehouse, vocabulary = Warehouse(settings.warehouse), vocabulary_of(spark, source)
    sequences = build_user_sequences(
        events_of(spark, source), vocabulary, {}, end_of(source), settings.sequences
    ).persist()
    copies = -(-users // source.users)
    warehouse.append(ITEM_VOCABULARY, vocabulary, run_id="benchmark")
    warehouse.append(ITEMS, _items(vocabulary), run_id="benchmark")
    warehouse.append(ITEM_TOKENS, _tokens(vocabulary, F.lit(seed)), run_id="benchmark")
    warehouse.append(USER_SEQUENCES, _copied(sequences, copies, settings), run_id="benchmark")
    sequences.unpersist()
    checkpoint_of(Path(settings.warehouse), items, seed)


def change_some(spark: SparkSession, settings: Settings, share: float) -> None:
    """Another text for a share of the items, one more event for a share of the users; chosen by hash."""
    warehouse = Warehouse(settings.warehouse)

    def is_chosen(key: str) -> Column:
        return F.pmod(F.xxhash64(F.lit("changed"), key), F.lit(10_000)) < F.lit(round(share * 10_000))

    tokens = warehouse.read(spark, ITEM_TOKENS, warehouse.version(ITEM_TOKENS))
    changed = _tokens(tokens.where(is_chosen(c.ITEM_ID)), F.lit("another text"))
    kept = tokens.where(~is_chosen(c.ITEM_ID))
    warehouse.write(spark, ITEM_TOKENS, kept.unionByName(changed), run_id="benchmark")
    sequences = warehouse.read(spark, USER_SEQUENCES, warehouse.version(USER_SEQUENCES))
    longer = F.concat(c.ITEM_INDICES, F.slice(c.ITEM_INDICES, 1, 1))  # the first item once more
    items = F.when(is_chosen(c.USER_ID), longer).otherwise(F.col(c.ITEM_INDICES))
    warehouse.write(spark, USER_SEQUENCES, sequences.withColumn(c.ITEM_INDICES, items), run_id="benchmark")


def checkpoint_of(warehouse: Path, items: int, seed: int) -> None:
    """The configuration of the demo: D = 128, two layers, four heads; the newest checkpoint of `all`."""
    torch.manual_seed(seed)
    model = ModelConfig.model_validate(
        {
            "fusion": {"id_width": 64, "token_width": 64, "token_init": "random"},
            "encoder": {"layers": 2, "heads": 4, "ffn_width": 256, "max_length": MAX_LENGTH},
        }
    )
    known = torch.arange(1, TOKEN_IDS + 1)
    made = Precise(model, items + 2, known, "universal", TOKENS).eval()
    checkpoint = write_checkpoint(
        warehouse / "checkpoints",
        made,
        torch.ones(items + 2, dtype=torch.long),
        [],
        task="all",
        tokenizer_id=TOKENIZER,
        language_model=None,
        best_epoch=1,
        metrics={},
        input_versions={},
        seed=seed,
        training={},
    )
    put_in_use(warehouse / "checkpoints", "all", checkpoint)


def _items(vocabulary: DataFrame) -> DataFrame:
    nothing = {c.TITLE: F.lit(""), c.DESCRIPTION: F.lit(""), c.IS_DELETED: F.lit(False)}
    return (
        vocabulary.select(c.ITEM_ID)
        .withColumns(nothing)
        .withColumn(c.CATEGORIES, F.array().cast("array<string>"))
        .withColumn(c.ATTRIBUTES, F.create_map().cast("map<string,string>"))
        .withColumn(c.PUBLISHED_TS, F.lit(_START))
        .withColumn(c.UPDATED_TS, F.lit(_START))
        .withColumn(c.FILE_SEQUENCE, F.lit(None).cast("bigint"))
        .select(*ITEMS.column_names)
    )


def _tokens(vocabulary: DataFrame, seed: Column) -> DataFrame:
    """Twelve random tokens per item."""

    def token(place: int) -> Column:
        return (F.pmod(F.xxhash64(seed, F.lit(place), c.ITEM_INDEX), F.lit(TOKEN_IDS)) + 1).cast("int")

    return vocabulary.select(
        c.ITEM_ID,
        c.ITEM_INDEX,
        F.array(*map(token, range(TOKENS))).alias(c.TOKEN_IDS),
        F.lit(TOKENS).alias(c.TOKEN_COUNT),
        F.sha2(F.concat_ws("/", seed.cast("string"), c.ITEM_ID), 256).alias(c.TEXT_HASH),
        F.lit(TOKENIZER).alias(c.TOKENIZER_ID),
    )


def _copied(sequences: DataFrame, copies: int, settings: Settings) -> DataFrame:
    copy = F.explode(F.sequence(F.lit(0), F.lit(copies - 1))).alias("copy")
    own_user = F.concat_ws("-", c.USER_ID, F.col("copy").cast("string"))
    copied = sequences.select("*", copy).withColumn(c.USER_ID, own_user)
    return copied.withColumn(c.BUCKET, user_bucket(settings.sequences.buckets)).select(*USER_SEQUENCES.column_names)


def main() -> None:
    """Write one world."""
    from precise_core.warehouse.session import get_session

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--warehouse", type=Path, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    settings = settings_of(arguments.warehouse, arguments.users)
    write_world(get_session("world", settings.spark), settings, arguments.users, arguments.items, arguments.seed)


if __name__ == "__main__":
    main()
