"""Which jobs a night and an hour have, in their order; without Airflow, and without any package of the project.

A test compares the lists with `jobs/run_night.py`, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NIGHT = (
    "ingest",
    "tokenize_items",
    "embed_tokens",
    "build_sequences",
    "build_windows",
    "train_universal",
    "train_targeted",
    "embed_items",
    "embed_users",
    "build_index",
    "publish_models",
    "recall",
    "score_pairs",
    "build_ranking_features",
    "train_ranker",
    "score_ranking",
    "build_neighbours",
    "build_candidate_features",
    "train_list_ranker",
    "recommend",
    "evaluate",
    "build_report",
)
RANKING = ("build_ranking_features", "train_ranker", "score_ranking")
ITEMS = ("ingest", "tokenize_items", "embed_tokens", "embed_items", "build_index", "publish_models")
# Models of these read each text through the language model; others have what they need from the night.
READS_TEXTS = ("contextual", "sentence", "top_layers")

Section = Mapping[str, Any]


def jobs_of_a_night(config: Section) -> list[str]:
    """Every job; those of ranking only where the source has impressions."""
    return [job for job in NIGHT if has_impressions(config["source"]) or job not in RANKING]


def jobs_of_an_hour(config: Section) -> list[str]:
    """What brings new items from the files to the published vectors and index."""
    fusion = ((config.get("model") or {}).get("fusion")) or {}
    reads_texts = fusion.get("token_init") in READS_TEXTS and fusion.get("mode") != "id"
    return [job for job in ITEMS if reads_texts or job != "embed_tokens"]


def has_impressions(source: Section) -> bool:
    """As the configuration's source says it."""
    if source["kind"] == "files":
        return source.get("impressions") is not None
    if source["kind"] == "synthetic":
        return int(source.get("impressions_per_user", 10)) > 0
    return bool(source["kind"] == "completejourney")
