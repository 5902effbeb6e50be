"""The ranking model of lists as a folder, with what is published of each list: written once, verified when opened."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from precise_core.artefacts import write_model
from precise_core.errors import CheckpointError
from precise_core.recommendations.config import ListRankerConfig
from precise_core.recommendations.list_ranker import ListInputs, ListRanker, build_model, sizes_of
from precise_core.recommendations.names import LIST_RANKER_FILE
from precise_core.recommendations.orders import ORDERS, UNLEARNED, order_scores
from precise_core.recommendations.pair_vectors import PairVectors
from precise_core.store import Place, fetched, store_at
from precise_core.store.local import replace_file
from precise_core.store.sums import file_sum, verify_sums
from schemas.recommendations import FEATURE_NAMES


@dataclass(frozen=True)
class PublishedRanker:
    """What ranks each list: a learned order or a simple one.

    Attributes:
        rankers: Learned orders by name.
        chosen: By task and list, the name of a learned order or of one of ``orders.ORDERS``.
        calibration: By task and learned order, (slope, intercept) of the log-odds that a candidate is taken.
        figures: On the held-out users of the period before `as_of`: `ndcg` by task, list and order, how many `lists` it
            is of, and, where vectors of then were at hand, what `precise` is worth (``ablation.precise_gains``).
    """

    ranker_version: str
    rankers: Mapping[str, ListRanker]
    chosen: Mapping[str, Mapping[str, str]]
    calibration: Mapping[str, Mapping[str, tuple[float, float]]]
    figures: Mapping[str, Any]
    about: Mapping[str, Any]
    folder: Path

    @property
    def reads_vectors(self) -> bool:
        """Whether an order in use has the universal vectors among its inputs: those of ``about["space"]``."""
        in_use = {order for by_list in self.chosen.values() for order in by_list.values()}
        return any(ranker.inputs.vector_width for name, ranker in self.rankers.items() if name in in_use)

    @property
    def is_without_precise(self) -> bool:
        """Whether the lists that its orders were learned and judged on were made without a published model."""
        return self.about.get("with_precise") is False

    def scores(
        self,
        task: str,
        name: str,
        features_CG: np.ndarray,
        precise_C2: np.ndarray,
        pairs: PairVectors | None = None,
    ) -> np.ndarray:
        """Of the order in use for a list, float64 [C]."""
        order = self._order(task, name)
        if order in ORDERS:
            return order_scores(order, features_CG)
        return self.rankers[order].scores(features_CG, precise_C2, task, pairs)

    def probabilities(self, task: str, name: str, scores_C: np.ndarray) -> np.ndarray | None:
        """That each candidate is taken within the horizon; None where the order is not a learned one."""
        order = self._order(task, name)
        if order not in self.calibration.get(task, {}):
            return None
        slope, intercept = self.calibration[task][order]
        return 1 / (1 + np.exp(-(slope * scores_C + intercept)))

    def label(self, task: str, name: str) -> str:
        """What `recommendations.model_version` says."""
        order = self._order(task, name)
        return f"{self.ranker_version}/{order}" if order in self.rankers else order

    def _order(self, task: str, name: str) -> str:
        return self.chosen.get(task, {}).get(name, UNLEARNED)

    @classmethod
    def open(cls, place: Place) -> PublishedRanker:
        """The ranking model in a folder.

        Raises:
            CheckpointError: The folder is incomplete, was changed on disk or written by another version of the code,
                or the model reads other features than this code makes; the message says what to run.
        """
        folder = fetched(place)
        try:
            verify_sums(folder)
            return cls._read(folder)
        except KeyError as error:
            why = f"{folder / LIST_RANKER_FILE}: no {error}, so it was written by another version of the code"
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            why = f"{folder}: does not fit this version of the code: {str(error).splitlines()[0].rstrip(':')}"
        except CheckpointError as error:
            why = str(error)
        raise CheckpointError(f"{why}; run jobs/train_list_ranker.py")

    @classmethod
    def _read(cls, folder: Path) -> PublishedRanker:
        meta = json.loads((folder / LIST_RANKER_FILE).read_text(encoding="utf-8"))
        if tuple(meta["features"]) != FEATURE_NAMES:
            raise CheckpointError(
                f"{folder}: the model reads {len(meta['features'])} features, this code makes {len(FEATURE_NAMES)} "
                "others"
            )
        rankers = {name: _order(folder, name, about) for name, about in meta["orders"].items()}
        parts = {name: meta[name] for name in ("ranker_version", "chosen", "figures", "about")}
        calibration = {
            task: {name: (slope, intercept) for name, (slope, intercept) in of_task.items()}
            for task, of_task in meta["calibration"].items()
        }
        return cls(rankers=rankers, calibration=calibration, folder=folder, **parts)


def write_ranker(
    out: Place,
    rankers: Mapping[str, ListRanker],
    config: ListRankerConfig,
    chosen: Mapping[str, Mapping[str, str]],
    calibration: Mapping[str, Mapping[str, tuple[float, float]]],
    figures: Mapping[str, Any],
    about: Mapping[str, Any],
) -> PublishedRanker:
    """Write a folder named by its content and open it again, so that what was written is what is in use."""
    files = {file: data for name, ranker in rankers.items() for file, data in _weights(name, ranker).items()}
    orders = {name: _about(ranker) for name, ranker in rankers.items()}
    meta: dict[str, Any] = {
        "features": list(FEATURE_NAMES),
        "ranker": config.model_dump(mode="json"),
        "orders": orders,
        "chosen": chosen,
        "calibration": calibration,
        "figures": figures,
        "about": about,
    }
    return PublishedRanker.open(write_model(out, "lists", files, meta, LIST_RANKER_FILE, "ranker_version"))


class FinishedOrders:
    """Orders of a training that is still under way, so that one that is killed goes on after the last of them.

    Args:
        out: Where folders of ranking models lie.
        training: Everything that the training depends on; of another one nothing is found.
    """

    def __init__(self, out: Place, training: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()
        # Removed with other leftovers where nobody goes on.
        self._folder = store_at(out).scratch / f".training-{digest[:12]}.tmp"

    def get(self, name: str) -> ListRanker | None:
        """None where it is not there, or not whole."""
        with suppress(OSError, ValueError, KeyError, RuntimeError, SafetensorError):
            about = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
            if all(file_sum(self._folder / file) == digest for file, digest in about["sums"].items()):
                return _order(self._folder, name, about)
        return None

    def put(self, name: str, ranker: ListRanker) -> None:
        files = _weights(name, ranker)
        for file, data in files.items():
            replace_file(self._folder / file, data)
        sums = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        replace_file(self._folder / f"{name}.json", json.dumps(_about(ranker) | {"sums": sums}))

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _weights(name: str, ranker: ListRanker) -> dict[str, bytes]:
    return {
        f"{name}-{number}.safetensors": save({key: value.contiguous() for key, value in model.state_dict().items()})
        for number, model in enumerate(ranker.models)
    }


def _about(ranker: ListRanker) -> dict[str, Any]:
    return {
        "tasks": list(ranker.inputs.tasks),
        "mean": ranker.inputs.mean.tolist(),
        "deviation": ranker.inputs.deviation.tolist(),
        "vector_width": ranker.inputs.vector_width,
        "models": len(ranker.models),
        "sizes": sizes_of(ranker.models[0]),  # yesterday's may be others than today's configuration
    }


def _order(folder: Path, name: str, about: Mapping[str, Any]) -> ListRanker:
    config = ListRankerConfig(**about["sizes"])
    inputs = ListInputs(
        tuple(about["tasks"]), np.array(about["mean"]), np.array(about["deviation"]), about["vector_width"]
    )
    models = [build_model(inputs, config) for _ in range(about["models"])]
    for number, model in enumerate(models):
        model.load_state_dict(load_file(folder / f"{name}-{number}.safetensors"))
    return ListRanker(inputs, models)
