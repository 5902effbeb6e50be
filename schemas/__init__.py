"""Every table of the platform, declared once. Imports nothing else of the project."""

from schemas import columns
from schemas.evaluation import EVALUATION_METRICS, TRAINING_DAYS
from schemas.intake import (
    EVENTS,
    EVENTS_REJECTED,
    IMPRESSIONS,
    IMPRESSIONS_REJECTED,
    ITEMS,
    ITEMS_REJECTED,
    SOURCE_FILES,
)
from schemas.pair_scores import PAIR_SCORES
from schemas.publication import PUBLISHED_MODELS
from schemas.ranking import RANKING_FEATURES, RANKING_SCORES
from schemas.recall import RECALL_CANDIDATES
from schemas.recommendations import CANDIDATE_FEATURES, ITEM_NEIGHBOURS, RECOMMENDATIONS
from schemas.run import RUNS, VALIDATION_RESULTS
from schemas.sequences import TRAINING_WINDOWS, USER_SEQUENCES
from schemas.table import Column, Table
from schemas.text import ITEM_TOKENS, ITEM_VOCABULARY, TEXT_STATES, TOKEN_EMBEDDINGS
from schemas.vectors import ITEM_EMBEDDINGS, USER_EMBEDDINGS

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
    ITEM_NEIGHBOURS,
    CANDIDATE_FEATURES,
    RECOMMENDATIONS,
    EVALUATION_METRICS,
    TRAINING_DAYS,
    VALIDATION_RESULTS,
    RUNS,
)

__all__ = ["TABLES", "Column", "Table", "columns", *(t.name.upper() for t in TABLES)]
