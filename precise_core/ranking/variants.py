"""The ranking models that are trained side by side (Table IX)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from precise_core.config.tasks import ALL_TASK
from precise_core.ranking.config import DCNConfig
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
        """``config`` without the injections that this variant does not have."""
        vectors, score = config.inject_vectors and self.inject_vectors, config.inject_score and self.inject_score
        return config.model_copy(update={"inject_vectors": vectors, "inject_score": score})


def variants_of(tasks: Sequence[str], *, ablations: bool) -> list[Variant]:
    """DCN alone, then one with the vectors of each task; with ``ablations`` each injection alone, of the last task."""
    found = [Variant(c.DCN, tasks[0], use_vectors=False), *(Variant(_system(task), task) for task in tasks)]
    if ablations:
        found.append(Variant(f"{_system(tasks[-1])}, vectors only", tasks[-1], inject_score=False))
        found.append(Variant(f"{_system(tasks[-1])}, score only", tasks[-1], inject_vectors=False))
    return found


def _system(task: str) -> str:
    return f"{c.DCN} + PRECISE-UT" if task == ALL_TASK else f"{c.DCN} + PRECISE ({task})"
