"""The ranking models of a warehouse: which variants are trained, and which checkpoint of each is in use (Table IX)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from precise_core.errors import CheckpointError
from precise_core.features.config import ALL_TASK
from precise_core.runtime.job import Job
from precise_core.runtime.published import published_tasks

_POINTER = "latest.json"


@dataclass(frozen=True)
class Variant:
    """One row of Table IX: a DCN that sees the vectors of ``task``, or none of them."""

    system: str
    task: str
    use_vectors: bool


def variants(job: Job) -> list[Variant]:
    """DCN alone, then one with the vectors of each task named in `ranking_features.tasks`."""
    tasks = ranking_tasks(job)
    plain = [Variant("DCN", tasks[0], use_vectors=False)]
    return plain + [Variant(_system(task), task, use_vectors=True) for task in tasks]


def ranking_tasks(job: Job) -> list[str]:
    """The tasks of `ranking_features.tasks` that are published; never none, since the universal one is needed."""
    published = published_tasks(job)
    return [task for task in job.settings.ranking_features.tasks if task in published] or [ALL_TASK]


def _system(task: str) -> str:
    return "DCN + PRECISE-UT" if task == ALL_TASK else f"DCN + PRECISE ({task})"


def ranker_folder(job: Job) -> Path:
    return job.folder / "rankers"


def publish_rankers(job: Job, versions: dict[str, str]) -> None:
    """Make these ranker_versions, by system, the ones in use, in one step."""
    ranker_folder(job).mkdir(parents=True, exist_ok=True)
    draft = ranker_folder(job) / f"{_POINTER}.writing"
    draft.write_text(json.dumps(versions, indent=2), encoding="utf-8")
    draft.replace(ranker_folder(job) / _POINTER)


def current_rankers(job: Job) -> dict[str, str]:
    """ranker_version by system; empty where the last training had nothing to learn from.

    Raises:
        CheckpointError: No ranking model was trained yet.
    """
    pointer = ranker_folder(job) / _POINTER
    if not pointer.is_file():
        raise CheckpointError(f"no ranking model in {ranker_folder(job)}; run jobs/train_ranker.py first")
    return dict(json.loads(pointer.read_text(encoding="utf-8")))
