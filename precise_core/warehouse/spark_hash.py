"""Spark's hashes outside Spark: `xxhash64` of strings (XXH64), vectorised, and that of `repartition` (Murmur3)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_SEED = 42
_BITS_32 = 0xFFFF_FFFF
_PRIME_1, _PRIME_2, _PRIME_3, _PRIME_4, _PRIME_5 = (
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5,
    )
)  # fmt: skip
_STRIPE, _WORD, _HALF = 32, 8, 4  # bytes


def xxhash64(strings: pa.StringArray) -> np.ndarray:
    """``pyspark.sql.functions.xxhash64`` of each string, none of them null; int64 [N]."""
    offsets = np.frombuffer(strings.buffers()[1], np.int32)[strings.offset :][: len(strings) + 1].astype(np.int64)
    data = np.frombuffer(strings.buffers()[2] or b"", np.uint8)
    starts_N, sizes_N = offsets[:-1], np.diff(offsets)
    hashes_N = np.empty(len(strings), np.uint64)
    for size in np.unique(sizes_N):
        of_size = np.flatnonzero(sizes_N == size)
        hashes_N[of_size] = _hashed(data[starts_N[of_size, None] + np.arange(size)])
    return hashes_N.view(np.int64)


def keys_of_partitions(count: int) -> list[int]:
    """Numbers of which ``repartition(count, number)`` sends the k-th to the k-th partition.

    Sent by their own hash, a few numbers leave a third of the partitions empty, and fill others three times.
    """
    keys: dict[int, int] = {}
    number = 0
    while len(keys) < count:
        keys.setdefault(_murmur3(number) % count, number)
        number += 1
    return [keys[partition] for partition in range(count)]


def _murmur3(number: int) -> int:
    """``pyspark.sql.functions.hash`` of an int that is not negative."""
    mixed = _rotated_32(number * 0xCC9E2D51, 15) * 0x1B873593 & _BITS_32
    state = _rotated_32(_SEED ^ mixed, 13) * 5 + 0xE6546B64 & _BITS_32
    state ^= 4  # bytes
    state = (state ^ state >> 16) * 0x85EBCA6B & _BITS_32
    state = (state ^ state >> 13) * 0xC2B2AE35 & _BITS_32
    state ^= state >> 16
    return state - (1 << 32) if state >> 31 else state


def _rotated_32(value: int, by: int) -> int:
    value &= _BITS_32
    return (value << by | value >> 32 - by) & _BITS_32


def _hashed(bytes_NB: np.ndarray) -> np.ndarray:
    """XXH64 of rows of bytes; sums and products of 64 bits wrap around."""
    rows, size = bytes_NB.shape
    with np.errstate(over="ignore"):
        seed = np.full(rows, _SEED, np.uint64)
        stripes = size // _STRIPE
        hash_N = _of_stripes(_words(bytes_NB[:, : stripes * _STRIPE], "<u8"), seed) if stripes else seed + _PRIME_5
        hash_N = hash_N + np.uint64(size)
        at, words_end = stripes * _STRIPE, size // _WORD * _WORD
        for word_N in _words(bytes_NB[:, at:words_end], "<u8").T:
            hash_N = _rotated(hash_N ^ _round(np.zeros(rows, np.uint64), word_N), 27) * _PRIME_1 + _PRIME_4
        halves_end = size // _HALF * _HALF
        for half_N in _words(bytes_NB[:, words_end:halves_end], "<u4").T:
            hash_N = _rotated(hash_N ^ half_N * _PRIME_1, 23) * _PRIME_2 + _PRIME_3
        for byte_N in bytes_NB[:, halves_end:].T:
            hash_N = _rotated(hash_N ^ byte_N.astype(np.uint64) * _PRIME_5, 11) * _PRIME_1
        hash_N = (hash_N ^ hash_N >> np.uint64(33)) * _PRIME_2
        hash_N = (hash_N ^ hash_N >> np.uint64(29)) * _PRIME_3
        return hash_N ^ hash_N >> np.uint64(32)


def _of_stripes(words_NW: np.ndarray, seed: np.ndarray) -> np.ndarray:
    lanes = [seed + _PRIME_1 + _PRIME_2, seed + _PRIME_2, seed, seed - _PRIME_1]
    for place, word_N in enumerate(words_NW.T):
        lanes[place % 4] = _round(lanes[place % 4], word_N)
    hash_N = sum((_rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)), np.zeros_like(seed))
    for lane in lanes:
        hash_N = (hash_N ^ _round(np.zeros_like(seed), lane)) * _PRIME_1 + _PRIME_4
    return hash_N


def _round(lane_N: np.ndarray, word_N: np.ndarray) -> np.ndarray:
    return _rotated(lane_N + word_N * _PRIME_2, 31) * _PRIME_1


def _rotated(values_N: np.ndarray, by: int) -> np.ndarray:
    return values_N << np.uint64(by) | values_N >> np.uint64(64 - by)


def _words(bytes_NB: np.ndarray, kind: str) -> np.ndarray:
    return np.ascontiguousarray(bytes_NB).view(kind).astype(np.uint64)
