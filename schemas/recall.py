"""Candidates recalled."""

from schemas import columns as c
from schemas.table import AS_OF, MODEL_TASK, MODEL_VERSION, Column, Table

_SOURCES = (
    "`u2i` (user vector), `u2i2i` (what follows recent items), or `popular`: the user has no history of the task and "
    "gets its most popular items."
)

RECALL_CANDIDATES = Table(
    name="recall_candidates",
    doc="One recalled item for one user (section VI-B, Fig. 6).",
    key=(c.USER_ID, c.TASK, c.MODEL_VERSION, c.SOURCE, c.RANK),
    written_by="recall",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(c.USER_ID, "string", "External key of the user."),
        MODEL_TASK,
        MODEL_VERSION,
        Column(c.SOURCE, "string", _SOURCES),
        Column(c.RANK, "int", "1 = best, within user and source."),
        Column(c.ITEM_ID, "string", "The recalled item."),
        Column(c.SCORE, "float", "What it was ranked by: similarity; recent events (`popular`)."),
        Column(c.SEED_ITEM_ID, "string", "The recent item it was looked up for (`u2i2i`).", nullable=True),
        AS_OF,
    ),
)
