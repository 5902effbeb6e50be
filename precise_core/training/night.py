"""Both trainings of a warehouse, and which of its checkpoints are in use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyspark.sql import functions as F

from precise_core.artefacts import CATALOGS, has_checkpoint
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import CheckpointError, ConfigError, HistoryGoneError, NothingNewError, NothingToLearnError
from precise_core.feed.catalog import load_item_catalog, load_layers_init, load_token_init, require_language_model
from precise_core.feed.windows import count_windows
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.models.config import FusionConfig
from precise_core.models.text_layers import LayersInit
from precise_core.run.job import Job
from precise_core.run.progress import StepProgress
from precise_core.store import Place, absolute, name_of, store_at
from precise_core.training import collectives as distribution
from precise_core.training.checkpoint import Checkpoint, latest
from precise_core.training.continuation import newest_before, seconds_of
from precise_core.training.launch import run_on_ranks
from precise_core.training.setup import TrainingInputs
from precise_core.training.spaces import earlier_in_time
from precise_core.training.targeted import train_targeted
from precise_core.training.universal import train_universal
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import ITEM_TOKENS, ITEM_VOCABULARY, TEXT_STATES, TOKEN_EMBEDDINGS, TRAINING_WINDOWS, Table
from schemas import columns as c

if TYPE_CHECKING:
    from precise_core.settings import Settings

CATALOG_FILE = "item_catalog.safetensors"


# Universal Training


@dataclass(frozen=True, kw_only=True)
class UniversalInputs:
    """What every rank needs, as plain values that can be pickled.

    Attributes:
        tables: (path, version) of the pinned tables, by name.
        parent: The checkpoint to continue; None = from scratch.
        earlier: From scratch: the checkpoint in whose vector space the new one is to stay, if there is one.
    """

    settings: Settings
    tables: dict[str, tuple[str, int]]
    out: Place
    parent: Checkpoint | None
    earlier: Checkpoint | None
    task: str

    def snapshot(self, table: Table) -> DeltaSnapshot:
        path, version = self.tables[table.name]
        return DeltaSnapshot(path, version)


def universal_night(job: Job, task: str = ALL_TASK) -> tuple[Checkpoint, Checkpoint | None]:
    """The new checkpoint, unpublished, and the one it continues (None = scratch).

    ``task`` other than `all` is for experiments: a model of one task's windows alone, in this process, from scratch.
    With `universal.ranks` above 1 it trains through TorchDistributor.

    Raises:
        NothingNewError: `universal.start: continue`, and nothing new was learnt.
    """
    inputs = universal_inputs(job, task)
    config, parent = inputs.settings.universal, inputs.parent
    if config.ranks == 1 or task != ALL_TASK:
        return train_from_tables(inputs, job.progress("windows")), parent
    folder = run_on_ranks(job.spark, config.ranks, _on_each_rank, config.rank_timeout_seconds, inputs=inputs)
    if parent is not None and name_of(folder) == parent.model_version:
        raise NothingNewError(f"no new window, or validation never improved; {parent.model_version} stays in use")
    return Checkpoint.open(folder), parent


def universal_inputs(job: Job, task: str) -> UniversalInputs:
    """The pinned tables of this run; without text in the catalog, of a model by id alone."""
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
    needed.append(ITEM_VOCABULARY)  # not read here: its version defines the rows of the model
    tables = {table.name: (job.warehouse.path(table), job.pin(table)) for table in needed}
    parent = checkpoint_to_continue(job) if task == ALL_TASK else None
    earlier = checkpoint_to_stay_with(job, task) if task == ALL_TASK and parent is None else None
    out = absolute(job.checkpoints)
    return UniversalInputs(settings=settings, tables=tables, out=out, parent=parent, earlier=earlier, task=task)


def train_from_tables(inputs: UniversalInputs, progress: Progress) -> Checkpoint:
    """What every rank does."""
    settings = inputs.settings
    states = inputs.snapshot(TEXT_STATES) if TEXT_STATES.name in inputs.tables else None
    training = TrainingInputs(
        windows=inputs.snapshot(TRAINING_WINDOWS),
        catalog=load_item_catalog(inputs.snapshot(ITEM_TOKENS), states),
        task=inputs.task,
        out=inputs.out,
        seed=settings.seed,
        versions={name: version for name, (_, version) in inputs.tables.items()},
        as_of=settings.as_of,
        validation_at=validation_at(settings),
        alignment=settings.alignment,
        progress=progress,
        feed_config=settings.feed,
    )
    start = _text_start(inputs)
    return train_universal(training, settings.model, settings.universal, start, inputs.parent, inputs.earlier)


def _text_start(inputs: UniversalInputs) -> TokenInit | LayersInit | None:
    """What the text half of a new model starts from, beside the states of texts; None where from nothing."""
    settings, fusion = inputs.settings, inputs.settings.model.fusion
    if TOKEN_EMBEDDINGS.name in inputs.tables:
        mode: Literal["vocab", "input"] = "input" if fusion.token_init == "input" else "vocab"
        return load_token_init(inputs.snapshot(TOKEN_EMBEDDINGS), fusion.token_width, settings.seed, mode)
    if fusion.has_text_layers and inputs.parent is None:
        return load_layers_init(settings.text.language_model, fusion.trained_layers)
    return None


def _on_each_rank(inputs: UniversalInputs) -> str:
    """Folder of the checkpoint, or of the parent where nothing new was learnt: an error would fail every rank.

    Rank 0 shows how far it is; what a rank prints reaches the driver's log.
    """
    progress = StepProgress("windows") if distribution.rank() == 0 else NullProgress()
    try:
        return str(train_from_tables(inputs, progress).place)
    except NothingNewError:
        if inputs.parent is None:
            raise
        return str(inputs.parent.place)


def checkpoint_to_continue(job: Job) -> Checkpoint | None:
    """The newest universal checkpoint from before this night; None = train from scratch."""
    if job.settings.universal.start == "scratch":
        return None
    parent = newest_before(checkpoint_in_use(job, ALL_TASK), job.settings.as_of)
    if parent is None:
        job.say("no checkpoint of an earlier night to go on from: training from scratch")
    else:
        job.say(
            f"going on from {parent.model_version}, trained on events before {parent.manifest.as_of:%Y-%m-%d %H:%M}"
        )
    return parent


def checkpoint_to_stay_with(job: Job, task: str) -> Checkpoint | None:
    """That of an earlier night, in whose vector space tonight's training from scratch is to stay; None = it opens one.

    Its rows must be the same items as tonight's. The night before has asked the same, and so it holds back to the first
    checkpoint of the space, whose version of the vocabulary may be gone.
    """
    try:
        earlier = earlier_in_time(checkpoint_in_use(job, task), job.settings.as_of)
        if earlier is not None:
            require_vocabulary(job, earlier)
    except (CheckpointError, HistoryGoneError, FileNotFoundError) as error:  # the last: files of an old version
        job.say(f"{task}: NEW VECTOR SPACE, the items of the checkpoint before cannot be compared: {error}")
        return None
    return earlier


def validation_at(settings: Settings) -> int | None:
    """Epoch seconds where validation begins; None where every user's last event is held out."""
    begins = settings.windows.validation_begins(settings.as_of)
    return None if begins is None else seconds_of(begins)


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
    return TEXT_STATES if fusion.reads_states else TOKEN_EMBEDDINGS


def _by_id_alone(settings: Settings) -> Settings:
    """The same configuration for a catalog without text."""
    fusion = settings.model.fusion.model_copy(update={"mode": "id"})
    if fusion.width % settings.model.encoder.heads:
        raise ConfigError(
            f"no item has text, and model.encoder.heads {settings.model.encoder.heads} does not divide "
            f"model.fusion.id_width {fusion.width}"
        )
    return settings.model_copy(update={"model": settings.model.model_copy(update={"fusion": fusion})})


# Targeted Training


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """How a task's training ended.

    Attributes:
        checkpoint: In use from now on; None = there is nothing to learn from, as ``error`` says.
        is_new: False = nothing new was learnt, and the checkpoint in use stays.
    """

    task: str
    checkpoint: Checkpoint | None = None
    is_new: bool = False
    words: Sequence[str]
    error: NothingToLearnError | None = None


def targeted_night(job: Job, named: Sequence[str] | None) -> Iterator[TaskOutcome]:
    """Train every task of the configuration, or the named ones; each is yielded, unpublished, as soon as it ends."""
    universal = latest_checkpoint(job, ALL_TASK)
    inputs = targeted_inputs(job, universal)
    for task in select_tasks(job, named, tuple(job.settings.tasks)):
        yield _train_task(job, replace(inputs, task=task), universal)


def _train_task(job: Job, inputs: TrainingInputs, universal: Checkpoint) -> TaskOutcome:
    task, settings = inputs.task, job.settings
    try:
        previous, earlier = checkpoint_in_use(job, task), checkpoint_to_stay_with(job, task)
        checkpoint = train_targeted(inputs, settings.targeted, universal, previous, earlier)
    except NothingNewError as error:
        return TaskOutcome(task=task, checkpoint=latest(job.checkpoints, task), words=[str(error)])
    except NothingToLearnError as error:
        return TaskOutcome(task=task, words=[f"{task}: skipped, {error}"], error=error)
    words = (_how_it_started(settings, checkpoint), *checkpoint.manifest.notes)
    return TaskOutcome(task=task, checkpoint=checkpoint, is_new=True, words=[f"{task}: {text}" for text in words])


def targeted_inputs(job: Job, universal: Checkpoint) -> TrainingInputs:
    """What the trainings of all tasks share, at the versions that this run reads."""
    catalog = item_catalog(job, universal)
    job.pin(ITEM_VOCABULARY)
    return TrainingInputs(
        windows=pinned_snapshot(job, TRAINING_WINDOWS),
        catalog=catalog,
        out=job.checkpoints,
        seed=job.settings.seed,
        versions=job.input_versions,
        as_of=job.settings.as_of,
        validation_at=validation_at(job.settings),
        alignment=job.settings.alignment,
        progress=job.progress("windows"),
        feed_config=job.settings.feed,
    )


def _how_it_started(settings: Settings, checkpoint: Checkpoint) -> str:
    """For the log; with `targeted.warm_start: false` the parent is untrained."""
    if not settings.targeted.warm_start:
        return "trained from scratch"
    is_warm_up = checkpoint.manifest.warm_up_as_of == settings.as_of
    return f"{'warmed up' if is_warm_up else 'gone on'} from {checkpoint.manifest.parent}"


# Checkpoints in use, and what they must fit


def latest_checkpoint(job: Job, task: str) -> Checkpoint:
    """The checkpoint in use for a task, verified, and recorded as an input of the run."""
    checkpoint = latest(job.checkpoints, task)
    job.input_fingerprints[f"checkpoint:{task}"] = checkpoint.model_version
    return checkpoint


def checkpoint_in_use(job: Job, task: str) -> Checkpoint | None:
    """The checkpoint in use for a task, verified, or None where there is none; not recorded as an input."""
    return latest(job.checkpoints, task) if has_checkpoint(job.checkpoints, task) else None


def select_tasks(job: Job, named: Sequence[str] | None, among: Sequence[str] | None = None) -> list[str]:
    """The tasks named on the command line, or all of ``among`` (every task of the configuration)."""
    known = list(among if among is not None else job.settings.task_names)
    unknown = [task for task in named or [] if task not in known]
    if unknown:
        raise ConfigError(f"--task {unknown[0]}: unknown; allowed are {', '.join(known) or '(none)'}")
    return list(named or known)


def trained_tasks(job: Job, named: Sequence[str] | None = None) -> list[str]:
    """The tasks that have a checkpoint; a universal one, and one of each named task, must be there."""
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
    """Token ids of every item at the version this run reads; with states of their texts if a checkpoint reads them."""
    needs_states = any(checkpoint.reads_states for checkpoint in checkpoints)
    states = pinned_snapshot(job, TEXT_STATES) if needs_states else None
    catalog = load_item_catalog(pinned_snapshot(job, ITEM_TOKENS), states)
    for checkpoint in checkpoints:
        checkpoint.require_fit(catalog)
        require_vocabulary(job, checkpoint)
    return catalog


def save_item_catalog(job: Job, *checkpoints: Checkpoint) -> Path:
    """The catalog as one file to be shipped to executors; named after the versions of the tables it holds.

    It is made of tables alone, so that nobody fetches it from an object store.
    """
    catalog = item_catalog(job, *checkpoints)
    with_states = f"-states-v{job.pin(TEXT_STATES)}" if catalog.states else ""
    folder = store_at(job.root).scratch / CATALOGS / f"v{job.pin(ITEM_TOKENS)}{with_states}"
    folder.mkdir(parents=True, exist_ok=True)
    catalog.save(folder / CATALOG_FILE)
    return folder / CATALOG_FILE


def require_vocabulary(job: Job, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose rows are other items in the vocabulary; a vocabulary that has grown since is fine."""
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
