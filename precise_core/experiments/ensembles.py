"""What is made of trained models without training again: other weights of the halves, and sums over seeds.

B users, D width, N vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from precise_core.evaluation.references import Scorer
from precise_core.evaluation.systems import EmbeddingScorer
from precise_core.feed.windows import WindowFeed
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise
from precise_core.run.job import Job
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import TargetFilter
from precise_core.training.night import pinned_snapshot
from precise_core.training.validation import NDCG, validate
from schemas import TRAINING_WINDOWS
from schemas import columns as c


@dataclass(frozen=True)
class WeightChoice:
    """How often the text half counts what it was trained to, and the validation NDCG@50 with it.

    A temperature of either half is no further choice: the score is a sum, and only the ratio of the two ranks.
    """

    text_weight: float
    validation_ndcg_at_50: float


class SumOfScores:
    """The scores of some systems added up."""

    def __init__(self, systems: Sequence[Scorer]) -> None:
        self._systems = systems

    def scores(self, user_rows_B: np.ndarray) -> np.ndarray:
        """float32 [B, N]."""
        first, *others = self._systems
        total_BN = first.scores(user_rows_B)
        for system in others:
            total_BN = total_BN + system.scores(user_rows_B)
        return total_BN


def weights_of_parts(model: Precise, text_weight: float) -> torch.Tensor:
    """What the numbers of a user's serving vector are multiplied by so that the text half counts ``text_weight``, D."""
    id_width, text_width = model.config.part_widths
    return torch.cat([torch.ones(id_width), torch.full((text_width,), text_weight)])


def choose_text_weight(
    model: Precise, catalog: ItemCatalog, held_out: WindowFeed, target_filter: TargetFilter, weights: Sequence[float]
) -> WeightChoice:
    """The weight of the best validation NDCG@50 on windows that are held out; the first of equals.

    Args:
        model: Under late fusion.
        target_filter: That of the model's training, which validation has, too.
    """

    def quality(weight: float) -> float:
        return validate(model, catalog, held_out, target_filter, weights_D=weights_of_parts(model, weight))[NDCG]

    return max((WeightChoice(weight, quality(weight)) for weight in weights), key=lambda w: w.validation_ndcg_at_50)


def reweigh(
    job: Job, scorer: EmbeddingScorer, checkpoint: Checkpoint, catalog: ItemCatalog, task: str, weights: Sequence[float]
) -> tuple[EmbeddingScorer, WeightChoice]:
    """``scorer``, of a checkpoint of ``task``, with the weight that is best on the task's validation windows."""
    settings, model = job.settings, checkpoint.load_model()
    windows, size = pinned_snapshot(job, TRAINING_WINDOWS), settings.universal.batch_size
    held_out = WindowFeed(windows, task, c.VALIDATION, size, settings.seed, config=settings.feed)
    choice = choose_text_weight(model, catalog, held_out, settings.universal.target_filter, weights)
    return scorer.reweighted(weights_of_parts(model, choice.text_weight).numpy()), choice
