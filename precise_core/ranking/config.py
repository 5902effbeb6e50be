"""Configuration of ranking: features, model and training."""

from __future__ import annotations

from pydantic import Field, model_validator

from precise_core.config import Config
from precise_core.config.tasks import ALL_TASK


class RankingFeaturesConfig(Config):
    """`ranking_features`: which tasks' vectors are joined and how impressions are split by time."""

    tasks: tuple[str, ...] = Field(
        (ALL_TASK,),
        min_length=1,
        description="Tasks whose vectors are joined to the impressions, one slice of the table each.",
    )
    days: int = Field(60, ge=1, description="How far back from the newest impression the table goes.")
    train_share: float = Field(0.6, gt=0, lt=1, description="First part of the impressions' time span: trains.")
    validation_share: float = Field(0.15, gt=0, lt=1, description="Next part of it: selects the epoch. The rest tests.")
    popularity_days: int = Field(28, ge=1, description="Days over which an item's recent events are counted.")

    @model_validator(mode="after")
    def _leaves_a_test_share(self) -> RankingFeaturesConfig:
        if self.train_share + self.validation_share >= 1:
            raise ValueError(
                f"train_share {self.train_share} + validation_share {self.validation_share} leave nothing to test on; "
                "their sum must be below 1"
            )
        return self


class RankerConfig(Config):
    """Training of the DCN ranking model."""

    epochs: int = Field(3, ge=1, description="Passes over the training impressions, at most.")
    batch_size: int = Field(512, ge=2, description="Impressions per step.")
    learning_rate: float = Field(1e-3, gt=0, description="Of AdamW.")
    weight_decay: float = Field(1e-5, ge=0, description="Of AdamW.")
    patience: int = Field(2, ge=1, description="Epochs without a lower validation log loss before it stops.")
    ablations: bool = Field(False, description="Also train with each injection alone, on the last of the tasks.")
    leave_out: tuple[str, ...] = Field((), description="Features that no ranking model reads, by name.")


class DCNConfig(Config):
    """DCN-v2 (VI-C, Fig. 7).

    A categorical feature is hashed to ``hash_buckets`` rows of an embedding table of its own, unless it is among the
    ``vocabulary_features``: those have one row for every value that the training split holds at least
    ``vocabulary_min_count`` times, and one for all others.
    """

    embedding_width: int = Field(16, ge=1, description="Width of one sparse feature's embedding.")
    hash_buckets: int = Field(20_000, ge=2, description="Rows of the embedding table per sparse feature.")
    vocabulary_features: tuple[str, ...] = Field((), description="Categorical features by vocabulary, e.g. `category`.")
    vocabulary_min_count: int = Field(1, ge=1, description="A rarer value shares the row of unknown ones.")
    cross_layers: int = Field(2, ge=1, description="Layers of the cross network.")
    deep_widths: tuple[int, ...] = Field((64, 32), description="Hidden widths of the deep tower.")
    dropout: float = Field(0.1, ge=0, lt=1, description="In the deep tower.")
    inject_vectors: bool = Field(True, description="Injection 1: vectors beside the embedding layer's output.")
    inject_score: bool = Field(True, description="Injection 2: the dot product beside the DCN's output.")
