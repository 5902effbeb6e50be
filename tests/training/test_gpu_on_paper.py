"""Whatever a training computes, it computes on the device of the model, and the same as on the CPU; without a GPU.

No backward pass: that needs a real one (`make bench-gpu`).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from precise_core.errors import TrainingError
from precise_core.feed.windows import SequenceBatch
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import ModelConfig
from precise_core.models.encoders import ENCODERS
from precise_core.models.precise import Precise, Stage
from precise_core.models.text_layers import LayerSizes
from precise_core.training.config import OptimizerConfig, UniversalConfig
from precise_core.training.device import training_device
from precise_core.training.loop import BatchLoss
from precise_core.training.optimizer import Optimizer
from precise_core.training.resume import Counters, ResumeStore
from precise_core.training.targeted_loss import targeted_loss
from precise_core.training.universal_loss import universal_loss
from precise_core.training.validation import Asking, validate
from precise_core.vectors.encoding import HistoryTimes, encode_catalog, encode_users
from tests.gpu_on_paper import CPU, GPU, GpuOnPaper, bf16_on_paper, values_of
from tests.objectives.test_loss_functions import batch_of
from tests.torch_world import (
    MAX_TARGETS,
    NUM_ITEMS,
    STATE_WIDTH,
    encoder_sizes,
    grouped_windows,
    states_catalog,
    tiny_model,
    tiny_targeted,
    tiny_universal,
    world_catalog,
)

TRAINED_V = torch.arange(NUM_ITEMS + 2) >= 2
FREQUENCIES_V = TRAINED_V.long() * torch.arange(NUM_ITEMS + 2)
SIZES = LayerSizes(heads=2, ffn_width=8, norm_epsilon=1e-12, dropout=0.0)
STAGES: tuple[Stage, ...] = ("universal", "targeted")
NEGATIVES: list[dict[str, Any]] = [
    {"uniform": 6},
    {"uniform": 6, "in_batch": False},
    {"whole_catalog": True},
    {"uniform": 6, "logq_correction": False, "hide_own_items": True},
    {"uniform": 6, "alike_above": 0.9},
    {"uniform": 6, "in_batch": False, "alike_above": 0.9},
]
LOOKS_AHEAD: list[dict[str, Any]] = [{}, {"horizon_days": 1}, {"target_filter": "new"}]


def of_kind(kind: str, **changes: Any) -> ModelConfig:
    """A tiny model of an encoder without dropout, whose draws differ between devices."""
    return without_dropout(tiny_model("id", encoder=encoder_sizes(kind, dropout=0.0) | changes))


def of_text(mode: str, token_init: str, **changes: Any) -> ModelConfig:
    width = STATE_WIDTH if token_init == "top_layers" else 8
    fusion = {"mode": mode, "id_width": 8, "token_width": width, "token_init": token_init, "num_experts": 3}
    return without_dropout(tiny_model(fusion=fusion, **changes))


def without_dropout(config: ModelConfig) -> ModelConfig:
    fusion = config.fusion.model_copy(update={"id_dropout": 0.0})
    encoder = config.encoder.model_copy(update={"dropout": 0.0})
    return config.model_copy(update={"fusion": fusion, "encoder": encoder})


KINDS = {kind: of_kind(kind) for kind in sorted(ENCODERS)} | {
    "hstu, order alone": of_kind("hstu", time_bias=False, divide_by="visible")
}
FUSIONS = {
    "llm": of_text("llm", "random"),
    "pool": of_text("pool", "random"),
    "moe": of_text("moe", "random"),
    "late": of_text("moe", "random", late_fusion=True),
    "contextual": of_text("moe", "contextual"),
    "late, contextual": of_text("pool", "contextual", late_fusion=True),
    "sentence": of_text("llm", "sentence"),
    "learn": of_text("llm", "sentence", item_tower="encoder", encoder=encoder_sizes("learn")),
    "hllm_mini": of_text("llm", "top_layers"),
    "hllm_mini, frozen": of_text("pool", "top_layers"),
    "dot": tiny_model("id", similarity="dot", learned_temperature=False, residual_head=False),
}
FUSIONS["hllm_mini, frozen"] = FUSIONS["hllm_mini, frozen"].model_copy(
    update={"fusion": FUSIONS["hllm_mini, frozen"].fusion.model_copy(update={"trained_layers": 0})}
)
MODELS = {name: without_dropout(config) for name, config in (KINDS | FUSIONS).items()}
MASKED = of_kind("bert4rec").model_copy(update={"prediction": "masked_item"})

every_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def batch() -> SequenceBatch:
    """Histories, some short, with instants of several events."""
    windows = [(list(items), [day // 2 for day in days]) for items, days, _ in grouped_windows(12, seed=0)]
    return batch_of([*windows, ([2], [7]), ([3, 4], [5, 5])])


def catalog_of(config: ModelConfig) -> ItemCatalog:
    return states_catalog() if config.fusion.reads_states else world_catalog()


def build(config: ModelConfig, stage: Stage) -> Precise:
    torch.manual_seed(0)
    fusion, catalog = config.fusion, catalog_of(config)
    known = torch.zeros(0, dtype=torch.long) if fusion.reads_states else catalog.known_token_ids
    width = STATE_WIDTH if fusion.reads_states else None
    model = Precise(config, catalog.num_rows, known, stage, 3, width, SIZES if fusion.has_text_layers else None)
    if model.head is not None:  # a head that does something
        torch.nn.init.normal_(model.head.out.weight)
    return model.train()


def loss_of(model: Precise, **changes: Any) -> BatchLoss:
    catalog = catalog_of(model.config)
    if model.stage == "universal":
        function = universal_loss(model, catalog, tiny_universal(**changes), FREQUENCIES_V, TRAINED_V)
    else:
        function = targeted_loss(model, catalog, tiny_targeted(**changes), FREQUENCIES_V, TRAINED_V)
    loss = function(batch().on(model.device), torch.Generator().manual_seed(3))
    assert loss is not None
    return loss


def assert_same_loss(config: ModelConfig, stage: Stage, **changes: Any) -> None:
    model = build(config, stage)
    expected = loss_of(copy.deepcopy(model), **changes)
    with GpuOnPaper():
        found = loss_of(model.to(GPU), **changes)
    assert found.mean.device == GPU and expected.mean.device == CPU
    assert found.weight == expected.weight
    torch.testing.assert_close(values_of(found.mean), values_of(expected.mean))


# Losses


@every_model
def test_universal_training_of_every_model(config: ModelConfig) -> None:
    assert_same_loss(config, "universal")


@every_model
def test_targeted_training_of_every_model(config: ModelConfig) -> None:
    assert_same_loss(config, "targeted")


@pytest.mark.parametrize("negatives", NEGATIVES, ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_negatives_of_every_source(stage: Stage, negatives: dict[str, Any]) -> None:
    assert_same_loss(MODELS["moe"], stage, negatives=negatives)


@pytest.mark.parametrize("loss", ["bpr_user", "bpr_item", "both", "softmax"])
@pytest.mark.parametrize("looks_ahead", LOOKS_AHEAD, ids=str)
def test_every_targeted_loss(loss: str, looks_ahead: dict[str, Any]) -> None:
    assert_same_loss(MODELS["transformer"], "targeted", loss=loss, **looks_ahead)


@pytest.mark.parametrize("looks_ahead", LOOKS_AHEAD, ids=str)
@pytest.mark.parametrize("model", ["transformer", "late"])
def test_every_choice_of_targets(model: str, looks_ahead: dict[str, Any]) -> None:
    assert_same_loss(MODELS[model], "universal", logit_adjustment=0.5, **looks_ahead)


@pytest.mark.parametrize("negatives", NEGATIVES, ids=str)
def test_masked_items(negatives: dict[str, Any]) -> None:
    assert_same_loss(MASKED, "universal", negatives=negatives)


@every_model
@pytest.mark.parametrize("stage", STAGES)
def test_bf16_of_every_model(config: ModelConfig, stage: Stage) -> None:
    """By the rules of a GPU, which make other operations float32 than those of a CPU do."""
    model = build(config, stage)
    expected = loss_of(copy.deepcopy(model), negatives={"uniform": 6, "alike_above": 0.99})
    with GpuOnPaper(), bf16_on_paper():
        found = loss_of(model.to(GPU), negatives={"uniform": 6, "alike_above": 0.99})
    assert float(values_of(found.mean)) == pytest.approx(expected.mean.item(), rel=0.05)
    assert float(values_of(found.mean)) != expected.mean.item()


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_draws_where_it_computes(stage: Stage) -> None:
    config = tiny_model("moe", encoder=encoder_sizes("transformer", dropout=0.5))
    model = build(config, stage)
    with GpuOnPaper():
        model.to(GPU)
        found = [loss_of(model).mean for _ in range(2)]
    first, second = (values_of(mean) for mean in found)
    assert first.isfinite() and second.isfinite() and first != second


# Validation and encoding


class Truths:
    """The batch with what comes next, as a feed of one step."""

    def epoch(self, n: int, *, pinned: bool = False) -> list[SequenceBatch]:  # noqa: ARG002
        truth_BM = torch.tensor([[2 + row % NUM_ITEMS, 3, 0, 0][:MAX_TARGETS] for row in range(len(batch()))])
        read = batch()
        parts = read.item_indices_BL, read.event_ts_BL, read.lengths_B
        return [SequenceBatch(*parts, truth_BM, (truth_BM > 0).sum(dim=1))]


@every_model
@pytest.mark.parametrize("stage", STAGES)
def test_validation_of_every_model(config: ModelConfig, stage: Stage) -> None:
    model = build(config, stage)
    asking, catalog = Asking(after_seconds=60), catalog_of(config)
    expected = [validate(copy.deepcopy(model), catalog, Truths(), chosen, asking) for chosen in ("all", "new")]
    with GpuOnPaper():
        model, catalog = model.to(GPU), catalog_of(config)
        assert [validate(model, catalog, Truths(), chosen, asking) for chosen in ("all", "new")] == expected


def test_validation_of_masked_items() -> None:
    model = build(MASKED, "universal")
    expected = validate(copy.deepcopy(model), world_catalog(), Truths())
    with GpuOnPaper():
        assert validate(model.to(GPU), world_catalog(), Truths()) == expected


@every_model
def test_batch_encoding_of_every_model(config: ModelConfig) -> None:
    model = build(config, "universal").eval()
    histories = [np.array(items) for items, _, _ in grouped_windows(9, seed=1)]
    seconds = [np.arange(len(items)) for items in histories]
    asked = (histories, 8, 4, HistoryTimes(seconds, np.full(len(histories), 99)))
    expected = encode_users(model, catalog_of(config), *asked)
    items = encode_catalog(model, catalog_of(config), np.arange(3, 9), batch=4)
    with GpuOnPaper():
        model.to(GPU)
        np.testing.assert_allclose(encode_users(model, catalog_of(config), *asked), expected, rtol=1e-5, atol=1e-6)
        found = encode_catalog(model, catalog_of(config), np.arange(3, 9), batch=4)
    np.testing.assert_allclose(found, items, rtol=1e-5, atol=1e-6)


# The state of a training


def test_a_step_and_its_state_move_between_devices(tmp_path: Path) -> None:
    """What a GPU saved is on the CPU, and a GPU goes on with it where a CPU would."""
    store = ResumeStore(tmp_path, {})
    cpu, gpu = build(MODELS["moe"], "universal"), build(MODELS["moe"], "universal")
    expected = Optimizer(cpu, OptimizerConfig())
    stepped(cpu, expected)
    with GpuOnPaper():
        optimizer = Optimizer(gpu.to(GPU), OptimizerConfig())
        stepped(gpu, optimizer)
        store.save(Counters(step=1), gpu, {}, torch.empty(0), optimizer)
        again = build(MODELS["moe"], "universal").to(GPU)
        resumed = Optimizer(again, OptimizerConfig())
        assert store.load(again, resumed) is not None
        assert {tensor.device for tensor in resumed.tensors().values()} == {GPU}
        stepped(again, resumed)
    loaded = Optimizer(build(MODELS["moe"], "universal"), OptimizerConfig())
    on_cpu = build(MODELS["moe"], "universal")
    assert store.load(on_cpu, loaded) is not None
    for name, tensor in on_cpu.state_dict().items():
        torch.testing.assert_close(tensor, cpu.state_dict()[name])
    stepped(cpu, expected)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(values_of(tensor), cpu.state_dict()[name])


def stepped(model: Precise, optimizer: Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step(0.01, divide_by=2.0)


# Where a training computes


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_a_line() -> None:
    assert training_device("universal", "auto") == training_device("targeted", "cpu") == CPU
    with pytest.raises(TrainingError, match="^targeted.device cuda: torch finds no GPU on this machine; set it to"):
        training_device("targeted", "cuda")


def test_ranks_compute_on_cpus() -> None:
    with pytest.raises(ValueError, match="device cuda: 2 ranks compute on CPUs; set ranks 1, or device auto or cpu"):
        UniversalConfig(ranks=2, device="cuda")


# The tests above can fail


class Forgotten(torch.nn.Module):
    """An input norm that adds a tensor of the CPU."""

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + torch.zeros(x_BLD.shape[-1])


@pytest.mark.parametrize("stage", STAGES)
def test_a_tensor_left_on_the_cpu_is_caught(stage: Stage) -> None:
    model = build(MODELS["transformer"], stage)
    model.encoder.input_norm = Forgotten()
    assert loss_of(copy.deepcopy(model)).mean.isfinite()
    with GpuOnPaper(), pytest.raises(FakeTensorDeviceMismatchError):
        loss_of(model.to(GPU))


def test_a_batch_left_on_the_cpu_is_caught() -> None:
    model = build(MODELS["transformer"], "universal")
    with GpuOnPaper():
        loss = universal_loss(model.to(GPU), world_catalog(), tiny_universal(), FREQUENCIES_V, TRAINED_V)
        with pytest.raises(FakeTensorDeviceMismatchError):
            loss(batch(), torch.Generator())
