"""Universal Training of a warehouse, in this process or on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from precise_core.config.tasks import ALL_TASK
from precise_core.errors import ConfigError, NothingNewError
from precise_core.feed.catalog import load_item_catalog, load_token_init, require_language_model
from precise_core.feed.windows import count_windows
from precise_core.models.config import FusionConfig
from precise_core.run.job import Job
from precise_core.run.progress import StepProgress
from precise_core.training import collectives as distribution
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.checkpoints import checkpoint_folder, checkpoint_in_use, pinned_snapshot
from precise_core.training.continuation import newest_before, seconds_of
from precise_core.training.launch import run_on_ranks
from precise_core.training.universal import train_universal
from precise_core.training.watching import Progress
from precise_core.warehouse.snapshot import DeltaSnapshot
from schemas import ITEM_TOKENS, ITEM_VOCABULARY, TEXT_STATES, TOKEN_EMBEDDINGS, TRAINING_WINDOWS, Table
from schemas import columns as c

if TYPE_CHECKING:
    from precise_core.settings import Settings


def train(job: Job, task: str = ALL_TASK) -> tuple[Checkpoint, Checkpoint | None]:
    """The new checkpoint and the one it goes on from (None = scratch).

    ``task`` other than `all` is for experiments: a model of one task's windows alone, in this process, from scratch.

    Trained on the pinned tables; with `universal.ranks` above 1 through TorchDistributor.

    Raises:
        NothingNewError: `universal.start: continue`, and nothing new was learnt.
        DataError: Another language model than the configured one wrote what the text half starts from.
    """
    settings = job.settings
    needed = [TRAINING_WINDOWS, ITEM_TOKENS]
    for table in needed:  # in the order of the night, so that a missing one names the job to run next
        job.pin(table)
    starts_from = text_table(settings.model.fusion)
    if starts_from is not None:
        text = pinned_snapshot(job, starts_from)
        if text.row_count():
            require_language_model(text, settings.text.language_model)
            needed.append(starts_from)
        else:
            job.say(f"no item has text: fusion mode `id` instead of `{settings.model.fusion.mode}`")
            settings = _by_id_alone(settings)
    needed.append(ITEM_VOCABULARY)  # not read here: its version says what the rows of the model mean
    tables = {table.name: (job.warehouse.path(table), job.pin(table)) for table in needed}
    out = checkpoint_folder(job).resolve()
    parent = checkpoint_to_go_on_from(job) if task == ALL_TASK else None
    if settings.universal.ranks == 1 or task != ALL_TASK:
        return Checkpoint.open(train_from_tables(settings, tables, out, parent, job.progress("windows"), task)), parent
    config = settings.universal
    folder = run_on_ranks(
        job.spark,
        config.ranks,
        _train_or_stay,
        config.rank_timeout_seconds,
        settings=settings,
        tables=tables,
        out=out,
        parent=parent,
    )
    if parent is not None and Path(folder).name == parent.model_version:
        raise NothingNewError(f"no new window, or validation never improved; {parent.model_version} stays in use")
    return Checkpoint.open(folder), parent


def checkpoint_to_go_on_from(job: Job) -> Checkpoint | None:
    """The newest universal checkpoint from before this night; None = train from scratch."""
    if job.settings.universal.start == "scratch":
        return None
    in_use = checkpoint_in_use(job, ALL_TASK)
    parent = newest_before(in_use, job.settings.as_of)
    if parent is None:
        job.say("no checkpoint of an earlier night to go on from: training from scratch")
    else:
        job.say(
            f"going on from {parent.model_version}, trained on events before {parent.manifest.as_of:%Y-%m-%d %H:%M}"
        )
    return parent


def windows_offered(job: Job, parent: Checkpoint | None) -> tuple[int, int]:
    """Train windows of `all`, and how many of them a training offers in an epoch."""
    snapshot = pinned_snapshot(job, TRAINING_WINDOWS)
    rows = snapshot.row_count({c.TASK: ALL_TASK, c.SPLIT: c.TRAIN})
    if parent is None or parent.manifest.as_of is None:
        return rows, rows
    return rows, count_windows(snapshot, ALL_TASK, seconds_of(parent.manifest.as_of))


def text_table(fusion: FusionConfig) -> Table | None:
    """The table that the text half starts from; None where it starts from nothing."""
    if fusion.mode == "id" or fusion.token_init == "random":
        return None
    return TEXT_STATES if fusion.is_contextual else TOKEN_EMBEDDINGS


def _by_id_alone(settings: Settings) -> Settings:
    """The same configuration for a catalog without text."""
    fusion = settings.model.fusion.model_copy(update={"mode": "id"})
    if fusion.width % settings.model.encoder.heads:
        raise ConfigError(
            f"no item has text, and model.encoder.heads {settings.model.encoder.heads} does not divide "
            f"model.fusion.id_width {fusion.width}"
        )
    return settings.model_copy(update={"model": settings.model.model_copy(update={"fusion": fusion})})


def train_from_tables(
    settings: Settings,
    tables: dict[str, tuple[str, int]],
    out: Path,
    parent: Checkpoint | None = None,
    progress: Progress | None = None,
    task: str = ALL_TASK,
) -> str:
    """What every rank does; returns the folder of the checkpoint.

    Args:
        settings: The whole configuration.
        tables: (path, version) of the pinned tables, by name.
        out: Folder of all checkpoints.
        parent: The checkpoint to go on from; None = from scratch.
        progress: Told of every step.
        task: Whose windows.
    """

    def snapshot(table: Table) -> DeltaSnapshot:
        path, version = tables[table.name]
        return DeltaSnapshot(path, version)

    fusion, token_init = settings.model.fusion, None
    if TOKEN_EMBEDDINGS.name in tables:
        mode: Literal["vocab", "input"] = "input" if fusion.token_init == "input" else "vocab"
        token_init = load_token_init(snapshot(TOKEN_EMBEDDINGS), fusion.token_width, settings.seed, mode)
    states = snapshot(TEXT_STATES) if TEXT_STATES.name in tables else None
    checkpoint = train_universal(
        model_config=settings.model,
        config=settings.universal,
        windows=snapshot(TRAINING_WINDOWS),
        catalog=load_item_catalog(snapshot(ITEM_TOKENS), states),
        token_init=token_init,
        out=out,
        task=task,
        seed=settings.seed,
        parent_versions={name: version for name, (_, version) in tables.items()},
        as_of=settings.as_of,
        parent=parent,
        progress=progress,
        feed_config=settings.feed,
    )
    return str(checkpoint.folder)


def _train_or_stay(settings: Settings, tables: dict[str, tuple[str, int]], out: Path, parent: Checkpoint | None) -> str:
    """``train_from_tables``, or the parent's folder where nothing new was learnt: an error would fail every rank.

    Rank 0 says how far it is; what a rank prints reaches the driver's log.
    """
    progress = StepProgress("windows") if distribution.rank() == 0 else None
    try:
        return train_from_tables(settings, tables, out, parent, progress)
    except NothingNewError:
        if parent is None:
            raise
        return str(parent.folder)
