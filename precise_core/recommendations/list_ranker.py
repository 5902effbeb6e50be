"""The model that ranks candidates: the DCN of section VI-C, trained on lists of an earlier period.

Shapes: C candidates, L lists, G features, M models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from precise_core.errors import NothingToLearnError, TrainingError
from precise_core.ranking.config import DCNConfig
from precise_core.ranking.dcn import DCN
from precise_core.recommendations.config import ListRankerConfig
from precise_core.recommendations.lists import CandidateLists

_CLIP = 5.0  # standard deviations
_SCORED = 1 << 16  # candidates scored at a time
_FLAGS = 2  # of the two scores of PRECISE

Progress = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class ListInputs:
    """How features become tensors: fixed by the training lists, kept with the model.

    Attributes:
        tasks: Row of each task in the model's table; an unknown one has row 0.
        mean, deviation: Of the features and of the two scores of PRECISE [G + 2].
    """

    tasks: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, lists: CandidateLists) -> ListInputs:
        values = np.concatenate([lists.features_CG, lists.precise_C2], axis=1).astype(np.float64)
        known = ~np.isnan(values)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0).sum(axis=0) / count
        deviation = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(axis=0) / count)
        return cls(tuple(sorted(set(lists.tasks))), mean, np.where(deviation > 0, deviation, 1.0))

    @property
    def sparse_rows(self) -> list[int]:
        return [len(self.tasks) + 1]

    @property
    def dense_width(self) -> int:
        return len(self.mean) + _FLAGS

    def tensors(self, features_CG: np.ndarray, precise_C2: np.ndarray, task: str) -> tuple[Tensor, ...]:
        """The inputs of ``DCN.forward`` for candidates of one task; PRECISE's score is injection 2."""
        values = (np.concatenate([features_CG, precise_C2], axis=1) - self.mean) / self.deviation
        is_known = ~np.isnan(precise_C2)
        dense = np.nan_to_num(np.clip(values, -_CLIP, _CLIP), nan=0.0)
        targeted = is_known[:, 1]
        score = np.where(targeted, dense[:, -1], dense[:, -2])
        row = self.tasks.index(task) + 1 if task in self.tasks else 0
        return (
            torch.full((len(values), 1), row),
            torch.from_numpy(np.concatenate([dense, is_known], axis=1).astype(np.float32)),
            torch.zeros(len(values), 0),
            torch.zeros(len(values), 0),
            torch.from_numpy(np.stack([score, is_known.any(axis=1)], axis=1).astype(np.float32)),
        )


class ListRanker:
    """M models of different seeds over the same inputs; the score is the mean of their logits."""

    def __init__(self, inputs: ListInputs, models: Sequence[DCN]) -> None:
        self.inputs, self.models = inputs, [model.eval() for model in models]

    @torch.no_grad()
    def scores(self, features_CG: np.ndarray, precise_C2: np.ndarray, task: str) -> np.ndarray:
        """float64 [C]."""
        found = np.zeros(len(features_CG))
        for start in range(0, len(features_CG), _SCORED):
            block = slice(start, start + _SCORED)
            tensors = self.inputs.tensors(features_CG[block], precise_C2[block], task)
            found[block] = np.mean([model(*tensors).numpy() for model in self.models], axis=0)
        return found

    def scores_of(self, lists: CandidateLists) -> np.ndarray:
        """float64 [C], in the order of the candidates."""
        found = np.empty(len(lists.labels_C))
        tasks_C = lists.tasks[lists.list_rows_C]
        for task in sorted(set(lists.tasks)):
            of_task = tasks_C == task
            found[of_task] = self.scores(lists.features_CG[of_task], lists.precise_C2[of_task], task)
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
        inject_vectors=False,
    )
    return DCN(inputs.sparse_rows, inputs.dense_width, 1, sizes)


def train_list_ranker(
    train: CandidateLists,
    held_out: CandidateLists,
    config: ListRankerConfig,
    loss: str,
    *,
    k: int,
    seed: int,
    progress: Progress | None = None,
) -> ListRanker:
    """Train on every list of which something was taken; of each model the epoch with the best NDCG@k is kept.

    Args:
        held_out: Lists of other users, which choose the epoch.
        loss: `list` = softmax over a list, mean log-probability of what was taken; `binary` = log loss.
        progress: Called after every epoch with model, epoch, train_loss and validation_ndcg.

    Raises:
        NothingToLearnError: Nothing was taken of any training list, or of any held out.
    """
    train, held_out = train.where(train.has_positive()), held_out.where(held_out.has_positive())
    if not len(train) or not len(held_out):
        raise NothingToLearnError(
            f"lists: something was taken of {len(train)} training and {len(held_out)} held-out lists; both are needed"
        )
    inputs = ListInputs.fit(train)
    tensors = _tensors(inputs, train)
    models = []
    for number in range(config.models):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            model = build_model(inputs, config)
            models.append(_fit(model, inputs, train, tensors, held_out, config, loss, k, seed + number, progress))
    return ListRanker(inputs, models)


def _fit(
    model: DCN,
    inputs: ListInputs,
    train: CandidateLists,
    tensors: tuple[Tensor, ...],
    held_out: CandidateLists,
    config: ListRankerConfig,
    loss: str,
    k: int,
    seed: int,
    progress: Progress | None,
) -> DCN:
    random = np.random.default_rng(seed)
    steps = -(-len(train) // config.batch_lists)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(steps * config.epochs, 2)
    )
    labels = torch.from_numpy(train.labels_C)
    best, best_epoch, weights = -1.0, 0, model.state_dict()
    for epoch in range(1, config.epochs + 1):
        model.train()
        total, order = 0.0, random.permutation(len(train))
        for start in range(0, len(order), config.batch_lists):
            rows, list_of = drawn(train, order[start : start + config.batch_lists], config.negatives, random)
            at = torch.from_numpy(rows)
            logits = model(*(part[at] for part in tensors))
            value = _LOSSES[loss](logits, labels[at], torch.from_numpy(list_of))
            if not torch.isfinite(value):
                raise TrainingError(
                    f"lists: training loss is {value.item()}; lower recommendations.ranker.learning_rate"
                )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item()
        ndcg = float(held_out.ndcg(ListRanker(inputs, [model]).scores_of(held_out), k).mean())
        if progress:
            progress({"epoch": float(epoch), "train_loss": total / steps, "validation_ndcg": ndcg})
        if ndcg > best:
            best, best_epoch, weights = ndcg, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(weights)
    return model.eval()


def drawn(
    lists: CandidateLists, chosen: np.ndarray, negatives: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all that was taken of some lists and of ``negatives`` others each; and the list (0..) of each row."""
    rows, list_of = [], []
    for number, one in enumerate(chosen):
        start, end = lists.starts[one], lists.starts[one + 1]
        is_positive = lists.labels_C[start:end] > 0
        others = np.flatnonzero(~is_positive)
        if len(others) > negatives:
            others = random.choice(others, negatives, replace=False)
        kept = start + np.concatenate([np.flatnonzero(is_positive), others])
        rows.append(kept)
        list_of.append(np.full(len(kept), number))
    return np.concatenate(rows), np.concatenate(list_of)


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


def _tensors(inputs: ListInputs, lists: CandidateLists) -> tuple[Tensor, ...]:
    tasks_C = lists.tasks[lists.list_rows_C]
    parts = [  # the lists are ordered by task
        inputs.tensors(lists.features_CG[tasks_C == task], lists.precise_C2[tasks_C == task], task)
        for task in sorted(set(lists.tasks))
    ]
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


_LOSSES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"list": _list_loss, "binary": _binary_loss}
