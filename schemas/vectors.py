"""Vectors of items and users."""

from schemas import columns as c
from schemas.table import AS_OF, MODEL_TASK, MODEL_VERSION, Column, Table

ITEM_EMBEDDINGS = Table(
    name="item_embeddings",
    doc="The fused vector of one item (e_i, eq. 4), scaled so that a dot product with a user vector is its score.",
    key=(c.ITEM_ID, c.MODEL_VERSION),
    written_by="embed_items",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(c.ITEM_ID, "string", "External key of the item."),
        Column(c.ITEM_INDEX, "int", "Its row in the vocabulary."),
        MODEL_VERSION,
        Column(c.EMBEDDING, "array<float>", "The vector; finite and never all zero."),
        Column(c.EMBEDDED_AT, "timestamp", "When it was computed, UTC.", volatile=True),
        Column(c.IS_COLD, "boolean", "True = no training event; the vector comes from text alone."),
        Column(c.TEXT_HASH, "string", "SHA-256 of the text it was made from, as in `item_tokens`."),
        Column(
            c.QUERY_EMBEDDING,
            "array<float>",
            "The vector of a user whose only event is this item; U2I2I searches with it. Null in rows older than it.",
            nullable=True,
        ),
    ),
)

USER_EMBEDDINGS = Table(
    name="user_embeddings",
    doc="The vector of one user for one task (h_u, sections IV-C and IV-D).",
    key=(c.USER_ID, c.TASK, c.MODEL_VERSION),
    written_by="embed_users",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(c.USER_ID, "string", "External key of the user."),
        MODEL_TASK,
        MODEL_VERSION,
        Column(c.EMBEDDING, "array<float>", "The vector; finite and never all zero."),
        AS_OF,
        Column(c.SEQUENCE_HASH, "bigint", "Hash of what it was made from; another one = stale."),
    ),
)
