"""The ranking models of a warehouse: which variants are trained, and which checkpoint of each is in use (Table IX)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from precise_core import artefacts
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import CheckpointError
from precise_core.publication.night import published_tasks
from precise_core.ranking.config import DCNConfig
from precise_core.run.job import Job
from schemas import columns as c


@dataclass(frozen=True)
class Variant:
    """One row of Table IX: a DCN that sees the vectors of ``task`` by one or both injections, or none of them."""

    system: str
    task: str
    use_vectors: bool = True
    inject_vectors: bool = True
    inject_score: bool = True

    def dcn(self, config: DCNConfig) -> DCNConfig:
        """``config``, with an injection off that this variant goes without."""
        return config.model_copy(
            update={
                "inject_vectors": config.inject_vectors and self.inject_vectors,
                "inject_score": config.inject_score and self.inject_score,
            }
        )


def variants(job: Job) -> list[Variant]:
    """DCN alone, then one with the vectors of each task named in `ranking_features.tasks`.

    With `ranker.ablations` also one with each injection alone, of the last of these tasks.
    """
    return variants_of(ranking_tasks(job), ablations=job.settings.ranker.ablations)


def variants_of(tasks: Sequence[str], *, ablations: bool) -> list[Variant]:
    """The variants of some tasks."""
    found = [Variant(c.DCN, tasks[0], use_vectors=False), *(Variant(_system(task), task) for task in tasks)]
    if ablations:
        found.append(Variant(f"{_system(tasks[-1])}, vectors only", tasks[-1], inject_score=False))
        found.append(Variant(f"{_system(tasks[-1])}, score only", tasks[-1], inject_vectors=False))
    return found


def ranking_tasks(job: Job) -> list[str]:
    """The tasks of `ranking_features.tasks` that are published; never none, since the universal one is needed."""
    published = published_tasks(job)
    return [task for task in job.settings.ranking_features.tasks if task in published] or [ALL_TASK]


def _system(task: str) -> str:
    return f"{c.DCN} + PRECISE-UT" if task == ALL_TASK else f"{c.DCN} + PRECISE ({task})"


def ranker_folder(job: Job) -> Path:
    return job.folder / artefacts.RANKERS


def publish_rankers(job: Job, versions: dict[str, str]) -> None:
    """Make these ranker_versions, by system, the ones in use, in one step."""
    artefacts.replace_file(artefacts.ranker_pointer(job.folder), json.dumps(versions, indent=2))


def rankers_in_use(job: Job) -> dict[str, str]:
    """ranker_version by system; empty where no training has had anything to learn from yet."""
    return artefacts.rankers_in_use(job.folder)


def current_rankers(job: Job) -> dict[str, str]:
    """As ``rankers_in_use``, for a job that comes after a training.

    Raises:
        CheckpointError: No ranking model was trained yet.
    """
    if not artefacts.ranker_pointer(job.folder).is_file():
        raise CheckpointError(f"no ranking model in {ranker_folder(job)}; run jobs/train_ranker.py first")
    return rankers_in_use(job)
