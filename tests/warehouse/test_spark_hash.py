"""The hashes that are computed outside Spark are Spark's own."""

from __future__ import annotations

import random

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.warehouse.spark_hash import keys_of_partitions, xxhash64


def test_equals_that_of_spark(spark: SparkSession) -> None:
    draw = random.Random(3)
    strings = ["".join(draw.choice("abcé漢0") for _ in range(size)) for size in range(110)]
    expected = spark.createDataFrame([(one,) for one in strings], "one string").select(F.xxhash64("one")).toArrow()
    assert xxhash64(pa.array(strings)).tolist() == expected.column(0).to_pylist()
    assert xxhash64(pa.array(strings).slice(40)).tolist() == expected.column(0).to_pylist()[40:]


def test_each_key_gets_a_partition_to_itself(spark: SparkSession) -> None:
    for count in (1, 7, 40):
        keys = spark.createDataFrame([(key,) for key in keys_of_partitions(count)], "key int")
        sent = keys.repartition(count, "key").select("key", F.spark_partition_id().alias("partition")).collect()
        assert [row["key"] for row in sorted(sent, key=lambda row: row["partition"])] == keys_of_partitions(count)
