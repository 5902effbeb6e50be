"""MovieLens ml-latest-small of 2018 (docs/data_sets.md): 100,836 ratings by 610 users of 9,742 movies."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from precise_core.data_sets.known_files import KnownFile, known_content, plain_or_compressed
from precise_core.sources.config import MovieLensSource
from precise_core.sources.raw import RAW_EVENT_TYPES, RAW_ITEM_TYPES, RawTables, raw_frame
from schemas import columns as c

ACTION = "rating"
SCENE = "default"
_NO_GENRES = "(no genres listed)"
_YEAR = r"\s*\((\d{4})\)\s*$"


_FILES = {
    "ratings.csv": KnownFile(2_483_723, "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646"),
    "movies.csv": KnownFile(494_431, "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07"),
}


def input_files(source: MovieLensSource) -> list[Path]:
    """ratings and movies, as `.csv` or `.csv.zst`."""
    return [plain_or_compressed(Path(source.data), name) for name in _FILES]


def has_impressions(_source: MovieLensSource) -> bool:
    return False


def describe(source: MovieLensSource) -> str:
    kept = "" if source.min_rating is None else f" Ratings below {source.min_rating:g} are left out."
    return f"MovieLens ml-latest-small (GroupLens, 2018): 100,836 ratings of movies by 610 users.{kept}"


def read(spark: SparkSession, source: MovieLensSource) -> RawTables:
    """Ratings (scene `default`, action `rating`, value = stars) and movies; no impressions.

    With ``source.min_rating`` only what users liked is an event, as in V-A of the paper.
    """
    ratings, movies = (_read_csv(file) for file in input_files(source))
    if source.min_rating is not None:
        ratings = ratings[ratings["rating"].astype(float) >= source.min_rating]
    return RawTables(events=_events(spark, ratings), items=_items(spark, movies))


def _read_csv(file: Path) -> pd.DataFrame:
    """All cells as text; the two files are 3 MB together."""
    content = known_content(file, _FILES[file.name.removesuffix(".zst")])
    return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)


def _events(spark: SparkSession, ratings: pd.DataFrame) -> DataFrame:
    return raw_frame(
        spark.createDataFrame(ratings),
        RAW_EVENT_TYPES,
        {
            c.EVENT_ID: F.concat_ws("-", "userId", "movieId"),
            c.USER_ID: F.col("userId"),
            c.ITEM_ID: F.col("movieId"),
            c.SCENE: F.lit(SCENE),
            c.ACTION: F.lit(ACTION),
            c.EVENT_TS: F.timestamp_seconds(F.col("timestamp").cast("bigint")),
            c.VALUE: F.col("rating"),
        },
        source_file=F.lit("ratings.csv"),
    )


def _items(spark: SparkSession, movies: pd.DataFrame) -> DataFrame:
    year = F.regexp_extract("title", _YEAR, 1)
    genres = F.when(F.col("genres") != _NO_GENRES, F.split("genres", r"\|")).otherwise(F.array().cast("array<string>"))
    return raw_frame(
        spark.createDataFrame(movies),
        RAW_ITEM_TYPES,
        {
            c.ITEM_ID: F.col("movieId"),
            c.TITLE: _title(),
            c.CATEGORIES: genres,
            c.ATTRIBUTES: F.create_map(F.lit("year"), F.nullif(year, F.lit(""))),
        },
        source_file=F.lit("movies.csv"),
    )


def _title() -> Column:
    """`American President, The (1995)` -> `The American President`."""
    without_year = F.regexp_replace("title", _YEAR, "")
    return F.regexp_replace(without_year, r"^(.*), (The|A|An)$", "$2 $1")
