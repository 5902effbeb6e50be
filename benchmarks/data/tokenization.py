"""Tokenizing the catalog on Spark against the bare tokenizer: `python -m benchmarks.data.tokenization [--items N]`.

Every text belongs to several items and is tokenized once. Both sides tokenize the distinct texts with the tokenizer's
own threads off; the bare one is a loop over batches in one process. On Spark the step alone is measured, from a Parquet
file of distinct texts to nowhere, and the whole transform `tokenize_items`, where reading, hashing, finding the
distinct texts and both joins are part of the time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.data.measure import ROOT
from benchmarks.data.world import session, source_of, vocabulary_of
from benchmarks.record import record
from precise_core.data_sets import synthetic
from precise_core.text.config import TextConfig
from precise_core.text.language_model import load_tokenizer
from precise_core.text.tokens import item_text, tokenize_items, tokenize_texts, unknown_texts
from schemas import ITEM_VOCABULARY, ITEMS

RESULTS = ROOT / "benchmarks" / "results" / "data_tokenization.jsonl"
_GOAL = 0.8  # of the bare tokenizer, per core
_CORES = 2
_ITEMS_PER_TEXT = 4
_BATCH = 10_000  # texts; as many rows as an Arrow batch of Spark has


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # workers inherit it
    config = TextConfig()
    spark = session("tokenization", 4)
    with tempfile.TemporaryDirectory() as folder:
        items, vocabulary = write_items(spark, Path(folder), arguments.items, arguments.seed)
        texts = distinct_texts(items, config)
        bare_seconds, tokens = bare(texts, config)
        unknown_texts(items, config, None).repartition(_CORES * 2).write.parquet(f"{folder}/texts")
        step_seconds = seconds_of(tokenize_texts(spark.read.parquet(f"{folder}/texts"), config))
        whole_seconds = seconds_of(tokenize_items(items, vocabulary, config))
    bare_speed, step_speed, whole_speed = (tokens / each for each in (bare_seconds, step_seconds, whole_seconds))
    ratio, whole_ratio = step_speed / _CORES / bare_speed, whole_speed / _CORES / bare_speed
    print(f"bare {bare_speed:,.0f} tokens/s; on {_CORES} cores, per core: step {ratio:.2f}, whole {whole_ratio:.2f}")
    data = f"{arguments.items:,} items, {len(texts):,} distinct texts, {tokens:,} tokens in them"
    command = f"python -m benchmarks.data.tokenization --items {arguments.items}"
    seed, results = arguments.seed, arguments.results
    record(results, "bare tokenizer, one process", bare_speed, "tokens/s", None, None, data, seed, command)
    record(results, f"tokenizing on Spark, {_CORES} cores", step_speed, "tokens/s", None, None, data, seed, command)
    record(
        results, f"tokenize_items as a whole, {_CORES} cores", whole_speed, "tokens/s", None, None, data, seed, command
    )
    name, goal = "tokenizing on Spark per core / bare tokenizer", f"at least {_GOAL} x"
    record(results, name, ratio, "x", goal, ratio >= _GOAL, data, seed, command)
    name = "tokenize_items as a whole per core / bare tokenizer"
    record(results, name, whole_ratio, "x", None, None, data, seed, command)


def write_items(spark: SparkSession, folder: Path, count: int, seed: int) -> tuple[DataFrame, DataFrame]:
    """Items of which several share a text, and their vocabulary, as Parquet."""
    source = source_of(100 * count, seed)
    raw = synthetic.read(spark, source.model_copy(update={"items": count // _ITEMS_PER_TEXT})).items
    assert raw is not None
    copies = F.explode(F.sequence(F.lit(0), F.lit(_ITEMS_PER_TEXT - 1))).alias("copy")
    number = F.substring_index("item_id", "-", -1).cast("bigint") * _ITEMS_PER_TEXT + F.col("copy")
    items = raw.select("*", copies).withColumn("item_id", F.concat(F.lit("item-"), number.cast("string")))
    items.select(*ITEMS.column_names).repartition(_CORES * 2).write.parquet(str(folder / "items"))
    vocabulary_of(spark, source).write.parquet(str(folder / "vocabulary"))
    vocabulary = spark.read.parquet(str(folder / "vocabulary"))
    return spark.read.parquet(str(folder / "items")), vocabulary.select(*ITEM_VOCABULARY.column_names)


def distinct_texts(items: DataFrame, config: TextConfig) -> list[str]:
    text = item_text(config.fields, config.max_characters).alias("text")
    return [row[0] for row in items.select(text).distinct().collect()]


def bare(texts: Sequence[str], config: TextConfig) -> tuple[float, int]:
    """Seconds of the tokenizer alone, and the tokens it found."""
    load_tokenizer(config.language_model)(list(texts[:100]))
    start, tokens = time.perf_counter(), 0
    for first in range(0, len(texts), _BATCH):
        batch = list(texts[first : first + _BATCH])
        encoded = load_tokenizer(config.language_model)(
            batch, add_special_tokens=False, truncation=True, max_length=config.max_tokens
        )
        tokens += sum(map(len, encoded["input_ids"]))
    return time.perf_counter() - start, tokens


def seconds_of(frame: DataFrame) -> float:
    """Seconds of computing all of it; the second of two runs, whose workers have the tokenizer loaded."""
    for _ in range(2):
        start = time.perf_counter()
        frame.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
