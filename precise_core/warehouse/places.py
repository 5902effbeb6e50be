"""Where tables lie: a local folder, or a URI of an object store, said to each reader as that one wants it.

Spark takes `s3a://` and so does deltalake; pyarrow wants a file system and a path in it. All three find credentials,
region and endpoint of S3 in the environment (docs/object_store.md): no configuration and no log holds a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import quote

import pyarrow.fs

from precise_core.errors import PreciseError, StoreError
from precise_core.store import is_remote, store_at

P = ParamSpec("P")
T = TypeVar("T")

_S3 = re.compile(r"s3[an]?://")

# What stores, and those who speak to them, say -> what it means. The first one found counts.
_REFUSALS = (
    ("ExpiredToken", "the credentials have expired"),
    ("InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken", "the credentials are wrong"),
    (
        "NoAuthWithAWSException|CredentialsNotLoaded|NoCredentialsError|IMDS|169\\.254\\.169\\.254",
        "there are no credentials",
    ),
    ("NoSuchBucket", "there is no such bucket"),
    ("AccessDenied|AccessForbidden|403 Forbidden|Status Code: 403|ACCESS_DENIED", "these credentials may not do this"),
    ("SlowDown|503 Service|Status Code: 503|ServiceUnavailable", "it stayed too busy"),
    ("scheme is not allowed", "it is reached by http: set AWS_ALLOW_HTTP=true"),
    ("Connection refused|connection refused|UnknownHostException|dns error", "nobody answers there"),
)


def file_of(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """pyarrow's file system, and the path in it; ``uri`` holds the real characters, not percent-encoded ones.

    A path without a scheme is a local one.
    """
    if uri.startswith("file://") or not is_remote(uri):
        return pyarrow.fs.LocalFileSystem(), uri.removeprefix("file://")
    if found := _S3.match(uri):
        return _s3(*s3_environment()), uri[found.end() :]
    scheme, _, path = uri.partition("://")
    return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{quote(path)}")


def sizes_of(folder: str, names: Sequence[str]) -> list[int | None]:
    """Bytes of each file of a table's folder; None where there is none. In an object store it is listed once."""
    if is_remote(folder):
        found = {entry.name: entry.size_bytes for entry in store_at(folder).list()}
        return [found.get(name) for name in names]
    files = [Path(folder, name) for name in names]
    return [file.stat().st_size if file.is_file() else None for file in files]


def s3_environment() -> tuple[str | None, str | None]:
    """Endpoint and region of S3 that the environment names; None: those of AWS."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return os.environ.get("AWS_ENDPOINT_URL") or None, region or None


@contextmanager
def store_errors(place: str | Path) -> Iterator[None]:
    """Say in one line why an object store has not done what was asked; ``place`` names it.

    Raises:
        StoreError: The store has refused, or did not answer, after the retries of whoever asked.
    """
    try:
        yield
    except PreciseError:
        raise
    except Exception as error:
        refused = refusal(place, str(error))
        if refused is None:
            raise
        raise refused from error


def refusal(place: str | Path, text: str) -> StoreError | None:
    """What the ``text`` of an error says of the object store; None where it says nothing of it."""
    meaning = next((meaning for signs, meaning in _REFUSALS if re.search(signs, text)), None)
    if meaning is None or not is_remote(place):
        return None
    where = f" at {endpoint}" if (endpoint := s3_environment()[0]) else ""
    return StoreError(
        f"{place}: the object store{where} did not do what was asked: {meaning}; it is reached with what "
        "AWS_ENDPOINT_URL, AWS_REGION and AWS_ACCESS_KEY_ID say (docs/object_store.md)"
    )


class _HasRoot(Protocol):
    root: str


R = TypeVar("R", bound=_HasRoot)


def says_store_errors(method: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], T]:
    """A method of what has a ``root``, with ``store_errors`` around it."""

    @wraps(method)
    def around(self: R, *args: P.args, **kwargs: P.kwargs) -> T:
        with store_errors(self.root):
            return method(self, *args, **kwargs)

    return around


@lru_cache
def _s3(endpoint: str | None, region: str | None) -> pyarrow.fs.S3FileSystem:
    scheme, _, host = (endpoint or "https://").partition("://")
    return pyarrow.fs.S3FileSystem(endpoint_override=host.rstrip("/") or None, scheme=scheme, region=region)
