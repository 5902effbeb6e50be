"""Tables that come from outside: events, items, impressions, what was refused of them, and which files were read."""

from schemas import columns as c
from schemas.table import Column, Table

EVENTS = Table(
    name="events",
    doc="One action of one user on one item at one instant, validated.",
    key=(c.EVENT_ID,),
    written_by="ingest",
    partition_by=(c.EVENT_DATE,),
    has_change_feed=True,
    columns=(
        Column(name=c.EVENT_ID, type="string", doc="Identity of the event; ties in time are broken by it."),
        Column(name=c.USER_ID, type="string", doc="Who acted."),
        Column(name=c.ITEM_ID, type="string", doc="On which item; always present in `items`."),
        Column(name=c.SCENE, type="string", doc="Content scenario in which it happened."),
        Column(name=c.ACTION, type="string", doc="What was done: click, share, purchase, ..."),
        Column(name=c.EVENT_TS, type="timestamp", doc="When, UTC."),
        Column(name=c.EVENT_DATE, type="date", doc="Day of `event_ts` in UTC; the partition."),
        Column(name=c.VALUE, type="double", nullable=True, doc="Strength or amount, where the source has one."),
    ),
)

ITEMS = Table(
    name="items",
    doc="One item of the catalog with the text the language model reads.",
    key=(c.ITEM_ID,),
    written_by="ingest",
    columns=(
        Column(name=c.ITEM_ID, type="string", doc="External key of the item."),
        Column(name=c.TITLE, type="string", doc="Title; empty where the source has none."),
        Column(name=c.DESCRIPTION, type="string", doc="Longer text; empty where the source has none."),
        Column(name=c.CATEGORIES, type="array<string>", doc="Categories, broad to narrow; may be empty."),
        Column(name=c.ATTRIBUTES, type="map<string,string>", doc="Other fields of the source, as text."),
        Column(name=c.PUBLISHED_TS, type="timestamp", nullable=True, doc="When the item appeared, if known, UTC."),
        Column(name=c.UPDATED_TS, type="timestamp", nullable=True, doc="When its text last changed, if known, UTC."),
        Column(name=c.IS_DELETED, type="boolean", doc="True = never recommend it again."),
    ),
)

IMPRESSIONS = Table(
    name="impressions",
    doc="One item shown to one user, and whether it was taken.",
    key=(c.IMPRESSION_ID,),
    written_by="ingest",
    columns=(
        Column(name=c.IMPRESSION_ID, type="string", doc="Identity of the impression."),
        Column(name=c.USER_ID, type="string", doc="To whom it was shown."),
        Column(name=c.ITEM_ID, type="string", doc="What was shown; always present in `items`."),
        Column(name=c.IMPRESSION_TS, type="timestamp", doc="When it was shown, UTC."),
        Column(name=c.LABEL, type="int", doc="1 = taken, 0 = passed over."),
        Column(name=c.CONTEXT, type="map<string,string>", doc="Context features of the moment, as text."),
    ),
)


def _rejected(of: Table) -> Table:
    return Table(
        name=f"{of.name}_rejected",
        doc=f"Raw rows that did not become a row of `{of.name}`, and why.",
        key=(),
        written_by=of.written_by,
        columns=(
            Column(name=c.RAW, type="string", doc="The row as it came, as JSON."),
            Column(name=c.REASON, type="string", doc="The first rule it broke."),
            Column(name=c.SOURCE_FILE, type="string", doc="The file or source it came from."),
            Column(name=c.RUN_ID, type="string", volatile=True, doc="The run that rejected it."),
            Column(name=c.REJECTED_AT, type="timestamp", volatile=True, doc="When it was rejected, UTC."),
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
        Column(name=c.TABLE_NAME, type="string", doc="The table its rows went into."),
        Column(
            name="table_id",
            type="string",
            nullable=True,
            doc="Delta's identity of that table: where another one is there now, the file is read again.",
        ),
        Column(name=c.PATH, type="string", doc="The file, the Delta folder, or the JDBC address and table."),
        Column(name="size_bytes", type="bigint", doc="Its size; 0 for a database table."),
        Column(name="modified_at", type="timestamp", doc="When it was last changed on disk, UTC."),
        Column(name="checksum", type="string", doc="SHA-256 of a file, `version <n>` of a Delta table, or empty."),
        Column(name="columns", type="map<string,string>", doc="Its columns and their types, as far as it tells them."),
        Column(name="rows", type="bigint", doc="Raw rows in it, accepted or not."),
        Column(name="sequence", type="bigint", doc="Order of taking; of two versions of an event the later one stays."),
        Column(name=c.RUN_ID, type="string", volatile=True, doc="The run that took it."),
        Column(name="taken_at", type="timestamp", volatile=True, doc="When, UTC."),
    ),
)
