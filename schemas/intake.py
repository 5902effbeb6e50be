"""The ingested tables: events, items, impressions, their rejected rows, and the files read."""

from schemas import columns as c
from schemas.table import Column, Table

_FILE_SEQUENCE = Column(
    c.FILE_SEQUENCE,
    "bigint",
    "Place of the row's file in the order of taking; null where the source is no file or is read whole.",
    nullable=True,
    volatile=True,
)

EVENTS = Table(
    name="events",
    doc="One action of one user on one item at one instant, validated.",
    key=(c.EVENT_ID,),
    written_by="ingest",
    range_by=c.EVENT_TS,
    has_change_feed=True,
    columns=(
        Column(c.EVENT_ID, "string", "Identity of the event; ties in time are broken by it."),
        Column(c.USER_ID, "string", "Who acted."),
        Column(c.ITEM_ID, "string", "On which item; always present in `items`."),
        Column(c.SCENE, "string", "Content scenario in which it happened."),
        Column(c.ACTION, "string", "What was done: click, share, purchase, ..."),
        Column(c.EVENT_TS, "timestamp", "When, UTC."),
        Column(c.EVENT_DATE, "date", "Day of `event_ts` in UTC."),
        Column(c.VALUE, "double", "Strength or amount, where the source has one.", nullable=True),
        _FILE_SEQUENCE,
    ),
)

ITEMS = Table(
    name="items",
    doc="One item of the catalog with the text the language model reads.",
    key=(c.ITEM_ID,),
    written_by="ingest",
    columns=(
        Column(c.ITEM_ID, "string", "External key of the item."),
        Column(c.TITLE, "string", "Title; empty where the source has none."),
        Column(c.DESCRIPTION, "string", "Longer text; empty where the source has none."),
        Column(c.CATEGORIES, "array<string>", "Categories, broad to narrow; may be empty."),
        Column(c.ATTRIBUTES, "map<string,string>", "Other fields of the source, as text."),
        Column(c.PUBLISHED_TS, "timestamp", "When the item appeared, if known, UTC.", nullable=True),
        Column(c.UPDATED_TS, "timestamp", "When its text last changed, if known, UTC.", nullable=True),
        Column(c.IS_DELETED, "boolean", "True = never recommend it again."),
        _FILE_SEQUENCE,
    ),
)

IMPRESSIONS = Table(
    name="impressions",
    doc="One item shown to one user, and whether it was taken.",
    key=(c.IMPRESSION_ID,),
    written_by="ingest",
    range_by=c.IMPRESSION_TS,
    columns=(
        Column(c.IMPRESSION_ID, "string", "Identity of the impression."),
        Column(c.USER_ID, "string", "To whom it was shown."),
        Column(c.ITEM_ID, "string", "What was shown; always present in `items`."),
        Column(c.IMPRESSION_TS, "timestamp", "When it was shown, UTC."),
        Column(c.LABEL, "int", "1 = taken, 0 = passed over."),
        Column(c.CONTEXT, "map<string,string>", "Context features of the moment, as text."),
        _FILE_SEQUENCE,
    ),
)


def _rejected(of: Table) -> Table:
    return Table(
        name=f"{of.name}_rejected",
        doc=f"Raw rows that did not become a row of `{of.name}`, and why.",
        key=(),
        written_by=of.written_by,
        columns=(
            Column(c.RAW, "string", "The row as it came, as JSON."),
            Column(c.REASON, "string", "The first rule it broke."),
            Column(c.SOURCE_FILE, "string", "The file or source it came from."),
            Column(c.RUN_ID, "string", "The run that rejected it.", volatile=True),
            Column(c.REJECTED_AT, "timestamp", "When it was rejected, UTC.", volatile=True),
        ),
    )


EVENTS_REJECTED = _rejected(EVENTS)
ITEMS_REJECTED = _rejected(ITEMS)
IMPRESSIONS_REJECTED = _rejected(IMPRESSIONS)

SOURCE_FILES = Table(
    name="source_files",
    doc="A file, Delta table or database table of an own source, as it was when it was last taken.",
    key=(c.TABLE_NAME, c.PATH),
    written_by="ingest",
    columns=(
        Column(c.TABLE_NAME, "string", "The table its rows went into."),
        Column(
            "table_id",
            "string",
            "Delta's identity of that table: where another one is there now, the file is read again.",
            nullable=True,
        ),
        Column(c.PATH, "string", "The file, the Delta folder, or the JDBC address and table."),
        Column("size_bytes", "bigint", "Its size; 0 for a database table."),
        Column("modified_at", "timestamp", "When it was last changed on disk, UTC."),
        Column("checksum", "string", "SHA-256 of a file, `version <n>` of a Delta table, or empty."),
        Column("columns", "map<string,string>", "Its columns and their types, as far as it tells them."),
        Column("rows", "bigint", "Raw rows in it, accepted or not."),
        Column("sequence", "bigint", "Order of taking; of two versions of an event the later one stays."),
        Column(c.RUN_ID, "string", "The run that took it.", volatile=True),
        Column("taken_at", "timestamp", "When, UTC.", volatile=True),
    ),
)
