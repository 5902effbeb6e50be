"""Training speed of the paper's configuration: `python -m benchmarks.paper_speed --data FOLDER`.

FOLDER holds Amazon Beauty (docs/data_sets.md: amazon-5core-ordered). Two epochs of Universal Training as
conf/paper.yaml configures it for that data, through the platform's own feed and loop: one of the first phase of
alternate training (token table frozen), one of the second. The clock stops during validation. Token vectors
start at random here, which costs a step as much as the language model's. Then the same again with bf16 autocast, to
see whether `universal.precision: auto`, which is fp32 on a CPU, is right.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.peers.precise_sasrec import ClockProgress, write_windows
from benchmarks.peers.prepare import leave_one_out, number_events, read_sequences
from benchmarks.peers.protocol import TrainingClock
from benchmarks.record import record
from precise_core.config import load_config
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import ModelConfig
from precise_core.settings import Settings
from precise_core.text.language_model import tokenize, tokenizer_id
from precise_core.training.config import UniversalConfig
from precise_core.training.setup import TrainingInputs
from precise_core.training.universal import train_universal
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import TRAINING_WINDOWS
from schemas import columns as c

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "paper_speed.jsonl"
GOAL = 500  # sequences/s

_SYSTEM = "PRECISE-UT"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of Beauty.*.txt.zst")
    parser.add_argument("--users", type=int, help="as many users only, for trying out; nothing is recorded")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    settings = load_config(ROOT / "conf" / "paper.yaml", Settings).of_system(_SYSTEM)
    (first, second), (_, autocast) = measure(settings, arguments, ("fp32", "bf16"))
    print(f"token table frozen: {first:,.0f} sequences/s; all trained: {second:,.0f} (goal: at least {GOAL})")
    print(f"all trained with bf16 autocast: {autocast:,.0f} sequences/s, {autocast / second:.2f} x fp32")
    if arguments.users is None:
        _record(settings, first, second, autocast, arguments)


def _record(settings: Settings, first: float, second: float, autocast: float, arguments: argparse.Namespace) -> None:
    encoder, length = settings.model.encoder, settings.windows.length
    data = f"Amazon Beauty; {encoder.layers} layers, width {settings.model.fusion.width}, length {length}"
    command = f"python -m benchmarks.paper_speed --data <folder> --threads {arguments.threads}"
    results, seed, name = arguments.results, arguments.seed, "training, conf/paper.yaml"
    record(results, f"{name}, token table frozen", first, "sequences/s", None, None, data, seed, command)
    goal, met = f"at least {GOAL}", second >= GOAL
    record(results, f"{name}, everything trained", second, "sequences/s", goal, met, data, seed, command)
    ratio = autocast / second
    record(results, f"{name}, speed of bf16 autocast over fp32", ratio, "x", None, None, data, seed, command)


def measure(settings: Settings, arguments: argparse.Namespace, precisions: Sequence[str]) -> list[list[float]]:
    """Sequences per second of each of the two epochs, in each of ``precisions``."""
    sequences = list(read_sequences(arguments.data / "Beauty.user_sequence.txt.zst"))[: arguments.users]
    words = arguments.data / "Beauty.item_generative_indexing_phase_0.txt.zst"
    catalog = _catalog(settings, list(dict.fromkeys(item for _, items in sequences for item in items)), words)
    parts = leave_one_out(number_events(iter(sequences)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TRAINING_WINDOWS.name
        write_windows(path, parts["train"], None, settings.windows.length)
        write_windows(path, parts["train"], parts["validation"], settings.windows.length)
        return [_speeds(settings, catalog, path, one, arguments.seed) for one in precisions]


def _speeds(settings: Settings, catalog: ItemCatalog, windows: Path, precision: str, seed: int) -> list[float]:
    """Sequences per second of the two epochs of one training."""
    clock = TrainingClock(warm_up_steps=0)
    train_universal(
        TrainingInputs(
            windows=DeltaSnapshot(windows),
            catalog=catalog,
            out=windows.with_name(f"checkpoints_{precision}"),
            seed=seed,
            versions={},
            progress=ClockProgress(clock),
            feed_config=settings.feed,
        ),
        model_config=_changed(ModelConfig, settings.model, fusion={"token_init": "random"}),
        config=_changed(
            UniversalConfig,
            settings.universal,
            epochs=2,
            alternate={"max_epochs": 1},
            precision=precision,
            device="cpu",
        ),
    )
    return [epoch["sequences"] / epoch["seconds"] for epoch in clock.epochs[:2]]


def _catalog(settings: Settings, items: list[str], words: Path) -> ItemCatalog:
    """The items' words, tokenized as the night does it; rows follow the items' first occurrence."""
    with pa.input_stream(str(words), compression="zstd") as stream:
        lines = stream.read().decode("utf-8").removesuffix("\n").split("\n")
    text_of = {item: text for item, _, text in (line.partition(" ") for line in lines)}
    model, max_tokens = settings.text.language_model, settings.text.max_tokens
    token_ids_NT, token_counts_N = tokenize(model, [text_of.get(item, "") for item in items], max_tokens)
    return ItemCatalog(
        torch.from_numpy(np.pad(token_ids_NT, ((c.FIRST_ITEM_INDEX, 0), (0, 0)))),
        torch.from_numpy(np.pad(token_counts_N, (c.FIRST_ITEM_INDEX, 0))),
        tokenizer_id(model),
    )


def _changed(kind: Any, config: Any, **changes: Any) -> Any:
    """A configuration with other values, those of a part entry by entry."""
    values = config.model_dump()
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    return kind.model_validate(values)


if __name__ == "__main__":
    main()
