"""What is wrong with a configuration or a publication is said before a store is sent anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from precise_core.config import load_config
from precise_core.errors import ConfigError, EnvironmentProblem, HistoryGoneError
from precise_core.export.config import ExportConfig, RedisConfig
from precise_core.export.published import published_sets
from precise_core.export.stores import opened_stores
from precise_core.settings import Settings
from tests.night import CONFIG
from tests.serving.world import World


def test_what_is_missing_or_unsafe_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"set export\.redis\.url="), opened_stores(ExportConfig()):
        pass
    for url in ("redis://:hidden@host:6379/0", "redis://host/0?password=hidden", "valkey://:hidden@host"):
        with pytest.raises(ConfigError, match="PRECISE_REDIS_PASSWORD") as told:
            load_config(CONFIG, Settings, [f"export.redis.url={url}"])
        assert "hidden" not in str(told.value)
    with pytest.raises(ConfigError, match="url must begin with one of redis://, rediss://, unix://"):
        load_config(CONFIG, Settings, ["export.redis.url=valkey://host"])
    monkeypatch.setitem(sys.modules, "redis", None)
    config = ExportConfig(redis=RedisConfig(url="redis://127.0.0.1:1/0"))
    with pytest.raises(EnvironmentProblem, match=r"redis is not installed here; pip install"), opened_stores(config):
        pass


def test_users_whose_files_were_removed_are_told_in_one_line(tmp_path: Path) -> None:
    world = World(tmp_path / "warehouse")
    world.publish(0)
    (opened, _), (unopened, _) = published_sets(world.root, ["all"]), published_sets(world.root, ["all"])
    assert [one for ids in opened.ids(4) for one in ids] == [one for ids, _ in opened.batches(4) for one in ids]
    for file in (world.root / "tables" / "user_embeddings").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(HistoryGoneError, match=r"user_embeddings: files of version \d+ are gone; run jobs/publish"):
        _ = unopened.rows
    with pytest.raises(HistoryGoneError, match="are gone"):
        list(opened.batches(4))
