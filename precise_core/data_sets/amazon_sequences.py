"""Amazon 2014 Beauty, Sports and Toys, 5-core, as sequences: the sets of published leave-one-out figures.

The data is an order of items per user, without any time (docs/data_sets.md). So that it fits `events`, the n-th item of
every user gets the same made-up instant: ``START`` plus n seconds. Only the order within one user means anything.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.data_sets.known_files import KnownFile, known_content, plain_or_compressed
from precise_core.sources.config import AmazonSequencesSource
from precise_core.sources.raw import RAW_EVENT_TYPES, RAW_ITEM_TYPES, RawTables, raw_frame
from schemas import columns as c

ACTION = "review"
SCENE = "default"
START = datetime(2014, 1, 1, tzinfo=UTC)

_SEQUENCES, _WORDS = "user_sequence.txt", "item_generative_indexing_phase_0.txt"
_POSITION = "position"
_FILES = {
    f"Beauty.{_SEQUENCES}": KnownFile(2_513_357, "47197cbee7bdc1896926e10d96b807dce0aecb9a1f0c2ccc887c21090237c9b7"),
    f"Beauty.{_WORDS}": KnownFile(573_272, "1a90f934fe506747f094b181f791ece593e2f86bb15e5420d910e6de4882b456"),
    f"Sports.{_SEQUENCES}": KnownFile(3_784_674, "240fd0484501ca53769c016cb1bc674ac7e420aef562b88cea1439b94a3ba044"),
    f"Sports.{_WORDS}": KnownFile(845_269, "710b6d9b661aebcd065b861e4076f5e3cc66bdd9735e462ca2db90d5cc951593"),
    f"Toys.{_SEQUENCES}": KnownFile(2_129_679, "9c2f2cce5323c5e5fd840896a68f0274aba4c241c54f0bc77ac9183094004071"),
    f"Toys.{_WORDS}": KnownFile(566_953, "bce5c0028efdb6ec87033021087c9251eb64d6dfc77d791c47837c830b9d7f19"),
}
_WHY_REFUSED = (
    "its items are sorted by item id and not by time, so that a user's last item is the largest id "
    "(agiresearch/IDGenRec#7); the corrected file is that of skleee/GRAM"
)
_REFUSED = {
    "771ce98798c545aab4b48b30ecc1b7ebd045c41d287b87f07abbd773e11b6042": _WHY_REFUSED,  # Sports of IDGenRec
    "cf2dfd59149a603b8fb3e84bc3c2fc21df0b3332ce62ac4453133fb730f6adf3": _WHY_REFUSED,  # Toys of IDGenRec
}


def input_files(source: AmazonSequencesSource) -> list[Path]:
    """The domain's sequences and item words, as `.txt` or `.txt.zst`."""
    return [plain_or_compressed(Path(source.data), f"{source.domain}.{part}") for part in (_SEQUENCES, _WORDS)]


def has_impressions(_source: AmazonSequencesSource) -> bool:
    return False


def describe(source: AmazonSequencesSource) -> str:
    return f"Amazon reviews of 2014, {source.domain}, 5-core, in order; times are made up, items have a few words."


def read(spark: SparkSession, source: AmazonSequencesSource) -> RawTables:
    """Reviews (scene `default`, action `review`) and items with a few words as title; no impressions."""
    sequences, words = (lines_of(file) for file in input_files(source))
    return RawTables(
        events=_events(spark, sequences, f"{source.domain}.{_SEQUENCES}"),
        items=_items(spark, words, f"{source.domain}.{_WORDS}"),
    )


def lines_of(file: Path) -> list[str]:
    """The lines of a known file."""
    content = known_content(file, _FILES[file.name.removesuffix(".zst")], refused=_REFUSED).decode()
    return content.removesuffix("\n").split("\n")  # splitlines() would also split at characters of a text


def _events(spark: SparkSession, lines: list[str], file: str) -> DataFrame:
    rows = pd.DataFrame(
        [(user, item, n) for user, *items in map(str.split, lines) for n, item in enumerate(items)],
        columns=[c.USER_ID, c.ITEM_ID, _POSITION],
    )
    return raw_frame(
        spark.createDataFrame(rows),
        RAW_EVENT_TYPES,
        {
            c.EVENT_ID: F.concat_ws("-", c.USER_ID, _POSITION),
            c.USER_ID: F.col(c.USER_ID),
            c.ITEM_ID: F.col(c.ITEM_ID),
            c.SCENE: F.lit(SCENE),
            c.ACTION: F.lit(ACTION),
            c.EVENT_TS: F.timestamp_seconds(F.lit(int(START.timestamp())) + F.col(_POSITION)),
        },
        source_file=F.lit(file),
    )


def _items(spark: SparkSession, lines: list[str], file: str) -> DataFrame:
    rows = pd.DataFrame(
        [(item, words) for item, _, words in (line.partition(" ") for line in lines)], columns=[c.ITEM_ID, c.TITLE]
    )
    return raw_frame(
        spark.createDataFrame(rows),
        RAW_ITEM_TYPES,
        {c.ITEM_ID: F.col(c.ITEM_ID), c.TITLE: F.col(c.TITLE)},
        source_file=F.lit(file),
    )
