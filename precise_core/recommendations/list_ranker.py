"""The model that ranks candidates: the DCN of section VI-C, trained on lists of an earlier period.

Shapes: C candidates, L lists, G features, M models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from precise_core.errors import NothingToLearnError, TrainingError
from precise_core.ranking.config import DCNConfig
from precise_core.ranking.dcn import DCN
from precise_core.recommendations.config import ListRankerConfig
from precise_core.recommendations.lists import OF_THE_MODEL, CandidateLists
from precise_core.recommendations.pair_vectors import PairVectors
from schemas.recommendations import FEATURE_NAMES

_CLIP = 5.0  # standard deviations
_CONSTANT = 1e-6  # deviation over mean, below which all values are one but for rounding
_STEPS, _FEWEST = 40, 4  # few lists learn in smaller batches: steps of an epoch, and lists of a batch, at least
_SCORED = 1 << 12  # candidates at a time: what a layer makes of them stays in the cache
_FLAGS = 2  # of the two scores of PRECISE

Progress = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class ListInputs:
    """How features become tensors: fixed by the training lists, kept with the model.

    Attributes:
        tasks: Row of each task in the model's table; an unknown one has row 0.
        mean, deviation: Of the features and of the two scores of PRECISE [G + 2]. What was the same for every training
            candidate, or is left out, has deviation 0 and is never read: its weights learned nothing.
        vector_width: D of the universal vectors; 0 = they are not read.
    """

    tasks: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    vector_width: int = 0

    @classmethod
    def fit(cls, lists: CandidateLists, *, with_precise: bool = True, with_vectors: bool = False) -> ListInputs:
        """Args:
        with_precise: False leaves out everything that needs a published model.
        with_vectors: The universal vectors are read, too, where the lists have them.
        """
        mean, deviation = _moments(lists)
        deviation[deviation <= _CONSTANT * np.abs(mean)] = 0
        if not with_precise:
            deviation[[*(FEATURE_NAMES.index(name) for name in OF_THE_MODEL), -2, -1]] = 0
        width = lists.pairs.width if with_vectors and lists.pairs else 0
        return cls(tuple(sorted(set(lists.tasks))), mean, deviation, width)

    @property
    def sparse_rows(self) -> list[int]:
        return [len(self.tasks) + 1]

    @property
    def dense_width(self) -> int:
        return len(self.mean) + _FLAGS

    def task_row(self, task: str) -> int:
        """Its row in the model's table; 0 = unknown."""
        return self.tasks.index(task) + 1 if task in self.tasks else 0

    def task_rows(self, lists: CandidateLists) -> np.ndarray:
        """Of each list, int64 [L]."""
        return np.array([self.task_row(task) for task in lists.tasks], np.int64)

    def tensors(self, features_CG: np.ndarray, precise_C2: np.ndarray, task_rows_C: np.ndarray) -> Inputs:
        """PRECISE's score is injection 2."""
        mean, scale = self._scaling
        dense = np.empty((len(features_CG), self.dense_width), np.float32)
        scaled, is_known = dense[:, :-_FLAGS], ~np.isnan(precise_C2) & (scale[-_FLAGS:] > 0)
        np.concatenate([features_CG, precise_C2], axis=1, out=scaled)
        scaled -= mean
        scaled *= scale
        np.clip(scaled, -_CLIP, _CLIP, out=scaled)
        np.copyto(scaled, 0, where=np.isnan(scaled))
        dense[:, -_FLAGS:] = is_known
        score = np.where(is_known[:, 1], scaled[:, -1], scaled[:, -2])
        return Inputs(
            torch.from_numpy(task_rows_C[:, None]),
            torch.from_numpy(dense),
            torch.from_numpy(np.stack([score, is_known.any(axis=1)], axis=1).astype(np.float32)),
        )

    @cached_property
    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean, and one over the deviation, 0 of what is not read, float32 [G + 2]."""
        is_read = self.deviation > 0
        scale = np.where(is_read, 1 / np.where(is_read, self.deviation, 1.0), 0.0)
        return self.mean.astype(np.float32), scale.astype(np.float32)

    def vectors(self, pairs: PairVectors | None, rows: slice | np.ndarray, number: int) -> tuple[Tensor, Tensor]:
        """Injection 1 for some ``rows``, ``number`` of them: user beside item vector, and which are there."""
        if not self.vector_width:
            return torch.zeros(number, 0), torch.zeros(number, 0)
        if pairs is None:
            return torch.zeros(number, 2 * self.vector_width), torch.zeros(number, 2)
        vectors, there = pairs.where(rows).beside()
        return torch.from_numpy(vectors), torch.from_numpy(there)


class Inputs(NamedTuple):
    """What ``DCN.forward`` reads beside the vectors."""

    sparse: Tensor
    dense: Tensor
    score: Tensor


class ListRanker:
    """M models of different seeds over the same inputs; the score is the mean of their logits."""

    def __init__(self, inputs: ListInputs, models: Sequence[DCN]) -> None:
        self.inputs, self.models = inputs, [model.eval() for model in models]

    def scores(
        self, features_CG: np.ndarray, precise_C2: np.ndarray, task: str, pairs: PairVectors | None = None
    ) -> np.ndarray:
        """Of candidates of one task, float64 [C]."""
        return self._scores(features_CG, precise_C2, np.full(len(features_CG), self.inputs.task_row(task)), pairs)

    def scores_of(self, lists: CandidateLists) -> np.ndarray:
        """float64 [C], in the order of the candidates."""
        task_rows_C = self.inputs.task_rows(lists)[lists.list_rows_C]
        return self._scores(lists.features_CG, lists.precise_C2, task_rows_C, lists.pairs)

    @torch.no_grad()
    def _scores(
        self, features_CG: np.ndarray, precise_C2: np.ndarray, task_rows_C: np.ndarray, pairs: PairVectors | None
    ) -> np.ndarray:
        found = np.zeros(len(features_CG))
        for start in range(0, len(features_CG), _SCORED):
            block = slice(start, start + _SCORED)
            of_block = self.inputs.tensors(features_CG[block], precise_C2[block], task_rows_C[block])
            vectors, there = self.inputs.vectors(pairs, block, len(of_block.dense))
            logits = [
                model(of_block.sparse, of_block.dense, vectors, there, of_block.score).numpy() for model in self.models
            ]
            found[block] = np.mean(logits, axis=0)
        return found


def sizes_of(model: DCN) -> dict[str, Any]:
    """Those of the configuration that ``build_model`` needs to make one like it."""
    widths = [layer.out_features for layer in model.deep if isinstance(layer, torch.nn.Linear)]
    return {"cross_layers": len(model.cross.layers), "deep_widths": widths}


def build_model(inputs: ListInputs, config: ListRankerConfig) -> DCN:
    sizes = DCNConfig(
        embedding_width=8,
        cross_layers=config.cross_layers,
        deep_widths=config.deep_widths,
        dropout=config.dropout,
        inject_vectors=inputs.vector_width > 0,
    )
    return DCN(inputs.sparse_rows, inputs.dense_width, max(inputs.vector_width, 1), sizes)


def train_list_ranker(
    train: CandidateLists,
    held_out: CandidateLists | None,
    config: ListRankerConfig,
    loss: str,
    *,
    k: int,
    seed: int,
    progress: Progress | None = None,
    with_precise: bool = True,
    with_vectors: bool = False,
    inputs: ListInputs | None = None,
) -> ListRanker:
    """Train on every list of which something was taken; of each model the epoch with the best NDCG@k is kept.

    Args:
        held_out: Lists of other users; ``judge_lists`` of them choose the epoch. None: the last epoch is kept.
        loss: `list` = softmax over a list, mean log-probability of what was taken; `binary` = log loss.
        progress: Called after every epoch with epoch, train_loss and, of held-out lists, validation_ndcg.
        with_precise, with_vectors: As ``ListInputs.fit``.
        inputs: Fixed already, by more lists than these.

    Raises:
        NothingToLearnError: Nothing was taken of any training list, or of any held out.
    """
    train = train.where(train.has_positive())
    judges = None if held_out is None else held_out.where(held_out.has_positive())
    if not len(train) or (judges is not None and not len(judges)):
        raise NothingToLearnError(
            f"lists: something was taken of {len(train)} training and {len(judges or ())} held-out lists; both are "
            "needed"
        )
    judges = None if judges is None else _some(judges, config.judge_lists)
    inputs = inputs or ListInputs.fit(train, with_precise=with_precise, with_vectors=with_vectors)
    models = []
    for number in range(config.models):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            model = build_model(inputs, config)
            models.append(_fit(model, inputs, train, judges, config, loss, k, seed + number, progress))
    return ListRanker(inputs, models)


def _some(lists: CandidateLists, most: int) -> CandidateLists:
    """Evenly spaced ones: lists are ordered by task and user."""
    chosen = np.zeros(len(lists), bool)
    chosen[np.linspace(0, len(lists) - 1, min(most, len(lists))).astype(np.int64)] = True
    return lists.where(chosen)


def _fit(
    model: DCN,
    inputs: ListInputs,
    train: CandidateLists,
    judges: CandidateLists | None,
    config: ListRankerConfig,
    loss: str,
    k: int,
    seed: int,
    progress: Progress | None,
) -> DCN:
    random = np.random.default_rng(seed)
    batch_lists = min(config.batch_lists, max(len(train) // _STEPS, _FEWEST))
    steps = -(-len(train) // batch_lists)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(steps * config.epochs, 2)
    )
    task_rows_L = inputs.task_rows(train)
    best, best_epoch, weights = -1.0, 0, model.state_dict()
    for epoch in range(1, config.epochs + 1):
        model.train()
        total, order = 0.0, random.permutation(len(train))
        for start in range(0, len(order), batch_lists):
            chosen = order[start : start + batch_lists]
            rows, list_of = rows_of(train, chosen)
            of_step = inputs.tensors(train.features_CG[rows], train.precise_C2[rows], task_rows_L[chosen][list_of])
            vectors, there = inputs.vectors(train.pairs, rows, len(rows))
            logits = model(of_step.sparse, of_step.dense, vectors, there, of_step.score)
            value = _LOSSES[loss](logits, torch.from_numpy(train.labels_C[rows]), torch.from_numpy(list_of))
            if not torch.isfinite(value):
                raise TrainingError(
                    f"lists: training loss is {value.item()}; lower recommendations.ranker.learning_rate"
                )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item()
        figures = {"epoch": float(epoch), "train_loss": total / steps}
        ndcg = float(epoch)  # without judges the last epoch is the best
        if judges is not None:
            ndcg = float(judges.ndcg(ListRanker(inputs, [model]).scores_of(judges), k).mean())
            figures["validation_ndcg"] = ndcg
        if progress:
            progress(figures)
        if ndcg > best:
            best, best_epoch, weights = ndcg, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(weights)
    return model.eval()


def rows_of(lists: CandidateLists, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the candidates of some lists, and the list (0..) of each row."""
    lengths = np.diff(lists.starts)[chosen]
    list_of = np.repeat(np.arange(len(chosen)), lengths)
    first_of = np.cumsum(lengths) - lengths
    return lists.starts[chosen][list_of] + np.arange(len(list_of)) - first_of[list_of], list_of


def _list_loss(logits_C: Tensor, labels_C: Tensor, list_C: Tensor) -> Tensor:
    """Softmax cross-entropy of each list, its positives weighted 1 / sqrt(their number), mean over lists."""
    lists = int(list_C.max()) + 1
    largest = torch.full((lists,), -torch.inf).scatter_reduce(0, list_C, logits_C.detach(), "amax")
    sums = torch.zeros(lists).index_add(0, list_C, (logits_C - largest[list_C]).exp())
    log_probabilities = logits_C - largest[list_C] - sums.log()[list_C]
    positives = torch.zeros(lists).index_add(0, list_C, labels_C)
    return -(labels_C / positives.sqrt()[list_C].clamp(min=1) * log_probabilities).sum() / lists


def _binary_loss(logits_C: Tensor, labels_C: Tensor, _: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits_C, labels_C)


def _moments(lists: CandidateLists) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the features and of PRECISE's scores, where they are known, [G + 2]."""

    def sums(of_known: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        width = lists.features_CG.shape[1] + lists.precise_C2.shape[1]
        total = np.zeros(width)
        for start in range(0, len(lists.labels_C), _SCORED):  # in double precision all of them are twice their size
            block = slice(start, start + _SCORED)
            values = np.concatenate([lists.features_CG[block], lists.precise_C2[block]], axis=1).astype(np.float64)
            total += np.where(np.isnan(values), 0.0, of_known(values)).sum(axis=0)
        return total

    count = np.maximum(sums(np.ones_like), 1)
    mean = sums(lambda values: values) / count
    return mean, np.sqrt(sums(lambda values: (values - mean) ** 2) / count)


_LOSSES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"list": _list_loss, "binary": _binary_loss}
