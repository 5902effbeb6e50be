"""The loss functions of both stages equal their formula, written out position by position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from precise_core.feed.windows import SequenceBatch
from precise_core.models.catalog import ItemCatalog
from precise_core.models.precise import Precise, Stage
from precise_core.objectives.negatives import Candidates, CandidateSampler
from precise_core.objectives.targets import draw_cuts, future_targets, mask_items
from precise_core.training.targeted_loss import targeted_loss
from precise_core.training.universal_loss import universal_loss
from tests.torch_world import tiny_model, tiny_targeted, tiny_universal, world_catalog

DAY = 86_400
NUM_ROWS = 14
CATALOG = ItemCatalog(torch.zeros(NUM_ROWS, 1).int(), torch.zeros(NUM_ROWS).int(), "none")
WINDOWS = [  # items and days, oldest first; 1 = an unknown item
    ([2, 3, 4, 5, 6, 3], [1, 2, 2, 2, 9, 9]),
    ([7, 2, 8], [1, 1, 3]),
    ([9, 10, 11, 2], [1, 2, 3, 4]),
    ([12, 1, 5], [1, 2, 3]),
]
NEGATIVES = [
    {"uniform": 6},
    {"uniform": 6, "in_batch": False},
    {"whole_catalog": True},
    {"uniform": 6, "hide_own_items": True},
    {"uniform": 6, "in_batch": False, "hide_own_items": True},
    {"whole_catalog": True, "hide_own_items": True},
]
every_source = pytest.mark.parametrize("negatives", NEGATIVES, ids=str)
Window = tuple[list[int], list[int]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def batch_of(windows: list[Window]) -> SequenceBatch:
    L = max(len(items) for items, _ in windows)
    items_BL = torch.tensor([[0] * (L - len(items)) + items for items, _ in windows])
    ts_BL = torch.tensor([[0] * (L - len(days)) + [DAY * day for day in days] for _, days in windows])
    lengths_B = torch.tensor([len(items) for items, _ in windows])
    return SequenceBatch(items_BL, ts_BL, lengths_B, torch.zeros(len(windows), 0).long(), torch.zeros(len(windows)))


def model_of(stage: Stage, **changes: Any) -> Precise:
    torch.manual_seed(0)
    model = Precise(tiny_model("id", **changes), NUM_ROWS, torch.zeros(0, dtype=torch.long), stage, 1)
    if model.head is not None:  # a head that does something
        torch.nn.init.normal_(model.head.out.weight)
    return model.eval()


def frequencies_of(batch: SequenceBatch) -> torch.Tensor:
    counts = torch.bincount(batch.item_indices_BL.flatten(), minlength=NUM_ROWS)
    counts[:2] = 0
    return counts


def right_of(window: Window, seen: int, horizon_days: float) -> set[int]:
    """Items of the next instant, and of those within the horizon from the newest of ``seen`` events."""
    items, days = window
    until = max(days[seen], days[seen - 1] + horizon_days)
    return {item for item, day in zip(items[seen:], days[seen:], strict=True) if day <= until}


def states_of(model: Precise, history: list[int], masked_L: torch.Tensor | None = None) -> torch.Tensor:
    """h_LD of one user's events, the masked ones hidden."""
    e_1LD = model.masked(model.fusion.id_half(torch.tensor([history])), None if masked_L is None else masked_L[None])
    return model.position_states(e_1LD, torch.ones(1, len(history), dtype=torch.bool))[0]


def user_after(model: Precise, history: list[int]) -> torch.Tensor:
    e_1LD = model.fusion.id_half(torch.tensor([history]))
    return model.user_embeddings(e_1LD, torch.ones(1, len(history), dtype=torch.bool))


def scores_of(model: Precise, h_1D: torch.Tensor, items: list[int]) -> torch.Tensor:
    return model.logits(h_1D, model.fusion.id_half(torch.tensor(items)))[0]


def competitors(candidates: Candidates, hidden: set[int]) -> list[int]:
    """Columns of the negatives."""
    items = candidates.item_indices_C.tolist()
    is_negative = [True] * len(items) if candidates.is_negative_C is None else candidates.is_negative_C.tolist()
    return [c for c, item in enumerate(items) if is_negative[c] and item not in hidden]


def softmax_terms(
    model: Precise,
    h_1D: torch.Tensor,
    candidates: Candidates,
    targets: list[int],
    hidden: set[int],
    prior_V: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """-log( exp(s_t) / (exp(s_t) + Σ exp(s_j)) ) of each target, s = logit + prior - log q."""
    items = candidates.item_indices_C.tolist()
    log_q_C = torch.zeros(len(items)) if candidates.log_q_C is None else candidates.log_q_C
    prior_V = torch.zeros(NUM_ROWS) if prior_V is None else prior_V
    s_C = scores_of(model, h_1D, items) + prior_V[items] - log_q_C
    others = s_C[competitors(candidates, hidden)]
    terms = []
    for target in targets:
        log_q = log_q_C[items.index(target)] if target in items else 0.0
        s = scores_of(model, h_1D, [target]) + prior_V[target] - log_q
        terms.append(torch.cat([s, others]).logsumexp(dim=0) - s[0])
    return terms


@every_source
@pytest.mark.parametrize(("horizon_days", "adjustment"), [(0, 0.0), (3, 0.0), (0, 0.7)])
def test_equation_5_over_the_positions_of_a_batch(
    negatives: dict[str, Any], horizon_days: float, adjustment: float
) -> None:
    model, batch = model_of("universal"), batch_of(WINDOWS)
    changes = {"targets_per_position": 2, "horizon_days": horizon_days, "logit_adjustment": adjustment}
    config = tiny_universal(negatives=negatives, **changes)
    frequencies_V = frequencies_of(batch)
    prior_V = adjustment * (frequencies_V + 1).log()
    ours = universal_loss(model, CATALOG, config, frequencies_V)(batch, torch.Generator().manual_seed(3))
    shared, generator = _same_draws(3)
    inputs = (batch.item_indices_BL, batch.event_ts_BL, batch.valid_mask_BL)
    found = future_targets(*inputs, 2, generator, config.horizon_seconds)
    drawn_from = found.targets_PM[found.target_mask_PM]
    candidates = CandidateSampler(config.negatives, frequencies_V).draw(drawn_from, shared, with_targets=False)
    terms = []
    for row, position, targets, mask in zip(
        found.rows_P.tolist(), found.positions_P.tolist(), found.targets_PM, found.target_mask_PM, strict=True
    ):
        seen = position + 1 - int((~found.valid_mask_BL[row]).sum())
        items = WINDOWS[row][0]
        hidden = set(items) if "hide_own_items" in negatives else right_of(WINDOWS[row], seen, horizon_days)
        before_last = [item for item, day in zip(*WINDOWS[row], strict=True) if day < WINDOWS[row][1][-1]]
        h_1D = states_of(model, before_last)[[seen - 1]]
        terms += softmax_terms(model, h_1D, candidates, targets[mask].tolist(), hidden, prior_V)
    assert ours is not None and ours.weight == len(terms)
    torch.testing.assert_close(ours.mean, torch.stack(terms).mean())


@pytest.mark.parametrize("in_batch", [True, False])  # targets among the candidates, or scored by themselves
def test_under_late_fusion_popularity_is_taken_from_the_text_half_alone(in_batch: bool) -> None:
    batch, frequencies_V = batch_of(WINDOWS), frequencies_of(batch_of(WINDOWS))
    catalog = world_catalog(NUM_ROWS - 2)
    torch.manual_seed(0)
    model = Precise(
        tiny_model("moe", late_fusion=True),
        NUM_ROWS,
        catalog.known_token_ids,
        "universal",
        catalog.token_ids_VT.shape[1],
    ).eval()

    def gradients(adjustment: float) -> dict[str, torch.Tensor]:
        model.zero_grad()
        config = tiny_universal(logit_adjustment=adjustment, negatives={"uniform": 6, "in_batch": in_batch})
        loss = universal_loss(model, catalog, config, frequencies_V)
        found = loss(batch, torch.Generator().manual_seed(3))
        assert found is not None
        found.mean.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    without, adjusted = gradients(0.0), gradients(1.0)
    of_ids = [name for name in without if name.startswith(("fusion.id_table", "encoder.halves.0"))]
    of_texts = [name for name in without if name.startswith(("fusion.token_table", "encoder.halves.1"))]
    assert len(of_ids) > 5 and len(of_texts) > 5
    for name in of_ids:
        torch.testing.assert_close(adjusted[name], without[name])
    assert any((adjusted[name] - without[name]).norm() > 0.01 * without[name].norm() for name in of_texts)


def _same_draws(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """The generators of candidates and of targets, as the loss makes them of its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator))), generator


@every_source
def test_masked_items_are_told_from_the_negatives(negatives: dict[str, Any]) -> None:
    model, batch = model_of("universal", prediction="masked_item"), batch_of(WINDOWS)
    config, frequencies_V = tiny_universal(negatives=negatives, mask_share=0.4), frequencies_of(batch)
    ours = universal_loss(model, CATALOG, config, frequencies_V)(batch, torch.Generator().manual_seed(3))
    shared, generator = _same_draws(3)
    masked_BL = mask_items(batch.item_indices_BL, batch.valid_mask_BL, 0.4, generator)
    drawn_from = batch.item_indices_BL[masked_BL]
    candidates = CandidateSampler(config.negatives, frequencies_V).draw(drawn_from, shared, with_targets=False)
    terms = []
    for row, (items, days) in enumerate(WINDOWS):
        masked_L = masked_BL[row, -len(items) :]
        h_LD = states_of(model, items, masked_L)
        for at in masked_L.nonzero()[:, 0].tolist():
            same = {item for item, day in zip(items, days, strict=True) if day == days[at]}
            hidden = set(items) if "hide_own_items" in negatives else same
            terms += softmax_terms(model, h_LD[[at]], candidates, [items[at]], hidden)
    assert ours is not None and ours.weight == len(terms) == int(masked_BL.sum())
    torch.testing.assert_close(ours.mean, torch.stack(terms).mean())


@every_source
@pytest.mark.parametrize("loss", ["softmax", "bpr_user", "bpr_item", "both"])
@pytest.mark.parametrize("horizon_days", [0, 3])
def test_equation_6_and_its_companions_over_the_cuts_of_a_batch(
    negatives: dict[str, Any], loss: str, horizon_days: float
) -> None:
    model, batch = model_of("targeted"), batch_of(WINDOWS)
    config = tiny_targeted(negatives=negatives, loss=loss, cuts_per_window=3, horizon_days=horizon_days)
    frequencies_V = frequencies_of(batch)
    is_trained_V = torch.arange(NUM_ROWS) >= 2  # item 13 is of another task
    ours = targeted_loss(model, CATALOG, config, frequencies_V, is_trained_V)(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    inputs = (batch.item_indices_BL, batch.event_ts_BL, batch.valid_mask_BL)
    cuts = draw_cuts(*inputs, 3, generator, config.horizon_seconds)
    candidates = CandidateSampler(config.negatives, frequencies_V, is_trained_V).draw(cuts.targets_E, generator)
    rows, targets = cuts.rows_E.tolist(), cuts.targets_E.tolist()
    seen = cuts.valid_mask_EL.sum(dim=1).tolist()
    states = [user_after(model, WINDOWS[row][0][:size]) for row, size in zip(rows, seen, strict=True)]
    by_item: list[torch.Tensor] = []
    softmax: list[torch.Tensor] = []
    for h_1D, row, size, target in zip(states, rows, seen, targets, strict=True):
        own = "hide_own_items" in negatives
        hidden = set(WINDOWS[row][0]) if own else right_of(WINDOWS[row], size, horizon_days)
        s_C = candidates.corrected(scores_of(model, h_1D, candidates.item_indices_C.tolist()))
        s = s_C[candidates.item_indices_C == target]
        by_item += [-F.logsigmoid(s - s_C[c]) for c in competitors(candidates, hidden)]
        softmax += softmax_terms(model, h_1D, candidates, [target], hidden)
    by_user = [
        -F.logsigmoid(scores_of(model, states[e], [target]) - scores_of(model, states[other], [target]))
        for e, target in enumerate(targets)
        for other in range(len(targets))
        if target not in WINDOWS[rows[other]][0]
    ]
    parts = {"softmax": [softmax], "bpr_user": [by_user], "bpr_item": [by_item], "both": [by_user, by_item]}[loss]
    assert ours is not None and ours.weight == len(targets)
    torch.testing.assert_close(ours.mean, sum(torch.stack(part).mean() for part in parts))


@pytest.mark.parametrize("loss", ["universal", "softmax", "bpr_item", "both"])
@pytest.mark.parametrize("source", [{"whole_catalog": True}, {"uniform": 200}], ids=str)
def test_the_rest_of_the_next_basket_has_no_gradient(loss: str, source: dict[str, Any]) -> None:
    batch, is_trained_V = batch_of([([2, 3, 4, 5], [1, 2, 2, 2])]), torch.arange(NUM_ROWS) >= 2
    model = model_of("universal" if loss == "universal" else "targeted")
    if loss == "universal":
        config = tiny_universal(targets_per_position=1, negatives=source)
        loss_of = universal_loss(model, CATALOG, config, is_trained_V.long())
    else:
        targeted = tiny_targeted(loss=loss, cuts_per_window=1, negatives=source)
        loss_of = targeted_loss(model, CATALOG, targeted, is_trained_V.long(), is_trained_V)
    found = loss_of(batch, torch.Generator().manual_seed(0))
    assert found is not None and found.weight == 1
    found.mean.backward()
    assert model.fusion.id_table.weight.grad is not None
    has_gradient_V = model.fusion.id_table.weight.grad.abs().sum(dim=1) > 0
    assert has_gradient_V[3:6].sum() == 1  # the one that was drawn as the target
    assert has_gradient_V[6:].all()
