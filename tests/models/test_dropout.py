"""Our dropout drops the share it names, independently, and keeps the mean."""

from __future__ import annotations

import pytest
import torch

from precise_core.models.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_kept(share: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(share).train()(torch.ones(300, 700))
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
    rows, columns = (dropped == 0).float().mean(dim=1), (dropped == 0).float().mean(dim=0)
    spread = (share * (1 - share)) ** 0.5
    assert float(rows.std()) == pytest.approx(spread / 700**0.5, rel=0.25)  # as of independent draws
    assert float(columns.std()) == pytest.approx(spread / 300**0.5, rel=0.25)


def test_gradients_pass_where_numbers_do() -> None:
    x = torch.randn(33, 5, requires_grad=True)
    y = Dropout(0.5).train()(x)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad != 0, y != 0)


def test_nothing_happens_at_zero_or_when_serving() -> None:
    x = torch.randn(4, 4)
    assert torch.equal(Dropout(0.0).train()(x), x) and torch.equal(Dropout(0.5).eval()(x), x)
