"""Every table of the platform, declared once. Imports nothing of ours."""

from schemas import columns
from schemas.feature_tables import (
    ITEM_TOKENS,
    ITEM_VOCABULARY,
    RANKING_FEATURES,
    TEXT_STATES,
    TOKEN_EMBEDDINGS,
    TRAINING_WINDOWS,
    USER_SEQUENCES,
)
from schemas.product_tables import (
    EVALUATION_METRICS,
    ITEM_EMBEDDINGS,
    PAIR_SCORES,
    PUBLISHED_MODELS,
    RANKING_SCORES,
    RECALL_CANDIDATES,
    RUNS,
    TRAINING_DAYS,
    USER_EMBEDDINGS,
    VALIDATION_RESULTS,
)
from schemas.raw_tables import (
    EVENTS,
    EVENTS_REJECTED,
    IMPRESSIONS,
    IMPRESSIONS_REJECTED,
    ITEMS,
    ITEMS_REJECTED,
    SOURCE_FILES,
)
from schemas.table import Column, Table

TABLES: tuple[Table, ...] = (
    EVENTS,
    ITEMS,
    IMPRESSIONS,
    EVENTS_REJECTED,
    ITEMS_REJECTED,
    IMPRESSIONS_REJECTED,
    SOURCE_FILES,
    ITEM_VOCABULARY,
    ITEM_TOKENS,
    TOKEN_EMBEDDINGS,
    TEXT_STATES,
    USER_SEQUENCES,
    TRAINING_WINDOWS,
    ITEM_EMBEDDINGS,
    USER_EMBEDDINGS,
    PUBLISHED_MODELS,
    PAIR_SCORES,
    RECALL_CANDIDATES,
    RANKING_FEATURES,
    RANKING_SCORES,
    EVALUATION_METRICS,
    TRAINING_DAYS,
    VALIDATION_RESULTS,
    RUNS,
)

__all__ = ["TABLES", "Column", "Table", "columns", *(t.name.upper() for t in TABLES)]
