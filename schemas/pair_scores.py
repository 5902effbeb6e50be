"""Similarities of candidate pairs."""

from schemas import columns as c
from schemas.table import AS_OF, MODEL_VERSION, Column, Table

PAIR_SCORES = Table(
    name="pair_scores",
    doc="Similarity of a user and an item vector for one candidate pair.",
    key=(c.USER_ID, c.ITEM_ID, c.MODEL_VERSION),
    written_by="score_pairs",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(c.USER_ID, "string", "External key of the user."),
        Column(c.ITEM_ID, "string", "External key of the item."),
        MODEL_VERSION,
        Column(c.SCORE, "float", "Dot product, or cosine where `scoring.similarity` says so; higher is better."),
        AS_OF,
    ),
)
