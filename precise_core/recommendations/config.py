"""Configuration of the lists: sources of candidates, the model that ranks them, what may be on a list."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from precise_core.config import Config
from precise_core.recommendations.names import SOURCES


class ListConfig(Config):
    """What may be on one list of a user."""

    repeat: Literal["allow", "only", "exclude"] = Field(
        "allow", description="Items the user had before: beside new ones, alone, or not at all."
    )
    max_per_category: int | None = Field(None, ge=1, description="At most so many of one (narrowest) category.")
    max_per_text: int | None = Field(
        None, ge=1, description="At most so many of one text: pack sizes of a product have the same."
    )
    min_new_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="At least this share of the `k` places are for items that the user never had; repeats take those "
        "for which there are none.",
    )

    @model_validator(mode="after")
    def _is_possible(self) -> ListConfig:
        if self.repeat == "only" and self.min_new_share > 0:
            raise ValueError(f"min_new_share {self.min_new_share:g}: a list with repeat `only` has no new items")
        return self


class ListRankerConfig(Config):
    """The DCN that ranks candidates, trained on lists of the period before `as_of`."""

    epochs: int = Field(10, ge=1, description="Passes over the training lists, at most.")
    batch_lists: int = Field(
        32, ge=1, description="Lists (a user and a task) per step, at most: few lists learn in smaller batches."
    )
    negatives: int = Field(150, ge=1, description="Candidates not taken that are kept of a training list.")
    learning_rate: float = Field(2e-3, gt=0, description="Highest rate of AdamW.")
    weight_decay: float = Field(1e-4, ge=0, description="Of AdamW.")
    patience: int = Field(2, ge=1, description="Epochs without a better validation NDCG before it stops.")
    losses: tuple[Literal["list", "binary"], ...] = Field(
        ("list", "binary"),
        min_length=1,
        description="Softmax over a list, and log loss; held-out users choose among the models and their mean.",
    )
    cross_layers: int = Field(2, ge=1, description="Layers of the cross network.")
    deep_widths: tuple[int, ...] = Field((128, 64), description="Hidden widths of the deep tower.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="In the deep tower; it orders held-out lists no better and costs time (docs/decisions/0032).",
    )
    per_task: bool = Field(True, description="Models of one task each stand for choice beside those of all tasks.")
    models: int = Field(1, ge=1, description="Models of different seeds whose scores are averaged.")
    validation_share: float = Field(
        0.2,
        gt=0,
        lt=0.9,
        description="Users held out: they choose and they gate. Where fewer than twice `least_lists` of them took "
        "something, and there are at most `validation_users`, all are, in turn: models of different parts of them are "
        "published together.",
    )
    validation_users: int = Field(1000, ge=1, description="At most about so many are held out: all they had is kept.")
    judge_lists: int = Field(500, ge=1, description="Held-out lists that choose the epoch, at most.")
    least_lists: int = Field(
        50,
        ge=1,
        description="Held-out lists of a task and list with something taken that it takes to choose an order for it; "
        "with fewer it gets the order that is best for the same list of `all`. In small tasks NDCG of two orders "
        "differs by some 0.15 to "
        "0.3 from user to user: with 50 a difference of 0.05 begins to show, with 14 the best of several is a draw.",
    )

    def held_out_share(self, users: float, takers: float) -> float:
        """Of so many users, of whom so many took something in the period; 1 = all of them, in turn."""
        if users <= self.validation_users and self.validation_share * takers < 2 * self.least_lists:
            return 1.0
        return min(self.validation_share, self.validation_users / users)


class RecommendationsConfig(Config):
    """`recommendations`: lists of candidates from several sources, ranked by what was taken in the past period."""

    k: int = Field(50, ge=1, description="Longest list.")
    lists: dict[str, ListConfig] = Field(
        {"all": ListConfig(), "new": ListConfig(repeat="exclude"), "repeat": ListConfig(repeat="only")},
        min_length=1,
        description="Lists of each user and task, by name.",
    )
    horizon_days: float | None = Field(
        None,
        gt=0,
        description="What is taken in so many days is what a list should hold; by default `evaluation.test_days`, but "
        "at most a third of the log.",
    )
    sources: dict[str, int] = Field(
        {"history": 400, "task_history": 100, "neighbours": 500, "baskets": 500, "ease": 500, "text": 100,
         "users": 500, "trending": 100, "u2i": 200, "u2i2i": 200},
        description="Items per user and source; 0 = the source is off.",
    )  # fmt: skip
    candidates: int = Field(
        600,
        ge=1,
        description="Candidates of a user and task, at most: what the user had, then what most sources agree on.",
    )
    history_events: int = Field(5000, ge=1, description="Newest events of a user that are read.")
    seeds: int = Field(100, ge=1, description="Newest events of a user whose neighbours are looked up.")
    pair_events: int = Field(200, ge=1, description="Newest events of a user whose items count as had together.")
    neighbours: int = Field(50, ge=1, description="Neighbours kept per item and source (`item_neighbours`).")
    shrinkage: float = Field(10.0, ge=0, description="Of co-occurrence: larger trusts rare pairs less.")
    text_new_days: float = Field(
        28.0, gt=0, description="Items without an event before the last so many days are found by their text."
    )
    ease_items: int = Field(5000, ge=1, description="Most frequent items that EASE knows; its cost grows cubically.")
    ease_penalty: float = Field(200.0, gt=0, description="Of EASE: larger trusts rare pairs less.")
    similar_users: int = Field(100, ge=1, description="Most similar users whose items are candidates.")
    pair_users: int = Field(
        100_000,
        ge=1,
        description="Fixed sample of users whose items count as had together; fewer where they have more than "
        "`pair_events` events on average, which bounds the memory of the job's own process.",
    )
    sample_users: int = Field(20_000, ge=1, description="Fixed sample of users among whom similar ones are sought.")
    past_model: Literal["published", "train"] = Field(
        "published",
        description="PRECISE's scores at the past instant: those of the vectors that were published by then, none "
        "without; `train`: a night that finds nothing published first trains and publishes a model as of then.",
    )
    training_users: int = Field(20_000, ge=1, description="Fixed sample of users who are learned from.")
    ranker: ListRankerConfig = Field(ListRankerConfig(), description="The model that ranks candidates.")

    @field_validator("sources")
    @classmethod
    def _known_sources(cls, value: dict[str, int]) -> dict[str, int]:
        if set(value) - set(SOURCES) or min(value.values(), default=-1) < 0 or sum(value.values()) == 0:
            raise ValueError(f"{value}: numbers of {list(SOURCES)} are needed, at least 0, and one above 0")
        return value

    def k_of(self, source: str) -> int:
        return self.sources.get(source, 0)
