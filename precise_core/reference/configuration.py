"""Render every configuration class to docs/configuration.md: `python -m precise_core.reference.configuration`.

Keys, types, defaults and ranges are read off the pydantic models that ``Settings`` reaches. What a key means is its
``Field(description=...)``; for keys without one it is said here, under ``Class.key``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from precise_core.config import Config
from precise_core.settings import Settings

TARGET = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

_HEADER = """# Configuration

Generated from the configuration classes by `python -m precise_core.reference.configuration`; do not edit.

One YAML file describes one environment; every job takes it as `--config FILE`. `--set a.b=c` (repeatable) overrides one
key, and its value is read as YAML: `--set universal.epochs=2`, `--set 'evaluation.ks=[5, 10]'`. An unknown key or an
impossible value ends the job before it starts, with the path of the key and what is allowed. The resolved configuration
is kept as JSON with every run in the table [`runs`](tables.md#runs).

Nothing is reinterpreted, and nothing is overridden in silence:

- the file is UTF-8; a key that stands twice is refused, in the file (with both lines) and among the `--set`; anchors
  and the merge key `<<` work;
- a number is decimal (`3`, `0.1`, `1e-3`), only `true` and `false` say yes and no, `null` or `~` is nothing; every
  other word is text as it stands: `no`, `on`, `0123`, `12:30`, `1_000`;
- text is asked for where text is needed (`"2024"`, in quotes, as the name of a column), and a number where a number is:
  `"3"`, `true` and `3.0` are no integers;
- a date is `2024-03-10`, an instant that, `2024-03-10T06:30:00Z` or `2024-03-10T08:30:00+02:00`; a number is neither;
- a `#` after a blank in a `--set` would begin a comment: put such a value into quotes. `--data FOLDER` needs none.

Rules across keys are checked as well:

- `as_of` is a whole second;
- `sequences.max_lengths` names declared tasks (or `all`), and none of them is above `sequences.max_length`;
- `windows.stride` is at most `windows.length`, or events between windows would be lost;
- `windows.train_includes_validation` needs `windows.split: leave_one_out`;
- `windows.length` is at most `model.encoder.max_length`;
- `model.fusion.top_k` is at most `model.fusion.num_experts`;
- `model.encoder.heads` divides the width of an item (`id_width + token_width`; only one of them in the modes `id` and
  `llm`);
- `ranking_features.train_share + validation_share` is below 1, so that impressions are left to test on;
- `ranking_features.tasks` names only `all` and declared tasks;
- a task gives `scene`, `action` or both; a task is never called `all`;
- negatives have at least one source;
- `model.late_fusion` needs `model.fusion.mode` `pool` or `moe`, and `model.prediction: next_item`;
- `model.prediction: masked_item` needs `universal.horizon_days: 0` and `universal.target_filter: all`;
- `universal.logit_adjustment` above 0 needs negatives that do not leave popularity out already: `logq_correction`,
  `whole_catalog`, or no `in_batch`;
- `targeted.warm_start: false` needs `universal.start: scratch` and `targeted.warm_up_every_days: 1`;
- `experiment.also_against` names systems, systems with a blend and ` + history`, or simple references, each once.
"""

_MEANINGS = {
    "Settings.name": "Name of the environment, shown in logs and in the report.",
    "Settings.warehouse": "Folder of all tables, checkpoints and indexes; relative to where the job is started.",
    "Settings.as_of": "The night learns from what lies strictly before this instant; without a time zone it is UTC.",
    "Settings.seed": "Of every draw: weights, order, negatives, held-out users, bootstrap.",
    "Settings.source": "Where the raw rows come from; `kind` chooses one of the source classes below.",
    "Settings.tasks": "Target tasks by name (letters, digits, `_`); `all` is always there.",
    "Settings.spark": "How Spark is started.",
    "Settings.tables": "How long what is kept, and what is compacted (`maintain_tables`).",
    "Settings.text": "Item text and the language model that reads it.",
    "Settings.sequences": "Length and partitions of `user_sequences`.",
    "Settings.windows": "Training windows and the users held out for validation.",
    "Settings.feed": "How training reads its windows.",
    "Settings.model": "Sizes of PRECISE, and the switches where it departs from the paper.",
    "Settings.universal": "Universal Training.",
    "Settings.targeted": "Targeted Training, the same for every task.",
    "Settings.index": "The FAISS index.",
    "Settings.recall": "U2I and U2I2I candidates.",
    "Settings.ranking_features": "Impressions with features and vectors.",
    "Settings.dcn": "Sizes of the ranking model, and which injections are on.",
    "Settings.ranker": "Training of the ranking model.",
    "Settings.evaluation": "The offline evaluation.",
    "TaskConfig.scene": "Only events of this scene; every scene where omitted.",
    "TaskConfig.action": "Only events of this action; every action where omitted.",
    "SequencesConfig.max_length": "Newest events kept per user and task; no task keeps more.",
    "SequencesConfig.max_lengths": "Tasks that keep fewer: name -> number; a smaller number later only trims.",
    "SequencesConfig.buckets": "Partitions by hash of the user, per task.",
    "WindowsConfig.length": "Positions of a training window.",
    "WindowsConfig.stride": "Events between the starts of two windows of a user.",
    "WindowsConfig.split": "What is held out: the last days of some users, or the last two events of everybody.",
    "WindowsConfig.train_includes_validation": "Leave-one-out: the validation item is trained on too.",
    "WindowsConfig.validation_days": "Days before `as_of` that are the truth of the held-out users.",
    "WindowsConfig.validation_user_share": "Share of the users held out for model selection.",
    "WindowsConfig.max_targets": "Truth items kept per held-out user.",
    "RankingFeaturesConfig.tasks": "Tasks whose vectors are joined to the impressions, one slice of the table each.",
    "RankingFeaturesConfig.train_share": "First part of the impressions' time span: trains.",
    "RankingFeaturesConfig.validation_share": "Next part of it: selects the epoch. The rest tests.",
    "RankingFeaturesConfig.popularity_days": "Days over which an item's recent events are counted.",
    "FusionConfig.mode": "`moe` = PRECISE, `pool` = mean of the tokens, `llm` = text only, `id` = id only.",
    "FusionConfig.id_width": "Width of the id half.",
    "FusionConfig.token_width": "Width of the text half.",
    "FusionConfig.num_experts": "K in eq. 3 and 4.",
    "FusionConfig.top_k": "k: experts that are active per item.",
    "FusionConfig.balance_weight": "Weight of the load-balancing loss; 0 = the paper.",
    "FusionConfig.token_init": "What the text half starts from; [three ways and their costs](jobs/embed_tokens.md).",
    "FusionConfig.id_dropout": "Share of id rows replaced by the unknown row while training; 0 = the paper.",
    "EncoderConfig.layers": "H: Transformer blocks; the paper uses 6.",
    "EncoderConfig.heads": "Attention heads.",
    "EncoderConfig.ffn_width": "Hidden width of the feed-forward network.",
    "EncoderConfig.dropout": "On the input and on what attention and feed-forward network add.",
    "EncoderConfig.max_length": "Longest sequence the model can read.",
    "ModelConfig.fusion": "Item id and item text to one vector.",
    "ModelConfig.encoder": "The Transformer over items.",
    "ModelConfig.late_fusion": "An encoder and a loss for either half of an item vector; false = the paper.",
    "ModelConfig.similarity": "How user and item are compared; `dot` = the paper's training, `cosine` = its serving.",
    "ModelConfig.temperature": "Cosine is divided by it before the softmax; the start value where it is learned.",
    "ModelConfig.learned_temperature": "Train the temperature too.",
    "ModelConfig.residual_head": "The targeted user vector is last state + MLP; false = the MLP alone, the paper.",
    "ModelConfig.head_width": "Hidden width of the targeted stage's MLP.",
    "DCNConfig.embedding_width": "Width of one sparse feature's embedding.",
    "DCNConfig.hash_buckets": "Rows of the embedding table per sparse feature.",
    "DCNConfig.cross_layers": "Layers of the cross network.",
    "DCNConfig.deep_widths": "Hidden widths of the deep tower.",
    "DCNConfig.dropout": "In the deep tower.",
    "NegativesConfig.in_batch": "Targets of other positions of the batch are negatives.",
    "NegativesConfig.uniform": "Items drawn uniformly from the trained ones, per batch.",
    "NegativesConfig.logq_correction": "Subtract the log of the sampling probability; false = the paper.",
    "NegativesConfig.whole_catalog": "Every trained item is a negative (full softmax), nothing is sampled.",
    "OptimizerConfig.learning_rate": "Highest learning rate.",
    "OptimizerConfig.weight_decay": "Of AdamW.",
    "OptimizerConfig.beta1": "Of AdamW.",
    "OptimizerConfig.beta2": "Of AdamW.",
    "OptimizerConfig.warmup_steps": "Steps of linear warm-up, at most half of all.",
    "OptimizerConfig.clip_norm": "Longest gradient.",
    "LoopConfig.epochs": "Passes over the train windows, at most; 0 keeps the start weights.",
    "LoopConfig.batch_size": "Windows per step, all ranks together.",
    "LoopConfig.optimizer": "Of this training.",
    "LoopConfig.checkpoint_every_steps": "Steps after which the state is saved, to go on from after a kill.",
    "UniversalConfig.negatives": "N_u of eq. 5.",
    "TargetedConfig.loss": "`bpr_user` = the paper (eq. 6), `bpr_item` = negatives are items, `both`, or `softmax`.",
    "TargetedConfig.negatives": "For `bpr_item`, `both` and `softmax`.",
    "RankerConfig.epochs": "Passes over the training impressions, at most.",
    "RankerConfig.batch_size": "Impressions per step.",
    "RankerConfig.learning_rate": "Of AdamW.",
    "RankerConfig.weight_decay": "Of AdamW.",
    "RankerConfig.patience": "Epochs without a lower validation log loss before it stops.",
    "IndexConfig.kind": "Structure of the FAISS index.",
    "IndexConfig.lists": "Inverted lists of `ivf`; about four times the root of the number of items by default.",
    "IndexConfig.probes": "Lists searched per query; none = as many as `index.min_recall` takes.",
    "IndexConfig.min_recall": "An index that finds less of the exact top 100 is not published.",
    "IndexConfig.check_queries": "Queries it is measured with.",
    "RecallConfig.k": "Candidates per user and source.",
    "RecallConfig.neighbours": "Items looked up per seed.",
    "RecallConfig.filter_seen": "Leave out items of the user's sequence.",
    "EvaluationConfig.test_days": "Days after `as_of` whose items are the truth.",
    "EvaluationConfig.ks": "Cuts of the ranking.",
    "EvaluationConfig.hot_share": "Share of the trained items that counts as hot.",
    "EvaluationConfig.popular_days": "Days of the reference `most_popular_<days>d`.",
    "EvaluationConfig.bootstrap_samples": "Resamplings of the users behind an interval.",
    "EvaluationConfig.knn_shrinkage": "Of `item_knn` and `last_item_knn`: larger trusts rare pairs less.",
    "EvaluationConfig.knn_history": "Newest events of a user that `item_knn` looks at.",
    "EvaluationConfig.example_users": "Users shown with their recommendations in the report.",
    "TextConfig.language_model": "Installed package that carries a model, or a Hugging Face folder.",
    "TextConfig.fields": "Columns of `items` that make the text, in this order.",
    "TextConfig.max_tokens": "T: tokens kept per item.",
    "TextConfig.max_characters": "Characters kept before tokenizing.",
    "TextConfig.batch_size": "Texts per pass of the language model.",
    "SparkConfig.master": "Spark master when a job is started with plain Python; `--master` of spark-submit wins.",
    "SparkConfig.driver_memory": "Memory of the JVM; fixed by spark-submit where that starts it.",
    "SparkConfig.shuffle_partitions": "`spark.sql.shuffle.partitions`.",
    "SparkConfig.conf": "Further Spark settings by name.",
    "ColumnOrConstant.column": "Column of the file. Give either this or `constant`.",
    "ColumnOrConstant.constant": "One value for every row.",
    "FileInput.path": "File, folder or wildcard on a local or mounted disk; the folder of a Delta table. A path that "
    "is there is literal. See [which files](jobs/ingest.md#which-files).",
    "FileInput.format": "Read off the ending where not given: `.csv`, `.jsonl`, `.ndjson`, `.json`, each also with "
    "`.gz` or `.bz2`, or `.parquet`.",
    "FileInput.jdbc": "A database instead of files; give either this or `path`.",
    "FileInput.changed_files": "What a file gets that has changed since it was taken: an error, or another reading.",
    "JdbcTable.url": "Address, `jdbc:postgresql://host/database`.",
    "JdbcTable.table": "Table or view; give either this or `query`.",
    "JdbcTable.query": "A SELECT; a window of time that overlaps last night's is safe.",
    "JdbcTable.user_env": "Environment variable that holds the user's name.",
    "JdbcTable.password_env": "Environment variable that holds the password.",
    "JdbcTable.driver": "Class of the driver; PostgreSQL's comes with `make install`, `--jars` adds others.",
    "JdbcTable.fetch_rows": "Rows fetched at once.",
    "FileInput.delimiter": "Between the cells of a CSV row: one character, and no letter, digit, quote, backslash or "
    'line break; a tab is `"\\t"`.',
    "FileInput.escape": "CSV: what comes before a quote inside a quoted cell, another quote or a backslash (as MySQL "
    "and Spark write).",
    "FileInput.encoding": "Of CSV and JSON Lines, by its name in Python: `latin-1`, `cp1252`, `utf-16`, `shift_jis`.",
    "FileInput.null_values": 'Cells that mean "missing", such as `["NULL", "\\\\N"]`; the empty cell always does.',
    "TimeReading.unit": "Times are numbers since 1970 in this unit. Give at most one of `unit` and `format`.",
    "TimeReading.format": "Times are text in this Spark datetime pattern. Without both: ISO 8601, UTC by default.",
    "EventsInput.user": "Column of the user's id.",
    "EventsInput.item": "Column of the item's id.",
    "EventsInput.time": "Column of the time.",
    "EventsInput.time_reading": "How it is written.",
    "EventsInput.scene": "Content scenario of the event.",
    "EventsInput.action": "What was done.",
    "EventsInput.value": "Column of a strength or amount.",
    "EventsInput.event_id": "Column of the event's id; made from the row's content where not given.",
    "ItemsInput.changed_files": "A catalog is usually one file that is written anew.",
    "ItemsInput.item": "Column of the item's id.",
    "ItemsInput.title": "Column of the title.",
    "ItemsInput.description": "Column of a longer text.",
    "ItemsInput.categories": "Columns of categories, broad to narrow; a cell may hold a JSON list.",
    "ItemsInput.attributes": "Further columns to keep as text.",
    "ItemsInput.published": "Column of the time the item appeared.",
    "ItemsInput.updated": "Column of the time it changed; of several rows of one item the latest stays.",
    "ItemsInput.deleted": "Column of a flag (true, yes, 1 or false, no, 0): never recommend it again.",
    "ItemsInput.time_reading": "How `published` and `updated` are written.",
    "ImpressionsInput.user": "Column of the user's id.",
    "ImpressionsInput.item": "Column of the item's id.",
    "ImpressionsInput.time": "Column of the time it was shown.",
    "ImpressionsInput.label": "Column of the outcome: 1 = taken, 0 = passed over.",
    "ImpressionsInput.time_reading": "How the time is written.",
    "ImpressionsInput.context": "Columns that describe the moment (device, place); features of the ranking model.",
    "ImpressionsInput.impression_id": "Column of its id; made from the row's content where not given.",
    "FilesSource.kind": "Chooses this source.",
    "FilesSource.events": "The log.",
    "FilesSource.items": "The catalog; the items of the log, without text, where not given.",
    "FilesSource.impressions": "What was shown; without it the ranking jobs are left out.",
    "CompleteJourneySource.kind": "Chooses this source.",
    "CompleteJourneySource.negatives_per_visit": "Promoted products per visit that were not bought.",
    "CompleteJourneySource.pool_per_store_week": "Promoted products of a store and week they are drawn from.",
    "CompleteJourneySource.seed": "Of that draw.",
    "AmazonTitlesSource.kind": "Chooses this source.",
    "AmazonTitlesSource.data": "Folder of the Parquet files.",
    "AmazonTitlesSource.domain": "Which pair of files.",
    "AmazonSequencesSource.kind": "Chooses this source.",
    "AmazonSequencesSource.data": "Folder of the text files (or their .zst).",
    "AmazonSequencesSource.domain": "Which pair of files.",
    "MovieLensSource.kind": "Chooses this source.",
    "MovieLensSource.data": "Folder of ratings.csv and movies.csv (or their .zst).",
    "SyntheticSource.kind": "Chooses this source.",
    "SyntheticSource.users": "Number of users.",
    "SyntheticSource.items": "Number of items; half of them exist from the start, the others appear over the days.",
    "SyntheticSource.days": "Length of the world.",
    "SyntheticSource.events_per_user": "Mean of an exponential distribution.",
    "SyntheticSource.topics": "Latent interests.",
    "SyntheticSource.scenes": "Names of the scenes.",
    "SyntheticSource.share_rate": "Share of events with the action `share`; the others are `click`.",
    "SyntheticSource.impressions_per_user": "0 = the world has no impressions.",
    "SyntheticSource.start": "First day.",
    "SyntheticSource.seed": "The same seed gives the same world.",
}

Kind = type[Config]


def render(root: Kind = Settings) -> str:
    """One Markdown page: a list of the sections of ``root``, then each class with its keys."""
    places = config_places(root)
    return "\n".join([_HEADER, _overview(places), *(_section(kind, at, places) for kind, at in places.items())])


def config_places(root: Kind) -> dict[Kind, list[str]]:
    """Every configuration class that ``root`` reaches, and the key paths at which it stands, in the order of the file.

    An entry of a mapping is written `<name>`: the tasks stand at `tasks.<name>`.
    """
    places: dict[Kind, list[str]] = {}

    def visit(kind: Kind, path: str) -> None:
        places.setdefault(kind, []).append(path)
        for name, field in kind.model_fields.items():
            for below, is_entry in _configs_in(field.annotation):
                visit(below, ".".join(filter(None, [path, name, "<name>" if is_entry else ""])))

    visit(root, "")
    return places


def undescribed_keys(root: Kind = Settings) -> list[str]:
    """`Class.key` of every key that the page could not explain; empty when the page is complete."""
    return [
        f"{kind.__name__}.{name}"
        for kind in config_places(root)
        for name, field in kind.model_fields.items()
        if not _meaning(kind, name, field)
    ]


def main() -> None:
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET.name}: {len(config_places(Settings))} sections")
    for key in undescribed_keys():
        print(f"no description: {key}")


def _configs_in(annotation: Any, is_entry: bool = False) -> Iterator[tuple[Kind, bool]]:
    """The configuration classes inside a type, and whether they are values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation, is_entry
    for part in get_args(annotation):
        yield from _configs_in(part, is_entry or get_origin(annotation) is dict)


def _overview(places: dict[Kind, list[str]]) -> str:
    rows = [f"| [{kind.__name__}](#{kind.__name__.lower()}) | {_where(at)} |" for kind, at in places.items()]
    return "\n".join(["| section | at |", "| --- | --- |", *rows, ""])


def _where(paths: list[str]) -> str:
    return ", ".join(f"`{path}`" if path else "the top of the file" for path in paths)


def _section(kind: Kind, paths: list[str], places: dict[Kind, list[str]]) -> str:
    head = ["| key | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    rows = [_row(kind, name, field, paths, places) for name, field in kind.model_fields.items()]
    doc = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    return "\n".join([f"## {kind.__name__}", "", doc, "", f"At {_where(paths)}.", "", *head, *rows, ""])


def _row(kind: Kind, name: str, field: FieldInfo, paths: list[str], places: dict[Kind, list[str]]) -> str:
    keys = "<br>".join(f"`{path}.{name}`" if path else f"`{name}`" for path in paths)
    linked = dict.fromkeys(below for below, _ in _configs_in(field.annotation) if below in places)
    see = "; ".join(f"[{below.__name__}](#{below.__name__.lower()})" for below in linked)
    meaning = " ".join(filter(None, [_meaning(kind, name, field), f"See {see}." if see else ""]))
    cells = [keys, f"`{_type_name(field.annotation)}`", _default(field), _allowed(field), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _meaning(kind: Kind, name: str, field: FieldInfo) -> str:
    """The field's own description, or what is said here for the class that declares it."""
    owners = [owner.__name__ for owner in kind.__mro__ if name in getattr(owner, "model_fields", {})]
    said = next((_MEANINGS[f"{owner}.{name}"] for owner in owners if f"{owner}.{name}" in _MEANINGS), "")
    return field.description or said


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return "choice"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys("nothing" if a is NoneType else _type_name(a) for a in arguments))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"mapping of name to {_type_name(arguments[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, "section" if list(_configs_in(annotation)) else annotation.__name__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return "none"
    if isinstance(value, Config):
        differing = value.model_dump(mode="json", exclude_unset=True, exclude_defaults=True)
        return f"`{json.dumps(differing)}`" if differing else "its defaults"
    return f"`{json.dumps(to_jsonable_python(value), ensure_ascii=False)}`"


def _allowed(field: FieldInfo) -> str:
    choices = [f"`{choice}`" for choice in _choices(field.annotation)]
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}", "pattern": "matches `{}`"}
    limits = [
        text.format(f"{limit:,}" if isinstance(limit, int) else limit)
        for metadata in field.metadata
        for name, text in words.items()
        if (limit := getattr(metadata, name, None)) is not None
    ]
    return ", ".join([*choices, *limits])


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from (choice.value if isinstance(choice, Enum) else choice for choice in get_args(annotation))
        return
    for part in get_args(annotation):
        yield from _choices(part)


if __name__ == "__main__":
    main()
