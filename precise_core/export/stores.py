"""The stores that a configuration names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from precise_core.errors import ConfigError
from precise_core.export.config import ExportConfig
from precise_core.export.milvus_store import MilvusStore
from precise_core.export.redis_store import RedisStore

REDIS_PASSWORD, MILVUS_TOKEN = "PRECISE_REDIS_PASSWORD", "PRECISE_MILVUS_TOKEN"


@contextmanager
def opened_stores(config: ExportConfig) -> Iterator[list[RedisStore | MilvusStore]]:
    """A connection to each store of the configuration, all of which answer.

    Raises:
        ConfigError: It names none.
        EnvironmentProblem: The client of one is not installed.
        StoreError: One does not answer.
    """
    if config.redis is None and config.milvus is None:
        raise ConfigError(
            "export: no store is given; set export.redis.url=redis://host:6379/0 or export.milvus.uri=http://host:19530"
        )
    with ExitStack() as stack:
        stores: list[RedisStore | MilvusStore] = []
        if config.redis is not None:
            redis = RedisStore(config.redis, config, os.environ.get(REDIS_PASSWORD))
            stores.append(stack.enter_context(closing(redis)))
        if config.milvus is not None:
            milvus = MilvusStore(config.milvus, config, os.environ.get(MILVUS_TOKEN))
            stores.append(stack.enter_context(closing(milvus)))
        yield stores
