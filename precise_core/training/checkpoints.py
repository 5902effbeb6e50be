"""Where a warehouse keeps its checkpoints, and which of them are in use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import functions as F

from precise_core.artefacts import CATALOGS
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import CheckpointError, ConfigError
from precise_core.feed.catalog import load_item_catalog
from precise_core.models.catalog import ItemCatalog
from precise_core.run.job import Job
from precise_core.training.checkpoint import Checkpoint, is_published, latest
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import ITEM_TOKENS, ITEM_VOCABULARY, TEXT_STATES, TOKEN_EMBEDDINGS, Table
from schemas import columns as c

CATALOG_FILE = "item_catalog.safetensors"


def checkpoint_folder(job: Job) -> Path:
    return job.checkpoints


def latest_checkpoint(job: Job, task: str) -> Checkpoint:
    """The checkpoint in use for a task, verified; written down as an input of the run.

    Raises:
        CheckpointError: None was trained yet, or its files were changed.
    """
    checkpoint = latest(checkpoint_folder(job), task)
    job.input_fingerprints[f"checkpoint:{task}"] = checkpoint.model_version
    return checkpoint


def checkpoint_in_use(job: Job, task: str) -> Checkpoint | None:
    """The checkpoint in use for a task, verified, or None where there is none; not written down as an input.

    Raises:
        CheckpointError: Its files were changed.
    """
    folder = checkpoint_folder(job)
    return latest(folder, task) if is_published(folder, task) else None


def select_tasks(job: Job, named: Sequence[str] | None, among: Sequence[str] | None = None) -> list[str]:
    """The tasks asked for on the command line, or all of ``among`` (every task of the configuration).

    Raises:
        ConfigError: A name is not among them.
    """
    known = list(among if among is not None else job.settings.task_names)
    unknown = [task for task in named or [] if task not in known]
    if unknown:
        raise ConfigError(f"--task {unknown[0]}: unknown; allowed are {', '.join(known) or '(none)'}")
    return list(named or known)


def trained_tasks(job: Job, named: Sequence[str] | None = None) -> list[str]:
    """The tasks that have a checkpoint; one that was asked for by name must have it.

    Raises:
        CheckpointError: No universal checkpoint, or none for a named task.
    """
    latest_checkpoint(job, ALL_TASK)
    tasks = []
    for task in select_tasks(job, named):
        try:
            latest_checkpoint(job, task)
        except CheckpointError as error:
            if named:
                raise
            job.say(f"{task}: left out, {error}")
        else:
            tasks.append(task)
    return tasks


def pinned_snapshot(job: Job, table: Table) -> DeltaSnapshot:
    """The table's file list at the version this run reads, for readers outside Spark."""
    version = job.pin(table)
    return DeltaSnapshot(job.warehouse.path(table), version)


def item_catalog(job: Job, *checkpoints: Checkpoint) -> ItemCatalog:
    """Token ids of every item at the version this run reads; with states of their texts if a checkpoint reads them.

    Raises:
        DataError: An item has a text without states.
        CheckpointError: The texts are not those of a checkpoint's tokenizer or language model.
    """
    needs_states = any(checkpoint.reads_states for checkpoint in checkpoints)
    states = pinned_snapshot(job, TEXT_STATES) if needs_states else None
    catalog = load_item_catalog(pinned_snapshot(job, ITEM_TOKENS), states)
    for checkpoint in checkpoints:
        checkpoint.require_fit(catalog)
        require_vocabulary(job, checkpoint)
    return catalog


def require_vocabulary(job: Job, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose rows mean other items than the vocabulary says; one that has grown since is fine.

    Raises:
        CheckpointError: An item that the checkpoint knows has another index, or none.
    """
    then = checkpoint.manifest.input_versions.get(ITEM_VOCABULARY.name)
    if then is None or then == job.pin(ITEM_VOCABULARY):
        return
    now = job.pin(ITEM_VOCABULARY)
    columns = [c.ITEM_ID, c.ITEM_INDEX]
    old, new = (job.warehouse.read_arrow(ITEM_VOCABULARY, version, columns) for version in (then, now))
    moved = old.join(new, keys=columns, join_type="left anti").num_rows
    if moved:
        raise CheckpointError(
            f"checkpoint {checkpoint.model_version}: {moved} of its items have another index in item_vocabulary "
            f"version {now} than in version {then}, which it was trained with; restore that version, or train again"
        )


def require_tokens(job: Job, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that reads other tokens than `item_tokens` has, or whose language model is not the tables'.

    Raises:
        CheckpointError: The texts were cut by another tokenizer, or to another length; or `token_embeddings` is of
            another language model than the one that the checkpoint's token table began with.
    """
    manifest, tokens = checkpoint.manifest, job.read(ITEM_TOKENS)
    found = tokens.select(c.TOKENIZER_ID, F.size(c.TOKEN_IDS).alias(c.LENGTH)).distinct().collect()
    for row in found:
        if (row[c.TOKENIZER_ID], row[c.LENGTH]) != (manifest.tokenizer_id, manifest.max_token_length):
            raise CheckpointError(
                f"checkpoint {checkpoint.model_version} reads {manifest.max_token_length} tokens of "
                f"{manifest.tokenizer_id}, item_tokens has {row[c.LENGTH]} of {row[c.TOKENIZER_ID]}; "
                "run jobs/train_universal.py first"
            )
    if manifest.language_model is None or checkpoint.reads_states:
        return
    vectors = job.read_optional(TOKEN_EMBEDDINGS)
    for row in vectors.select(c.LANGUAGE_MODEL).distinct().collect() if vectors is not None else ():
        if row[c.LANGUAGE_MODEL] != manifest.language_model:
            raise CheckpointError(
                f"checkpoint {checkpoint.model_version} began with vectors of {manifest.language_model}, "
                f"token_embeddings has those of {row[c.LANGUAGE_MODEL]}; run jobs/train_universal.py first"
            )


def save_item_catalog(job: Job, *checkpoints: Checkpoint) -> Path:
    """The catalog as one file that executors read; named after the versions of the tables it holds."""
    catalog = item_catalog(job, *checkpoints)
    with_states = f"-states-v{job.pin(TEXT_STATES)}" if catalog.states else ""
    folder = job.folder / CATALOGS / f"v{job.pin(ITEM_TOKENS)}{with_states}"
    folder.mkdir(parents=True, exist_ok=True)
    catalog.save(folder / CATALOG_FILE)
    return folder / CATALOG_FILE
