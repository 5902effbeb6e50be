"""Configuration of the offline evaluation and of experiments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from precise_core.config import Config
from precise_core.evaluation.names import MOST_POPULAR, SIMPLE_REFERENCES, reweighted, sum_of_seeds, with_history


def _as_several(value: Any) -> Any:
    """A tuple of a single number, and of a list: what has passed through here is no JSON any more."""
    if type(value) is int:  # true is none
        return (value,)
    return tuple(value) if isinstance(value, list) else value


PopularDays = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_several)]


class EvaluationConfig(Config):
    """Truth = the set of items of the `test_days` after `as_of`."""

    test_days: int = Field(28, ge=1, description="Days after `as_of` whose items are the truth.")
    ks: tuple[int, ...] = Field((10, 30, 50), description="Cuts of the ranking.")
    hot_share: float = Field(0.2, gt=0, lt=1, description="Share of the trained items that counts as hot.")
    popular_days: PopularDays = Field(
        (7, 1, 28),
        min_length=1,
        description="Days of the references `most_popular_<days>d`, a list or one number; users without a vector get "
        "the list of the first.",
    )
    bootstrap_samples: int = Field(1000, ge=100, description="Resamplings of the users behind an interval.")
    knn_shrinkage: float = Field(
        10.0, ge=0, description="Of `item_knn`, `last_item_knn` and `user_knn`: larger trusts rare pairs less."
    )
    knn_history: int = Field(100, ge=1, description="Newest events of a user that `item_knn` looks at.")
    neighbours: int = Field(300, ge=1, description="Nearest users that `user_knn` and `tifu_knn` look at.")
    neighbour_users: int = Field(
        20_000, ge=1, description="Users among whom they are sought; a fixed sample where there are more."
    )
    decay_days: float = Field(
        180.0, gt=0, description="Over how many days an event fades, exp(-age / days), in `own_decayed` and `tifu_knn`."
    )
    own_share: float = Field(
        0.7, ge=0, le=1, description="Of `tifu_knn`: weight of the user's own history beside that of the neighbours."
    )
    ease_items: int = Field(
        5000,
        ge=1,
        le=20_000,
        description="Of `ease`: items that it knows, the most frequent ones; 20,000 take 6.4 GB of memory.",
    )
    ease_penalty: float = Field(250.0, gt=0, description="Of `ease`: λ, in users; larger trusts rare items less.")
    example_users: int = Field(4, ge=0, description="Users shown with their recommendations in the report.")

    @property
    def fallback_reference(self) -> str:
        """The reference whose list a user without a vector gets."""
        return MOST_POPULAR.format(days=self.popular_days[0])


_MAY_DIFFER = ("model", "universal", "targeted", "windows", "text", "lightgcn")


class BlendConfig(Config):
    """The user's own history beside the model; weight and memory are chosen on validation (`windows.split: time`)."""

    weights: tuple[float, ...] = Field((), description="Weights of the history to choose from; none = no blend.")
    days: tuple[float, ...] = Field((60.0,), min_length=1, description="Over how many days an event fades.")


class SystemConfig(Config):
    """One system of an experiment: the configuration of the file with ``changes`` on top.

    ``stage``: `universal` = one model over all scenes for every task; `targeted` = trained on for each task, and not
    evaluated on `all`; `task` = a model of its own for each task, by Universal Training on that task's windows alone;
    `graph` = LightGCN on the users and items of each task.
    """

    stage: Literal["universal", "targeted", "task", "graph"] = Field(
        "universal", description="Which training it ends with."
    )
    changes: dict[str, Any] = Field(
        default_factory=dict, description="Sections of the configuration that differ, e.g. `model`, `universal`."
    )

    blend: BlendConfig = Field(BlendConfig(), description="Add the system once more, blended with the own history.")
    text_weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (),
        description="Add the system once more, the text half of late fusion weighted by the best of these on "
        "validation; 1 = as trained, none = no such row.",
    )

    @model_validator(mode="after")
    def _asks_the_same(self) -> SystemConfig:
        other = sorted(set(self.changes) - set(_MAY_DIFFER))
        if other:
            raise ValueError(f"changes: {other} would ask another question; systems may differ in {_MAY_DIFFER}")
        return self


class RecallTableConfig(Config):
    """Table VIII offline: what U2I and U2I2I of our systems add to the recall of the baseline, at equal lengths.

    A cold-start user has fewer than ``cold_events`` events of the task in the ``cold_days`` before `as_of`.
    """

    ours: tuple[str, ...] = Field((), description="Systems whose U2I and U2I2I are compared; none = no table.")
    baseline: tuple[str, ...] = Field((), description="Systems whose lists, merged, are the baseline.")
    cold_events: int = Field(5, ge=1, description="With fewer a user counts as cold-start.")
    cold_days: int = Field(28, ge=1, description="Days in which they are counted.")

    @model_validator(mode="after")
    def _has_a_baseline(self) -> RecallTableConfig:
        if self.ours and not self.baseline:
            raise ValueError("ours needs a baseline to add to: name at least one system")
        return self


class ExperimentConfig(Config):
    """Systems trained and compared side by side by `run_experiment`, on the same users and the same question."""

    title: str = Field("", description="What it shows, for the results page.")
    seeds: tuple[int, ...] = Field((17,), min_length=1, description="Every system is trained once per seed.")
    tasks: tuple[str, ...] = Field(("all",), min_length=1, description="Tasks that every system is evaluated on.")
    reference: str = Field("", description="System that all others are compared with, user by user.")
    also_against: tuple[str, ...] = Field((), description="Further ones, or simple references such as `item_knn`.")
    systems: dict[str, SystemConfig] = Field(default_factory=dict, description="By the name they have in results.")
    sums: tuple[str, ...] = Field(
        (), description="Systems that are added once more, as the sum of their scores over all seeds."
    )
    recall: RecallTableConfig = Field(RecallTableConfig(), description="The table of recall sources (Table VIII).")
    accept_doubtful_order: bool = Field(
        False, description="Go on where the log seems sorted by item, or has one instant; only if you know better."
    )

    @model_validator(mode="after")
    def _targeted_has_a_task(self) -> ExperimentConfig:
        targeted = [name for name, system in self.systems.items() if system.stage == "targeted"]
        if targeted and set(self.tasks) == {"all"}:
            raise ValueError(f"systems {targeted} have stage targeted, and tasks names no task but `all` to train for")
        return self

    @property
    def _reweighted(self) -> list[str]:
        return [reweighted(name) for name, system in self.systems.items() if system.text_weights]

    @model_validator(mode="after")
    def _sums_have_seeds(self) -> ExperimentConfig:
        trained = [name for name, system in self.systems.items() if system.stage != "graph"]
        if others := sorted(set(self.sums) - {*trained, *self._reweighted}):
            raise ValueError(f"sums: {others} are none of the systems {[*trained, *self._reweighted]}")
        if self.sums and len(self.seeds) == 1:
            raise ValueError(f"sums: there is one seed, {self.seeds[0]}; name more, or no sums")
        return self

    @model_validator(mode="after")
    def _reference_is_a_system(self) -> ExperimentConfig:
        unknown = sorted({*self.recall.ours, *self.recall.baseline} - set(self.systems))
        if unknown:
            raise ValueError(f"recall: {unknown} are none of the systems {sorted(self.systems)}")
        graphs = [name for name in self.recall.ours if self.systems[name].stage == "graph"]
        if graphs:
            raise ValueError(f"recall.ours: {graphs} are of stage graph; U2I2I needs a checkpoint's item vectors")
        if self.systems and self.reference not in self.systems:
            raise ValueError(f"reference {self.reference!r} is not one of the systems {sorted(self.systems)}")
        blended = [with_history(name) for name, system in self.systems.items() if system.blend.weights]
        names = [*self.systems, *blended, *self._reweighted, *map(sum_of_seeds, self.sums), *SIMPLE_REFERENCES]
        if others := sorted({*self.also_against} - set(names)):
            raise ValueError(f"also_against: {others} are none of the systems and references {names}")
        if len({self.reference, *self.also_against}) <= len(self.also_against):
            raise ValueError(f"also_against: {list(self.also_against)} repeats a name, or the reference")
        if self.systems and "all" in self.tasks and self.systems[self.reference].stage == "targeted":
            raise ValueError(f"reference {self.reference!r} has stage targeted, which is not asked of the task `all`")
        return self


class LightGCNConfig(Config):
    """LightGCN, a recall system to compare with in experiments (Table VIII)."""

    width: int = Field(64, ge=1, description="Of a user's and an item's vector.")
    layers: int = Field(3, ge=0, description="Steps over the graph.")
    epochs: int = Field(60, ge=1, description="Passes over the pairs, at most.")
    batch_size: int = Field(2048, ge=1, description="Pairs per step; every step spreads over the whole graph.")
    learning_rate: float = Field(5e-3, gt=0, description="Of Adam.")
    penalty: float = Field(1e-4, ge=0, description="On the squared norm of a batch's embeddings.")
    patience: int = Field(5, ge=1, description="Epochs without a better validation NDCG before it stops.")
