"""The user's own history as a source of candidates beside a model, blended by a weight chosen on validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pyarrow.compute as pc

from precise_core.errors import ConfigError
from precise_core.evaluation.config import BlendConfig
from precise_core.evaluation.night import offline_evaluation, question_settings
from precise_core.evaluation.protocol import EvaluationTask, MetricKey, evaluate_ranking
from precise_core.evaluation.references import Scorer
from precise_core.evaluation.systems import encoded_system
from precise_core.models.catalog import ItemCatalog
from precise_core.run.job import Job
from precise_core.training.checkpoint import Checkpoint
from schemas import TRAINING_WINDOWS
from schemas import columns as c

_QUALITY = ("ndcg", 50)


class Blend:
    """A model's score plus ``weight`` times the own history's."""

    def __init__(self, model: Scorer, history: Scorer, weight: float) -> None:
        self._model, self._history, self.weight = model, history, weight

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        return self._model.scores(user_rows_B) + np.float32(self.weight) * self._history.scores(user_rows_B)


def choose_blend(
    candidates: Sequence[Blend], quality: Callable[[Scorer], float]
) -> tuple[Blend, list[tuple[float, float]]]:
    """The blend of the highest quality on a validation question, and (weight, quality) of all; the first of equals."""
    if not candidates:
        raise ConfigError("no blend to choose from: name at least one weight")
    measured = [(blend.weight, quality(blend)) for blend in candidates]
    best = max(range(len(measured)), key=lambda number: measured[number][1])
    return candidates[best], measured


@dataclass(frozen=True)
class BlendChoice:
    """The blend of the highest validation NDCG@50: days over which an event fades, and weight of the history."""

    days: float
    weight: float
    validation_ndcg_at_50: float


class ValidationQuestion:
    """A task's question for model selection: the last ``validation_days`` before ``as_of``, for the held-out users.

    The test period is not read: events, candidates and histories all end at the cut. ``job`` is the experiment's, with
    `windows.split: time`.

    Attributes:
        cut: The instant where validation begins.
        at_cut: The evaluation whose `as_of` is the cut; its events end where the test period begins.
        held_out: Rows of the held-out users in ``at_cut``.
    """

    def __init__(self, job: Job, task: str) -> None:
        windows = job.settings.windows
        self.cut = cut = job.settings.as_of - timedelta(days=windows.validation_days)
        evaluation = job.settings.evaluation.model_copy(update={"test_days": windows.validation_days})
        settings = replace(question_settings(job.settings), as_of=cut, evaluation=evaluation)
        self.at_cut = offline_evaluation(job, [task], settings)
        self._task = task
        self._question = self._of_held_out_users(job)

    def choose(
        self, config: BlendConfig, checkpoint: Checkpoint, catalog: ItemCatalog, history_task: str
    ) -> BlendChoice:
        """The best blend with a model that reads the users' events of ``history_task``."""
        popular = self.at_cut.most_popular(self._task)
        model = encoded_system(self.at_cut, checkpoint, catalog, history_task, popular)
        found = []
        for days in config.days:
            history = self.at_cut.own_history(self._task, days)
            blend, measured = choose_blend([Blend(model, history, weight) for weight in config.weights], self.quality)
            found.append(BlendChoice(days, blend.weight, max(quality for _, quality in measured)))
        return max(found, key=lambda choice: choice.validation_ndcg_at_50)

    def quality(self, system: Scorer) -> float:
        """NDCG@50 of a system on the question, its rows being those of ``at_cut``."""
        result = evaluate_ranking({"blend": system}, self._question, user_filters=("all",))
        metric, k = _QUALITY
        return float(np.nanmean(result.per_user[MetricKey("blend", "all", "all", metric, k)]))

    def _of_held_out_users(self, job: Job) -> EvaluationTask:
        question = self.at_cut.question(self._task)
        self.held_out = held_out = self.at_cut.rows_of(_held_out_users(job, self._task))
        keep = np.zeros(question.truth.shape[0], bool)
        keep[held_out] = True
        truth = question.truth.multiply(keep[:, None]).tocsr()
        truth.eliminate_zeros()
        everything = {"all": np.ones(question.truth.shape[1], bool)}
        return replace(question, truth=truth, groups=everything, ks=(_QUALITY[1],), samples=100)


def _held_out_users(job: Job, task: str) -> list[str]:
    """The users with a validation window; its id is `<task>/<split>/<user>/<number>`."""
    where = {c.TASK: task, c.SPLIT: c.VALIDATION}
    windows = job.warehouse.read_arrow(TRAINING_WINDOWS, job.pin(TRAINING_WINDOWS), [c.WINDOW_ID], where)
    names = pc.utf8_slice_codeunits(windows[c.WINDOW_ID], len(f"{task}/{c.VALIDATION}/"))
    return [name.rpartition("/")[0] for name in names.to_pylist()]
