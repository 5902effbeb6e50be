"""An object store, through obstore: S3 and what speaks its language; gs:// and abfss:// the same way, untested.

Region, endpoint and keys come from the environment, where deltalake reads them as well: AWS_REGION, AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP, ..., or from the machine's role.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from precise_core.errors import CheckpointError, ConfigError, ConflictError, StoreError
from precise_core.store.base import Entry, Store, Stored, require_name
from precise_core.store.local import draft_folder, locked, move_into_place
from precise_core.store.sums import SUMS_FILE, incomplete, read_sums, require_listed, sums_in, verify_sums

try:
    import obstore
    from obstore import exceptions
    from obstore.store import AzureStore, GCSStore, S3Store
except ImportError as missing:
    raise ConfigError(
        "an object store needs the package obstore; install the extra: pip install 'precise[s3]'"
    ) from missing

CACHE = "PRECISE_CACHE"  # the variable that names the folder of local copies
_CHUNK_BYTES = 8 << 20
_CLOCK = ".clock"  # an object that says what time it is
_ANSWER = re.compile("<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)
# Of its own obstore gives up within a few seconds, when a busy store has just asked for patience.
_RETRIES: Any = {
    "max_retries": 30,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 3},
}
_OF_AZURE = ".dfs.core.windows.net"


class RemoteStore(Store):
    """The objects of a bucket whose keys begin with the path of the URI ``root``, taken literally."""

    def __init__(self, root: str) -> None:
        self._cache = cache_folder() / hashlib.sha256(root.rstrip("/").encode()).hexdigest()[:16]
        super().__init__(root, self._cache)
        self._objects = _opened(root)

    def get(self, name: str) -> Stored | None:
        try:
            with self._told(name, "read"):
                found = obstore.get(self._objects, require_name(name))
                return Stored(bytes(found.bytes()), _tag(found.meta), found.meta["last_modified"])
        except FileNotFoundError:
            return None

    def list(self, folder: str = "") -> list[Entry]:
        with self._told(folder, "listed"):
            prefix = require_name(folder) if folder else None
            found = [entry for page in obstore.list(self._objects, prefix) for entry in page]
        return sorted(map(_entry, found), key=lambda entry: entry.name)

    def find(self, name: str) -> Entry | None:
        try:
            with self._told(name, "read"):
                return _entry(obstore.head(self._objects, require_name(name)))
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> Sequence[str]:
        with self._told(folder, "listed"):
            found = obstore.list_with_delimiter(self._objects, require_name(folder) if folder else None)
        paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def state(self, folder: str) -> object:
        return self.list(folder)

    def delete(self, name: str) -> bool:
        if self.find(name) is None:
            return False
        with self._told(name, "removed"):
            obstore.delete(self._objects, name)
        return True

    def move(self, name: str, to: str) -> None:
        with self._told(name, "moved"):
            obstore.rename(self._objects, require_name(name), require_name(to))

    def now(self) -> datetime:
        self.put(_CLOCK, uuid.uuid4().hex)
        clock = self.find(_CLOCK)
        assert clock is not None  # written a moment ago
        return clock.modified

    def keeps_versions(self) -> bool:
        """By what the store says of a write; Google's names a version always, and is taken for one that keeps them."""
        tag = json.loads(self.put(_CLOCK, uuid.uuid4().hex))
        return tag.get("version") not in (None, "null")  # `null`: versioning was suspended

    def fetch(self, folder: str) -> Path:
        listed = self.get(f"{require_name(folder)}/{SUMS_FILE}")
        if listed is None:
            raise incomplete(self.place(folder))
        sums = sums_in(listed.text, self.place(f"{folder}/{SUMS_FILE}"))
        with self._copy(folder) as copy:
            if not _is_copy(copy, listed.content):
                with draft_folder(copy.parent, copy.name) as draft:
                    for name, digest in sums.items():
                        self._download(f"{folder}/{name}", draft / require_name(name), digest)
                    (draft / SUMS_FILE).write_bytes(listed.content)
                    move_into_place(draft, copy)
        return copy

    @contextmanager
    def draft(self, folder: str) -> Iterator[Path]:
        final = self._cache / require_name(folder)
        with draft_folder(final.parent, final.name) as draft:
            yield draft

    def put_folder(self, draft: Path, folder: str) -> None:
        require_listed(draft)
        self.delete_folder(folder)
        for name in read_sums(draft):
            with self._told(f"{folder}/{name}", "written"):
                obstore.put(self._objects, require_name(f"{folder}/{name}"), draft / name)
        self.put_if_absent(f"{folder}/{SUMS_FILE}", (draft / SUMS_FILE).read_bytes())
        with self._copy(folder) as copy:  # whoever has written it opens it next
            move_into_place(draft, copy)

    def delete_folder(self, folder: str) -> None:
        self.delete(f"{folder}/{SUMS_FILE}")
        names = [entry.name for entry in self.list(folder)]
        if names:
            with self._told(folder, "removed"):
                obstore.delete(self._objects, names)
        shutil.rmtree(self._cache / folder, ignore_errors=True)

    @contextmanager
    def _copy(self, folder: str) -> Iterator[Path]:
        """The local copy of a folder, while no other process of this machine touches it."""
        copy = self._cache / folder
        copy.parent.mkdir(parents=True, exist_ok=True)
        with locked(copy.parent / f".{copy.name}.lock"):
            yield copy

    def _put(self, name: str, content: bytes, _is_private: bool) -> str:
        return self._sent(name, content, "overwrite")

    def _put_absent(self, name: str, content: bytes, _is_private: bool) -> str:
        return self._sent(name, content, "create")

    def _put_match(self, name: str, content: bytes, tag: str) -> str:
        return self._sent(name, content, json.loads(tag))

    def _sent(self, name: str, content: bytes, mode: Any) -> str:
        with self._told(name, "written"):
            return _tag(obstore.put(self._objects, name, content, mode=mode, use_multipart=False))

    def _download(self, name: str, file: Path, digest: str) -> None:
        """Write the object to ``file`` while its sum is compared."""
        file.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        try:
            with self._told(name, "read"), file.open("wb") as stream:
                for chunk in obstore.get(self._objects, name).stream(min_chunk_size=_CHUNK_BYTES):
                    found.update(chunk)
                    stream.write(chunk)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.place(name)}: missing, {SUMS_FILE} lists it; build it again") from error
        if found.hexdigest() != digest:
            raise CheckpointError(f"{self.place(name)}: changed since it was written (SHA-256 differs); build it again")

    @contextmanager
    def _told(self, name: str, what: str) -> Iterator[None]:
        """Errors of obstore as ours; FileNotFoundError where there is no such object."""
        try:
            yield
        except (exceptions.BaseError, FileNotFoundError) as error:
            has_bucket = "NoSuchBucket" not in str(error)
            if has_bucket and isinstance(error, FileNotFoundError):
                raise
            if has_bucket and isinstance(error, exceptions.AlreadyExistsError):
                raise ConflictError(f"{self.place(name)}: is there already, someone else was first") from error
            if has_bucket and isinstance(error, exceptions.PreconditionError):
                raise ConflictError(f"{self.place(name)}: was changed or is gone since it was read") from error
            raise StoreError(f"{self.place(name)}: cannot be {what} ({_cause(error)})") from error


_OF_STORES = ("AWS_", "GOOGLE_", "AZURE_")


def cache_folder() -> Path:
    """Where local copies of folders lie, by what was asked for; whatever is in it may be removed while nothing runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(base) / "precise")


def _is_copy(copy: Path, sums: bytes) -> bool:
    try:
        verify_sums(copy)
    except CheckpointError:
        return False
    return (copy / SUMS_FILE).read_bytes() == sums


def _entry(meta: Mapping[str, Any]) -> Entry:
    tag = str(meta["e_tag"] or meta["version"] or "")
    return Entry(meta["path"], meta["size"], meta["last_modified"], tag.strip('"'))


def _tag(meta: Mapping[str, Any]) -> str:
    """What names the content of an object: of S3 and Azure the etag, of Google the version."""
    return json.dumps({name: meta[name] for name in ("e_tag", "version") if meta[name] is not None})


def _cause(error: Exception) -> str:
    """What a server says, of an answer of S3 its code and message; in one line."""
    if said := _ANSWER.search(str(error)):
        return f"{said[1]}: {said[2]}"
    return str(error).strip().splitlines()[0]


def _opened(root: str) -> Any:
    """The client for a root and what the environment says of stores, with its connections."""
    return _client(root, *sorted(item for item in os.environ.items() if item[0].startswith(_OF_STORES)))


@lru_cache(maxsize=64)
def _client(root: str, *_environment: tuple[str, str]) -> Any:
    """Kept, since a store is made anew wherever one is needed."""
    scheme, _, rest = root.partition("://")
    bucket, _, path = rest.partition("/")
    prefix = require_name(path.rstrip("/")) if path.strip("/") else None
    if not bucket:
        raise ConfigError(f"{root}: names no bucket; it is written s3a://bucket/folder")
    if scheme in ("s3", "s3a"):
        return S3Store(bucket, prefix=prefix, retry_config=_RETRIES)
    if scheme == "gs":
        return GCSStore(bucket, prefix=prefix, retry_config=_RETRIES)
    container, _, account = bucket.partition("@")
    if scheme in ("abfs", "abfss") and account.endswith(_OF_AZURE):
        return AzureStore(container, prefix=prefix, account_name=account.removesuffix(_OF_AZURE), retry_config=_RETRIES)
    raise ConfigError(
        f"{root}: no store of this kind is known; there are s3a://bucket/folder, s3://, gs://bucket/folder and "
        f"abfss://container@account{_OF_AZURE}/folder"
    )
