"""Training and encoding on a GPU: `make bench-gpu`, or `python -m benchmarks.gpu` where the packages are; four minutes.

On made-up windows as long as the paper's, from a catalog as large as Amazon Beauty; nothing is fetched or installed.

- Sequences per second of conf/paper.yaml through the platform's own feed and loop, in both phases of alternate
  training, and the share of the GPU's peak: floating point operations of a step as torch counts them, forward and
  backward, times steps per second, by what the data sheet gives for dense bf16 (`--peak`, in TFLOP/s, of another GPU).
- The loss of a small training in fp32 on the GPU beside that on the CPU, and beside itself run again, because sums on a
  GPU have no fixed order. The script fails where GPU and CPU differ by more than 2 %.
- Users per second of batch encoding.

`--device cpu --tiny` runs all of it in seconds without a GPU, to see that it runs; only figures of a GPU are recorded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from deltalake import write_deltalake
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import record
from precise_core.config import load_config, validated
from precise_core.feed.config import FeedConfig
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import ModelConfig
from precise_core.settings import Settings
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import UniversalConfig
from precise_core.training.device import training_device, uses_bf16
from precise_core.training.setup import TrainingInputs, build_model, item_frequencies
from precise_core.training.universal import train_universal
from precise_core.training.universal_loss import universal_loss
from precise_core.vectors.encoding import encode_users
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import TRAINING_WINDOWS
from schemas import columns as c

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.jsonl"
SEED = 17
GOAL = 0.40  # share of peak
TOLERANCE = 0.02  # of the loss, relative

_DENSE_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}
_WIDEST_STEP = 8  # from an item to the next one of a user


@dataclass(frozen=True)
class Sizes:
    """Of the made-up data: a user has one window, full."""

    items: int = 12_000
    users: int = 128 * 60
    held_out: int = 256
    length: int = 500
    batch: int = 128
    max_tokens: int = 32
    encoded: int = 20_000

    @property
    def of_curve(self) -> Sizes:
        """As much as a CPU trains in a minute."""
        length, batch = min(100, self.length), min(16, self.batch)
        return replace(self, items=min(2000, self.items), users=20 * batch, length=length, batch=batch)


TINY = Sizes(items=60, users=64, held_out=8, length=12, batch=16, max_tokens=4, encoded=50)


@dataclass
class StepClock:
    """A progress bar that keeps when each step of an epoch ended; validation and the first step are outside."""

    epochs: list[list[tuple[float, int]]] = field(default_factory=list)

    def start(self, total_steps: int, description: str) -> None:
        print(f"{description}: {total_steps} steps", flush=True)

    def advance(self, n: int, **info: float) -> None:
        if n:
            self.epochs[-1].append((perf_counter(), int(info["units"])))
        else:
            self.epochs.append([])

    def finish(self) -> None:
        """Nothing to put away."""

    def speeds(self) -> list[float]:
        """Sequences per second of each epoch."""
        epochs = [steps for steps in self.epochs if len(steps) > 1]
        return [sum(units for _, units in steps[1:]) / (steps[-1][0] - steps[0][0]) for steps in epochs]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model on little data, for trying out")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the GPU, dense bf16, where it is none of the known ones")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures of a GPU to")
    arguments = parser.parse_args(argv)
    device = training_device("universal", arguments.device)
    sizes = TINY if arguments.tiny else Sizes()
    model, config = paper(sizes, arguments.tiny)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, figures = speed(Path(folder) / "speed", sizes, model, config, device)
        share = figures["flops"] * figures["trained"] / peak_of(device, arguments.peak)
        print(f"token table frozen: {figures['frozen']:,.0f} sequences/s; all trained: {figures['trained']:,.0f}")
        print(f"{figures['flops'] / 1e9:,.3g} GFLOP a sequence: {share:.1%} of peak (goal: {GOAL:.0%})")
        figures |= curves(Path(folder) / "curves", sizes.of_curve, model, config, device)
        print(
            f"largest difference of a loss: {figures['from_cpu']:.2%} from the CPU's (at most {TOLERANCE:.0%}), "
            f"{figures['from_itself']:.2%} between two runs on {device.type}"
        )
        figures["encoded"] = encoding(sizes, checkpoint, device)
        print(f"batch encoding: {figures['encoded']:,.0f} users/s")
    if device.type == "cuda" and not arguments.tiny:
        _record(arguments.results, figures | {"share": share}, sizes, torch.cuda.get_device_name(device))
    if figures["from_cpu"] > TOLERANCE:
        raise SystemExit(f"loss differs from the CPU's by {figures['from_cpu']:.2%}, more than {TOLERANCE:.0%}")


def paper(sizes: Sizes, is_tiny: bool) -> tuple[ModelConfig, UniversalConfig]:
    """conf/paper.yaml with token vectors that start at random, which costs a step as much; small where ``is_tiny``."""
    settings = load_config(ROOT / "conf" / "paper.yaml", Settings)
    model, universal = settings.model.model_dump(mode="json"), settings.universal.model_dump(mode="json")
    model["fusion"] |= {"token_init": "random"}
    universal |= {"epochs": 2, "patience": 9, "batch_size": sizes.batch, "tensorboard": False}
    universal["alternate"] |= {"max_epochs": 1}
    universal["optimizer"] |= {"warmup_steps": 10}
    if is_tiny:
        model["fusion"] |= {"id_width": 8, "token_width": 8}
        model["encoder"] |= {"layers": 1, "ffn_width": 16, "max_length": sizes.length}
    return validated(ModelConfig, model), validated(UniversalConfig, universal)


def speed(
    folder: Path, sizes: Sizes, model: ModelConfig, config: UniversalConfig, device: torch.device
) -> tuple[Checkpoint, dict[str, float]]:
    """A training of two epochs: sequences/s of each, and the operations of a sequence where everything is trained."""
    catalog, clock = made_up_catalog(sizes), StepClock()
    inputs = made_up_inputs(folder, sizes, catalog, clock)
    config = config.model_copy(update={"device": device.type})
    checkpoint = train_universal(inputs, model, config)
    frozen, trained = clock.speeds()
    operations = operations_of_a_step(inputs, catalog, model, config, device) / sizes.batch
    return checkpoint, {"frozen": frozen, "trained": trained, "flops": operations}


def operations_of_a_step(
    inputs: TrainingInputs, catalog: ItemCatalog, config: ModelConfig, universal: UniversalConfig, device: torch.device
) -> int:
    """Floating point operations of loss and gradient of one batch: matrix products and attention."""
    frequencies_V = item_frequencies(inputs, catalog.num_rows)
    model = build_model(config, catalog, None, frequencies_V, SEED).to(device).train()
    loss = universal_loss(model, catalog, universal, frequencies_V)
    batch = next(iter(inputs.window_feed(c.TRAIN, universal.batch_size).epoch(1))).on(device)
    is_bf16 = uses_bf16(universal.precision, device)
    with FlopCounterMode(display=False) as counter:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            found = loss(batch, torch.Generator().manual_seed(SEED))
        assert found is not None
        found.mean.backward()
    return counter.get_total_flops()


def peak_of(device: torch.device, given: float | None) -> float:
    """FLOP/s of the device in dense bf16: as given, by its data sheet, or what a large matrix product reaches."""
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = next((peak for part, peak in _DENSE_BF16.items() if part in name.replace("-", " ").split()), None)
    return known or _reached(device)


def _reached(device: torch.device) -> float:
    width = 8192 if device.type == "cuda" else 512
    x_DD = torch.randn(width, width, dtype=torch.bfloat16, device=device)
    seconds = []
    for _ in range(5):
        started = perf_counter()
        float((x_DD @ x_DD)[0, 0])  # waits for the device
        seconds.append(perf_counter() - started)
    return 2 * width**3 / min(seconds)


def curves(
    folder: Path, sizes: Sizes, model: ModelConfig, config: UniversalConfig, device: torch.device
) -> dict[str, float]:
    """The largest relative difference of a loss of the training on the device, from the CPU's and from its own."""
    # Dropout draws differ between devices; what is compared must not.
    fusion = model.fusion.model_copy(update={"id_dropout": 0.0})
    encoder = model.encoder.model_copy(update={"dropout": 0.0, "max_length": sizes.length})
    model = model.model_copy(update={"fusion": fusion, "encoder": encoder})
    changes: dict[str, Any] = {"epochs": 3, "precision": "fp32", "batch_size": sizes.batch}
    catalog = made_up_catalog(sizes)
    inputs = made_up_inputs(folder, sizes, catalog, StepClock())
    losses = []
    for number, kind in enumerate(("cpu", device.type, device.type)):
        own = replace(inputs, out=folder / f"checkpoints-{number}")
        log = train_universal(own, model, config.model_copy(update={**changes, "device": kind})).metrics_log()
        losses.append(np.array([line["loss"] for line in log if "loss" in line]))
        print(f"{kind}: loss {', '.join(f'{loss:.4f}' for loss in losses[-1])}", flush=True)
    on_cpu, first, second = losses
    return {"from_cpu": _difference(first, on_cpu), "from_itself": _difference(second, first)}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / np.abs(expected)).max())


def encoding(sizes: Sizes, checkpoint: Checkpoint, device: torch.device) -> float:
    """Users per second, after one call to warm up."""
    model, catalog = checkpoint.load_model().to(device), made_up_catalog(sizes)
    histories = list(made_up_histories(sizes.encoded, sizes, seed=1))
    encode_users(model, catalog, histories[:256], sizes.length)
    started = perf_counter()
    encode_users(model, catalog, histories, sizes.length)
    return len(histories) / (perf_counter() - started)


def made_up_histories(users: int, sizes: Sizes, seed: int) -> np.ndarray:
    """int64, users x length: each walks along the circle of items, by steps of a width of his own."""
    rng = np.random.default_rng(seed)
    starts_U1 = rng.integers(sizes.items, size=(users, 1))
    widths_U1 = rng.integers(1, _WIDEST_STEP + 1, size=(users, 1))
    return c.FIRST_ITEM_INDEX + (starts_U1 + widths_U1 * np.arange(sizes.length + 1)) % sizes.items


def made_up_catalog(sizes: Sizes) -> ItemCatalog:
    """Texts of as many tokens as there may be, some of them common."""
    rng = np.random.default_rng(SEED)
    token_ids_VT = rng.zipf(1.3, (sizes.items + c.FIRST_ITEM_INDEX, sizes.max_tokens)).clip(max=20_000)
    counts_V = np.full(len(token_ids_VT), sizes.max_tokens)
    counts_V[: c.FIRST_ITEM_INDEX] = 0
    return ItemCatalog(torch.from_numpy(token_ids_VT).int(), torch.from_numpy(counts_V).int(), "made-up")


def made_up_inputs(folder: Path, sizes: Sizes, catalog: ItemCatalog, clock: StepClock) -> TrainingInputs:
    path = folder / TRAINING_WINDOWS.name
    for split, users, seed in ((c.TRAIN, sizes.users, SEED), (c.VALIDATION, sizes.held_out, SEED + 1)):
        walks = made_up_histories(users, sizes, seed)
        has_target = split == c.VALIDATION
        columns = {
            c.WINDOW_ID: [f"all/{split}/{user}/0" for user in range(users)],
            c.TASK: ["all"] * users,
            c.SPLIT: [split] * users,
            c.ITEM_INDICES: list(walks[:, :-1]),
            c.EVENT_TS: [np.arange(1, sizes.length + 1)] * users,
            c.LENGTH: [sizes.length] * users,
            c.TARGET_INDICES: list(walks[:, -1:] * has_target),
            c.TARGET_COUNT: [int(has_target)] * users,
        }
        table = pa.Table.from_pydict(columns, schema=TRAINING_WINDOWS.arrow_schema())
        write_deltalake(str(path), table, mode="append", partition_by=[c.TASK, c.SPLIT])
    out, windows = folder / "checkpoints", DeltaSnapshot(path)
    return TrainingInputs(
        windows=windows,
        catalog=catalog,
        out=out,
        seed=SEED,
        versions={},
        progress=clock,
        feed_config=FeedConfig(reader="arrow"),
    )


def _record(results: Path, figures: dict[str, float], sizes: Sizes, gpu: str) -> None:
    data = f"{gpu}; made-up windows of {sizes.length} events, {sizes.items:,} items, batches of {sizes.batch}"
    is_near = figures["from_cpu"] <= TOLERANCE
    rows = [
        ("training, conf/paper.yaml, token table frozen", figures["frozen"], "sequences/s", None, None),
        ("training, conf/paper.yaml, everything trained", figures["trained"], "sequences/s", None, None),
        ("share of peak", figures["share"], "", f"at least {GOAL}", figures["share"] >= GOAL),
        ("loss, largest difference from the CPU's", figures["from_cpu"], "", f"at most {TOLERANCE}", is_near),
        ("loss, largest difference of two runs", figures["from_itself"], "", None, None),
        ("batch encoding", figures["encoded"], "users/s", None, None),
    ]
    for name, value, unit, goal, met in rows:
        record(results, name, value, unit, goal, met, data, SEED, "python -m benchmarks.gpu")


if __name__ == "__main__":
    main()
