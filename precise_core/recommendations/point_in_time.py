"""Everything known before one instant beside the users' own histories, as a folder that workers map into memory.

Shapes: N vocabulary rows, S users of the sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from precise_core.recommendations.item_facts import ItemFacts
from precise_core.recommendations.names import ITEM_TO_ITEM

_META = "point_in_time.json"


@dataclass(frozen=True)
class Similarities:
    """Who and what is alike, over all tasks.

    Attributes:
        near: Item to item by source, float32 [N, N], a row a seed item.
        sample_SN: What a fixed sample of users had (``sources.profiles``), float32.
        sample_rows: Row in the sample by user id.
    """

    near: Mapping[str, sparse.csr_matrix]
    sample_SN: sparse.csr_matrix
    sample_rows: Mapping[str, int]


@dataclass(frozen=True)
class PointInTime:
    """What lists of one instant are made from.

    Attributes:
        micros: The instant, in microseconds since 1970 (UTC); only earlier events are counted.
        facts: Of the items, by task.
        categories_N, texts_N: Number of an item's narrowest category and of its text; 0 = none.
    """

    micros: int
    facts: Mapping[str, ItemFacts]
    similarities: Similarities
    categories_N: np.ndarray
    texts_N: np.ndarray

    @property
    def tasks(self) -> list[str]:
        return list(self.facts)

    @property
    def num_rows(self) -> int:
        return len(self.categories_N)

    def save(self, folder: Path) -> None:
        """Write arrays that ``open`` maps; nothing is pickled."""
        arrays = {"categories": self.categories_N, "texts": self.texts_N}
        for number, facts in enumerate(self.facts.values()):
            arrays |= {f"facts{number}.{name}": values_N for name, values_N in facts.arrays().items()}
        matrices = {f"near.{name}": matrix for name, matrix in self.similarities.near.items()}
        matrices["sample"] = self.similarities.sample_SN
        for name, matrix in matrices.items():
            arrays |= {f"{name}.{part}": getattr(matrix, part) for part in ("data", "indices", "indptr")}
        folder.mkdir(parents=True)
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values)
        about = {"micros": self.micros, "tasks": self.tasks, "sample": list(self.similarities.sample_rows)}
        (folder / _META).write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> PointInTime:
        about = json.loads((folder / _META).read_text(encoding="utf-8"))
        categories_N = _mapped(folder, "categories")
        items = len(categories_N)
        near = {name: _matrix(folder, f"near.{name}", items) for name in ITEM_TO_ITEM if _has(folder, f"near.{name}")}
        facts = {task: ItemFacts.of(_prefixed(folder, f"facts{at}.")) for at, task in enumerate(about["tasks"])}
        rows = {user_id: row for row, user_id in enumerate(about["sample"])}
        similar = Similarities(near, _matrix(folder, "sample", items), rows)
        return cls(about["micros"], facts, similar, categories_N, _mapped(folder, "texts"))


def _mapped(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def _has(folder: Path, name: str) -> bool:
    return (folder / f"{name}.data.npy").is_file()


def _prefixed(folder: Path, prefix: str) -> dict[str, np.ndarray]:
    files = folder.glob(f"{prefix}*.npy")
    return {file.name.removeprefix(prefix).removesuffix(".npy"): np.load(file, mmap_mode="r") for file in files}


def _matrix(folder: Path, name: str, columns: int) -> sparse.csr_matrix:
    data, indices, indptr = (_mapped(folder, f"{name}.{part}") for part in ("data", "indices", "indptr"))
    return sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, columns), copy=False)
