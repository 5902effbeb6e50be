"""Vectors that are clustered as learned ones are: what recall and scoring are measured on. N rows, D width."""

from __future__ import annotations

import numpy as np

CLUSTERS = 1000
_SPREAD = 0.7  # of a row around its cluster, relative to the spread of the clusters


def clustered(rows: int, width: int, seed: int, *, centres_seed: int = 0) -> np.ndarray:
    """Unit vectors, float32 [N, D].

    A row is a cluster's centre plus noise. Clusters are of unequal size (the r-th holds a share in proportion to 1 / r)
    and the i-th dimension of both is scaled by 1 / sqrt(i): most of the variance lies in few directions, as in trained
    tables. Rows of two seeds lie around the same centres, so that users fall where items are.
    """
    scale_D = 1 / np.sqrt(np.arange(1, width + 1, dtype=np.float32))
    centres_CD = np.random.default_rng(centres_seed).standard_normal((CLUSTERS, width), dtype=np.float32)
    rng = np.random.default_rng(seed + 1)
    shares_C = 1 / np.arange(1, CLUSTERS + 1)
    chosen = rng.choice(CLUSTERS, rows, p=shares_C / shares_C.sum())
    vectors_ND = centres_CD[chosen] + _SPREAD * rng.standard_normal((rows, width), dtype=np.float32)
    vectors_ND *= scale_D
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND


def described(rows: int, width: int) -> str:
    """The data of a figure in words."""
    return f"{rows:,} x {width} unit vectors in {CLUSTERS:,} clusters of unequal size (benchmarks/inference/vectors.py)"
