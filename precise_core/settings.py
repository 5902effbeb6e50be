"""The whole configuration of one environment: one YAML file, one object."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from precise_core.config import Config, Instant, validated
from precise_core.config.gates import GatesConfig
from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.errors import ConfigError
from precise_core.evaluation.config import EvaluationConfig, ExperimentConfig, LightGCNConfig
from precise_core.export.config import ExportConfig
from precise_core.feed.config import FeedConfig
from precise_core.index.config import IndexConfig
from precise_core.models.config import ModelConfig
from precise_core.monitoring.config import MonitoringConfig
from precise_core.pair_scores.config import ScoringConfig
from precise_core.ranking.config import DCNConfig, RankerConfig, RankingFeaturesConfig
from precise_core.recall.config import RecallConfig
from precise_core.recommendations.config import RecommendationsConfig
from precise_core.sequences.config import LEAVE_ONE_OUT, SequencesConfig, WindowsConfig
from precise_core.serving.config import ServingConfig
from precise_core.sources.config import Source, has_true_times
from precise_core.store import is_remote, place_of
from precise_core.text.config import TextConfig
from precise_core.training.config import AlignmentConfig, TargetedConfig, UniversalConfig
from precise_core.vectors.config import EncodingConfig
from precise_core.warehouse.config import SparkConfig, TablesConfig


class Settings(Config):
    """Everything a night needs to know. docs/configuration.md explains each key."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_-]+$", description="Name of the environment, shown in logs and in the report."
    )
    warehouse: str = Field(
        description="Folder of all tables, checkpoints and indexes, relative to where the job is started; or a place "
        "in an object store, `s3a://bucket/folder` ([what that needs](object_store.md))."
    )
    as_of: Instant = Field(
        description="The night learns from what lies strictly before this instant; without a time zone it is UTC."
    )
    seed: int = Field(17, description="Of every draw: weights, order, negatives, held-out users, bootstrap.")
    source: Source = Field(description="Where the raw rows come from; `kind` chooses one of the source classes below.")
    tasks: dict[str, TaskConfig] = Field(
        default_factory=dict, description="Target tasks by name (letters, digits, `_`); `all` is always there."
    )
    sizes: Literal["by_log", "defaults"] = Field(
        "by_log",
        description="Lengths, widths, epochs and periods that the file leaves out: chosen by `ingest` for the log it "
        "finds, and [kept](your_data.md#sizes) in `sizes.json` of the warehouse; or the defaults below.",
    )
    spark: SparkConfig = Field(SparkConfig(), description="How Spark is started.")
    tables: TablesConfig = Field(
        TablesConfig(), description="How long what is kept, and what is compacted (`maintain_tables`)."
    )
    text: TextConfig = Field(TextConfig(), description="Item text and the language model that reads it.")
    sequences: SequencesConfig = Field(SequencesConfig(), description="Length and partitions of `user_sequences`.")
    windows: WindowsConfig = Field(
        WindowsConfig(), description="Training windows and the users held out for validation."
    )
    feed: FeedConfig = Field(FeedConfig(), description="How training reads its windows.")
    model: ModelConfig = Field(
        ModelConfig(), description="Sizes of PRECISE, and the switches where it departs from the paper."
    )
    universal: UniversalConfig = Field(UniversalConfig(), description="Universal Training.")
    targeted: TargetedConfig = Field(TargetedConfig(), description="Targeted Training, the same for every task.")
    alignment: AlignmentConfig = Field(AlignmentConfig(), description="One vector space across trainings from scratch.")
    encoding: EncodingConfig = Field(EncodingConfig(), description="Batch encoding of items and users.")
    index: IndexConfig = Field(IndexConfig(), description="The FAISS index.")
    recall: RecallConfig = Field(RecallConfig(), description="U2I and U2I2I candidates.")
    scoring: ScoringConfig = Field(ScoringConfig(), description="Scores of candidate pairs.")
    ranking_features: RankingFeaturesConfig = Field(
        RankingFeaturesConfig(), description="Impressions with features and vectors."
    )
    dcn: DCNConfig = Field(DCNConfig(), description="Sizes of the ranking model, and which injections are on.")
    ranker: RankerConfig = Field(RankerConfig(), description="Training of the ranking model.")
    recommendations: RecommendationsConfig = Field(
        RecommendationsConfig(), description="Lists of candidates from several sources, and the model that ranks them."
    )
    serving: ServingConfig = Field(ServingConfig(), description="The server of what is published (`serve`).")
    export: ExportConfig = Field(
        ExportConfig(), description="Stores outside that get what is published (`export_vectors`)."
    )
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="The offline evaluation.")
    gates: GatesConfig = Field(GatesConfig(), description="Checks of the tables.")
    monitoring: MonitoringConfig = Field(
        MonitoringConfig(), description="Metrics for Prometheus, trainings in MLflow; nothing by default."
    )
    lightgcn: LightGCNConfig = Field(LightGCNConfig(), description="The graph system of experiments (`stage: graph`).")
    experiment: ExperimentConfig = Field(ExperimentConfig(), description="Systems that `run_experiment` compares.")

    @field_validator("as_of")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        if value.microsecond:
            raise ValueError(f"whole seconds are needed, it is {value.isoformat()}: evaluations count in seconds")
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @field_validator("warehouse")
    @classmethod
    def _place(cls, value: str) -> str:
        place = place_of(value)
        return place if is_remote(value) else value

    @field_validator("tasks")
    @classmethod
    def _task_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name == ALL_TASK or not name.replace("_", "").isalnum():
                raise ValueError(f"task name {name!r}: letters, digits and _ only, and not {ALL_TASK!r}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        named = {
            "ranking_features.tasks": self.ranking_features.tasks,
            "sequences.max_lengths": self.sequences.max_lengths,
            "experiment.tasks": self.experiment.tasks,
        }
        for key, tasks in named.items():
            if unknown := sorted(set(tasks) - set(self.task_names)):
                raise ValueError(f"{key}: unknown task {unknown}; declared are {list(self.task_names)}")
        if self.windows.length > self.model.encoder.max_length:
            raise ValueError(
                f"windows.length {self.windows.length} is above "
                f"model.encoder.max_length {self.model.encoder.max_length}"
            )
        if self.model.encoder.uses_times and not has_true_times(self.source):
            raise ValueError(
                f"model.encoder.kind {self.model.encoder.kind} reads when events happened, and the times of "
                f"source.kind {self.source.kind} are made up; set model.encoder.time_bias false"
            )
        is_plain = self.universal.start == "scratch" and self.targeted.warm_up_every_days == 1
        if not self.targeted.warm_start and not is_plain:
            raise ValueError(
                "targeted.warm_start false starts from the untrained model every night: it needs "
                "universal.start scratch and targeted.warm_up_every_days 1"
            )
        looks_ahead = self.universal.horizon_days > 0 or self.universal.target_filter != "all"
        if self.model.prediction == "masked_item" and looks_ahead:
            raise ValueError(
                f"universal.horizon_days {self.universal.horizon_days:g} and target_filter "
                f"{self.universal.target_filter} choose next items; model.prediction masked_item has none: "
                "it needs 0 and all"
            )
        return self

    @model_validator(mode="after")
    def _systems_are_possible(self) -> Settings:
        for name, system in self.experiment.systems.items():
            try:
                own = self.of_system(name)
            except ConfigError as error:
                raise ValueError(f"experiment.systems.{name}: {error}") from error
            if system.blend.weights and self.windows.split == LEAVE_ONE_OUT:
                raise ValueError(f"experiment.systems.{name}.blend: needs windows.split: time to choose on")
            is_weighable = own.model.late_fusion and not own.model.encoder.uses_times and system.stage != "graph"
            if system.text_weights and not (is_weighable and not own.windows.train_includes_validation):
                raise ValueError(
                    f"experiment.systems.{name}.text_weights: needs model.late_fusion, an encoder that does not read "
                    "times, and validation items that are not learnt"
                )
            if system.stage == "graph" and self.windows.split == LEAVE_ONE_OUT:
                raise ValueError(f"experiment.systems.{name}: stage graph needs windows.split: time, to be selected on")
            if own.windows.split != self.windows.split:
                raise ValueError(f"experiment.systems.{name}.changes.windows.split: every system needs the same split")
        return self

    def of_system(self, name: str) -> Settings:
        """The configuration of one system of the experiment, without the experiment itself."""
        own = self.model_dump(mode="json", exclude={"experiment"})
        return validated(Settings, _merged(own, self.experiment.systems[name].changes))

    @property
    def task_names(self) -> tuple[str, ...]:
        """`all` and the declared tasks, in the order of the file."""
        return (ALL_TASK, *self.tasks)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the entries of ``changes``, mappings entry by entry."""
    result = dict(base)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if is_section else value
    return result
