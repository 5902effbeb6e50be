"""Where tables lie: a local folder, or a URI of an object store, said to each reader as that one wants it.

Spark takes `s3a://` and so does deltalake; pyarrow wants a file system and a path in it. All three find credentials,
region and endpoint of S3 in the environment (docs/operations.md): no configuration and no log holds a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import quote

import pyarrow.fs

from precise_core.config.folders import require_delta_path
from precise_core.errors import ConfigError, PreciseError, StoreError
from precise_core.store import is_remote

P = ParamSpec("P")
T = TypeVar("T")

_S3 = re.compile(r"s3[an]?://")

# What stores, and those who speak to them, say -> what it means. The first one found counts.
_REFUSALS = (
    ("ExpiredToken", "the credentials have expired"),
    ("InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken", "the credentials are wrong"),
    (
        "NoAuthWithAWSException|CredentialsNotLoaded|NoCredentialsError|169\\.254\\.169\\.254",
        "there are no credentials",
    ),
    ("NoSuchBucket", "there is no such bucket"),
    ("AccessDenied|AccessForbidden|403 Forbidden|Status Code: 403|ACCESS_DENIED", "these credentials may not do this"),
    ("SlowDown|503 Service|Status Code: 503|ServiceUnavailable", "it stayed too busy"),
    ("scheme is not allowed", "it is reached by http: set AWS_ALLOW_HTTP=true"),
    ("Connection refused|connection refused|UnknownHostException|dns error", "nobody answers there"),
)


def place_of(root: str | Path, *, is_read_only: bool = False) -> str:
    """A warehouse's folder as an absolute path; a URI without a slash at its end, one of S3 as `s3a://`.

    Raises:
        ConfigError: A URI names no bucket, or the path is one that Delta's libraries take for another.
    """
    if is_remote(root):
        place = _S3.sub("s3a://", str(root).rstrip("/"))
        if not place.partition("://")[2].partition("/")[0]:
            raise ConfigError(f"warehouse {root}: it names no bucket; such as s3a://bucket/lake is needed")
        if found := re.search("[?#]", place):
            raise ConfigError(
                f"warehouse {root}: what follows {found[0]!r} is no part of a path in a URI; leave it out"
            )
    elif re.match(r"\w+:/", str(root)):
        raise ConfigError(
            f"warehouse {root}: a URI has two slashes after its scheme, and a Path leaves one of them out"
        )
    else:
        place = str(Path(root).resolve())
    require_delta_path("warehouse", place, is_read_only=is_read_only)
    return place


def file_of(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """pyarrow's file system, and the path in it; ``uri`` holds the real characters, not percent-encoded ones."""
    if uri.startswith("file://"):
        return pyarrow.fs.LocalFileSystem(), uri.removeprefix("file://")
    if found := _S3.match(uri):
        return _s3(*s3_environment()), uri[found.end() :]
    scheme, _, path = uri.partition("://")
    return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{quote(path)}")


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
        text = str(error) if is_remote(place) else ""
        meaning = next((meaning for signs, meaning in _REFUSALS if re.search(signs, text)), None)
        if meaning is None:
            raise
        where = f" at {endpoint}" if (endpoint := s3_environment()[0]) else ""
        raise StoreError(
            f"{place}: the object store{where} did not do what was asked: {meaning}; it is reached with what "
            "AWS_ENDPOINT_URL, AWS_REGION and AWS_ACCESS_KEY_ID say (docs/operations.md)"
        ) from error


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
