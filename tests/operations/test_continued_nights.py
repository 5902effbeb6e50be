"""A night that goes on from the last one's checkpoint: how it weighs what it draws, and that nothing stays frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from precise_core.errors import CheckpointError
from precise_core.objectives.negatives import Candidates, CandidateSampler
from precise_core.training import universal_loss
from precise_core.training.checkpoint import Checkpoint
from tests.experiments.test_days import DAY, FIRST, World
from tests.torch_world import StopAt, tiny_targeted, tiny_universal


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_what_is_drawn_tonight_is_weighed_by_tonight_s_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And uniform draws still reach every item that an earlier night has trained."""
    drawn: list[tuple[Candidates, int]] = []

    class Recorded(CandidateSampler):
        def draw(self, targets: torch.Tensor, generator: torch.Generator, with_targets: bool = True) -> Candidates:
            drawn.append((super().draw(targets, generator, with_targets), targets.numel()))
            return drawn[-1][0]

    world = World(tmp_path)
    first = world.universal(FIRST)
    world.add_day([6, 24], FIRST + DAY)  # twenty windows of items 2, 4, 6 and the new 24
    monkeypatch.setattr(universal_loss, "CandidateSampler", Recorded)
    few = tiny_universal(batch_size=2, negatives={"uniform": 2})
    second = world.universal(FIRST + DAY, parent=first, num_items=24, config=few)
    trained = int(second.is_universal_trained().sum())
    assert trained == 21 and len(drawn) == 20
    reached: set[int] = set()
    for candidates, num_targets in drawn:
        assert candidates.log_q_C is not None and num_targets == 6
        q = dict(zip(candidates.item_indices_C.tolist(), candidates.log_q_C.exp().tolist(), strict=True))
        # Each of the four is a quarter of tonight's events; of all nights' events item 24 is about a thirtieth.
        assert q[24] == pytest.approx(1 - (1 - 1 / 4) ** 6 + 2 / trained, rel=1e-5)
        assert all(q[item] == pytest.approx(2 / trained, rel=1e-5) for item in set(q) - {2, 4, 6, 24})
        reached |= set(q)
    assert len(reached) > 15


def test_alternate_training_starts_over_for_no_checkpoint_that_goes_on(tmp_path: Path) -> None:
    """The ids have converged before; a token that is new tonight is trained tonight."""
    world = World(tmp_path)
    config = tiny_universal(epochs=1, alternate={"enabled": True, "max_epochs": 9})
    first = world.universal(FIRST, config=config)
    untrained = Checkpoint.open(world.out / str(first.manifest.parent))
    assert torch.equal(token_table(first), token_table(untrained))  # phase 1 is longer than the training
    world.add_day([24, 25], FIRST + DAY)
    second = world.universal(FIRST + DAY, parent=first, num_items=24, config=config)
    new_rows = token_table(second)[-2:]  # of tokens 44 and 45, which start as the unknown token
    assert second.manifest.best_epoch == 1
    assert not torch.isclose(new_rows, token_table(first)[0]).all(dim=1).any()


def test_a_killed_night_that_goes_on_continues_at_the_exact_step(tmp_path: Path) -> None:
    never = tiny_targeted(warm_up_every_days=0, batch_size=8, loss="softmax")
    nights = []
    for name, stop_at in (("whole", None), ("killed", 4)):  # in the second epoch, each of three steps
        world = World(tmp_path / name)
        universal = world.universal(FIRST)
        targeted = world.targeted(FIRST, universal, config=never)
        world.add_day([24, 25], FIRST + DAY)
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                world.universal(FIRST + DAY, universal, 24, progress=StopAt(stop_at))
            with pytest.raises(KeyboardInterrupt):
                world.targeted(FIRST + DAY, universal, targeted, never, 24, StopAt(stop_at))
            assert len(list(world.out.glob(".resume-*/step-000000003"))) == 2
        goes_on = world.universal(FIRST + DAY, universal, 24)
        nights.append((goes_on, world.targeted(FIRST + DAY, universal, targeted, never, 24)))
    for whole, resumed in zip(*nights, strict=True):
        assert whole.manifest.previous is not None and resumed.model_version == whole.model_version


def test_without_a_warm_start_an_untrained_model_is_needed(tmp_path: Path) -> None:
    world, scratch = World(tmp_path), tiny_targeted(warm_start=False)
    first = world.universal(FIRST)
    assert world.targeted(FIRST, first, config=scratch).manifest.parent == first.manifest.parent
    world.add_day([6, 8], FIRST + DAY)
    second = world.universal(FIRST + DAY, parent=first)
    with pytest.raises(CheckpointError, match=rf"went on from {first.model_version}; run one night with universal.sta"):
        world.targeted(FIRST + DAY, second, config=scratch)


def token_table(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.load_model().fusion.token_table.weight.detach()
