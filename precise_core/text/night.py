"""The inputs of tokenize_items and embed_tokens."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame

from precise_core.run.job import Job
from precise_core.text.states import embed_texts, embed_token_inputs, embed_tokens
from precise_core.text.vocabulary import grow_vocabulary, published_before
from schemas import ITEM_TOKENS, ITEM_VOCABULARY, ITEMS, TEXT_STATES


@dataclass(frozen=True, kw_only=True)
class CatalogInputs:
    """`items`, the vocabulary that this run has extended, and `item_tokens` of an earlier night if there was one."""

    items: DataFrame
    vocabulary: DataFrame
    known_tokens: DataFrame | None


def new_vocabulary_rows(job: Job) -> DataFrame:
    """Items that `item_vocabulary` lacks and may have; with ``text.published_only`` once they are published."""
    settings, items = job.settings, job.read(ITEMS)
    known = job.read_optional(ITEM_VOCABULARY)
    if settings.text.published_only:
        items = published_before(items, settings.as_of)
    return grow_vocabulary(items, known, settings.as_of)


def gather_catalog(job: Job) -> CatalogInputs:
    """The inputs of the tokens, once the vocabulary is written."""
    return CatalogInputs(
        items=job.read(ITEMS),
        vocabulary=job.read_written(ITEM_VOCABULARY),
        known_tokens=job.read_optional(ITEM_TOKENS),
    )


def prepare_states(job: Job, tokens: DataFrame) -> DataFrame:
    """`text_states` of `item_tokens`, computed once; the stored ones are kept."""
    settings, fusion = job.settings, job.settings.model.fusion
    layers = fusion.trained_layers if fusion.token_init == "top_layers" else None
    known, partitions = job.read_optional(TEXT_STATES), settings.spark.shuffle_partitions
    return embed_texts(tokens, known, settings.text, partitions, layers).persist()


def prepare_vectors(job: Job, tokens: DataFrame) -> DataFrame:
    """`token_embeddings` of `item_tokens`, as `model.fusion.token_init` says."""
    settings = job.settings
    if settings.model.fusion.token_init == "input":
        return embed_token_inputs(tokens, settings.text)
    return embed_tokens(tokens, settings.text, settings.spark.shuffle_partitions)
