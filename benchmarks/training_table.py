"""The trainings of an experiment as Markdown, and how large each model is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import number, table
from precise_core.settings import Settings


def training_lines(trained: Mapping[str, Sequence[Mapping[str, Any]]], settings: Settings | None) -> list[str]:
    """A row per training; nothing where nothing was trained.

    Args:
        trained: What the results say of each system's trainings.
        settings: Of the experiment, to tell the models from; None = no column says how large they are.
    """
    models = {} if settings is None else model_sizes(settings)
    has_models = any(system in models for system in trained)
    rows = [
        [
            system,
            *([models.get(system, "")] if has_models else []),
            f"`{training['task']}`",
            str(training["seed"]),
            str(training["best_epoch"]),
            f"{training['seconds']:,.0f}",
            "" if training["sequences_per_second"] is None else f"{training['sequences_per_second']:,.0f}",
            number(training["validation"].get("validation_ndcg_at_50", math.nan)),
        ]
        for system, of_system in trained.items()
        for training in of_system
    ]
    names = ["system", "model", "task"] if has_models else ["system", "task"]
    heads = [*names, "seed", "epoch kept", "seconds", "sequences/s", "validation NDCG@50"]
    lines = table(heads, rows, names=len(names))
    return ["Training (seconds with validation, sequences/s without):", "", *lines, ""] if rows else []


def model_sizes(settings: Settings) -> dict[str, str]:
    """Widths of the item vector, way of fusion and encoder of every system, in a few words."""
    return {
        name: _graph_size(settings.of_system(name)) if system.stage == "graph" else _size(settings.of_system(name))
        for name, system in settings.experiment.systems.items()
    }


def _size(own: Settings) -> str:
    model, fusion = own.model, own.model.fusion
    ids, texts = f"id {fusion.id_width}", f"text {fusion.token_width}"
    both = f"{ids} + {texts} ({fusion.mode})"
    item = {"id": ids, "llm": texts}.get(fusion.mode, both)
    encoder = f"{model.encoder.kind}, {_counted(model.encoder.layers, 'layer')}"
    return f"{item}, late fusion; {encoder}, for each half" if model.late_fusion else f"{item}; {encoder}"


def _graph_size(own: Settings) -> str:
    return f"graph of users and items; width {own.lightgcn.width}, {_counted(own.lightgcn.layers, 'layer')}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
