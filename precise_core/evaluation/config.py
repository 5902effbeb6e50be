"""Configuration of the offline evaluation."""

from pydantic import Field

from precise_core.config import Config


class EvaluationConfig(Config):
    """Truth = the set of items of the `test_days` after `as_of` (section 5 of the evaluation protocol in docs)."""

    test_days: int = Field(28, ge=1)
    ks: tuple[int, ...] = (10, 30, 50)
    hot_share: float = Field(0.2, gt=0, lt=1)
    popular_days: int = Field(7, ge=1)
    bootstrap_samples: int = Field(1000, ge=100)
    knn_shrinkage: float = Field(10.0, ge=0)
    knn_history: int = Field(100, ge=1)
    example_users: int = Field(4, ge=0)
