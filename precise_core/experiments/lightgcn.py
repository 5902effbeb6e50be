"""LightGCN as a system of an experiment: trained on the users and items of one task, selected as every model is."""

from __future__ import annotations

import time

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

from precise_core.evaluation.questions import OfflineEvaluation
from precise_core.evaluation.systems import EmbeddingScorer, vector_system
from precise_core.experiments.blending import Blending
from precise_core.experiments.lightgcn_training import GraphVectors, Quality, train_lightgcn
from precise_core.experiments.trainings import Trained, digest, note_of, read_note, what_trainings_read, write_note
from precise_core.run.job import Job
from precise_core.training.validation import NDCG


def graph_system(
    job: Job, evaluation: OfflineEvaluation, validation: Blending, task: str
) -> tuple[EmbeddingScorer, Trained]:
    """LightGCN of one task, and what its training was like; trained unless an earlier run of it left one.

    It learns from what every model learns from: the events before `as_of` without those of held-out users after the
    cut. Users are served from all of them, held-out or not, as the histories of the other models are. Users and items
    that are not in the graph have no vector: the former get what is popular, the latter are never ranked.

    Args:
        job: Of the system.
        evaluation: The question.
        validation: The validation question of the task.
        task: Whose events are the graph.

    Raises:
        NothingToLearnError: The task has no event.
    """
    config, seed = job.settings.lightgcn, job.settings.seed
    identity = {"lightgcn": config.model_dump(mode="json"), "task": task, **what_trainings_read(job)}
    key = f"lightgcn-{task}-{digest(identity)}"
    note, file = note_of(job, key), job.checkpoints / f"{key}.safetensors"
    at_cut = validation.at_cut
    known_UN = at_cut.pairs(task, np.zeros(0, np.int64), since=validation.cut)
    if not note.is_file():
        started = time.monotonic()
        train_UN = at_cut.pairs(task, validation.held_out, since=validation.cut)
        quality, progress = _quality(validation, task, train_UN), job.progress("pairs")
        vectors = train_lightgcn(train_UN, known_UN, config, seed, quality, progress)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"users": vectors.users_UD, "items": vectors.items_ND}, file)
        write_note(note, _described(key, vectors, task, seed, time.monotonic() - started))
    tensors = load_file(file)
    items, users = (np.flatnonzero(known_UN.getnnz(axis=axis)) for axis in (0, 1))
    user_rows = evaluation.rows_of([at_cut.user_ids[row] for row in users])
    popular = evaluation.most_popular(task)
    scorer = vector_system(evaluation, items, tensors["items"][items], user_rows, tensors["users"][users], popular)
    return scorer, read_note(note)


def _quality(validation: Blending, task: str, train_UN: sparse.csr_matrix) -> Quality:
    """NDCG@50 for the held-out users, who are served from what they did before the cut."""
    items, users = (np.flatnonzero(train_UN.getnnz(axis=axis)) for axis in (0, 1))
    at_cut = validation.at_cut
    popular = at_cut.most_popular(task)

    def quality(users_UD: np.ndarray, items_ND: np.ndarray) -> float:
        return validation.quality(vector_system(at_cut, items, items_ND[items], users, users_UD[users], popular))

    return quality


def _described(key: str, vectors: GraphVectors, task: str, seed: int, seconds: float) -> Trained:
    metrics = {NDCG: vectors.quality} if np.isfinite(vectors.quality) else {}
    return Trained(key, seed, task, round(seconds, 1), None, vectors.best_epoch, metrics)
