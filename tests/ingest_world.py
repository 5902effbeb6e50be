"""A small shop whose log arrives in one file a day, for tests of the intake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable

from precise_core.warehouse.tables import Warehouse
from schemas import TABLES
from tests.night import run

_TABLES = {table.name: table for table in TABLES}
COLUMNS = ["id", "who", "what", "at", "did"]


def told(capsys: pytest.CaptureFixture[str], text: str) -> bool:
    """Whether the job said it, wherever the terminal broke its lines."""
    return "".join(text.split()) in "".join(capsys.readouterr().out.split())


class Shop:
    """Files, configuration and warehouse below ``folder``."""

    def __init__(self, folder: Path, **events: Any) -> None:
        self.folder = folder
        self.warehouse = folder / "warehouse"
        (folder / "log").mkdir(parents=True)
        self.spec: dict[str, Any] = {
            "path": str(folder / "log" / "*.csv"),
            "user": "who",
            "item": "what",
            "time": "at",
            "action": {"column": "did"},
            "event_id": "id",
        }
        self.spec |= events
        self.source: dict[str, Any] = {
            "kind": "files",
            "events": self.spec,
            "items": {"path": str(folder / "items.csv"), "item": "item", "title": "name", "updated": "changed"},
        }
        self.catalog(("a", "Apple", ""), ("b", "Bread", ""), ("c", "Cheese", ""))

    def catalog(self, *items: tuple[str, str, str]) -> None:
        frame = pd.DataFrame(items, columns=["item", "name", "changed"])
        frame.to_csv(self.folder / "items.csv", index=False)

    def day(self, name: str, *rows: tuple[str, ...], columns: list[str] | None = None) -> Path:
        """A file of the log: (id, who, what, at, did) per row."""
        file = self.folder / "log" / f"{name}.csv"
        pd.DataFrame(rows, columns=columns or COLUMNS).to_csv(file, index=False)
        return file

    def run(self, job: str, *flags: str) -> int:
        config = {"name": "shop", "warehouse": str(self.warehouse), "as_of": "2024-03-05", "source": self.source}
        config |= {"sizes": "defaults", "text": {"max_tokens": 8}}
        config["spark"] = {"shuffle_partitions": 2}
        file = self.folder / "shop.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return run(job, self.warehouse, *flags, config=file)

    def rows(self, name: str) -> pd.DataFrame:
        house = Warehouse(str(self.warehouse))
        table = _TABLES[name]
        return house.read_arrow(table, house.version(table)).to_pandas()

    def version(self, name: str) -> int:
        return Warehouse(str(self.warehouse)).version(_TABLES[name])

    def files(self, name: str) -> set[str]:
        return set(DeltaTable(str(self.warehouse / "tables" / name)).file_uris())

    def last_run(self) -> dict[str, Any]:
        return self.rows("runs").sort_values("started_at").iloc[-1].to_dict()

    def metrics(self) -> dict[str, float]:
        return dict(self.last_run()["metrics"])

    def reasons(self) -> dict[str, int]:
        return self.rows("events_rejected")["reason"].value_counts().to_dict()

    def events(self) -> dict[str, tuple[str, str, str]]:
        """event_id -> (user, item, time)."""
        frame = self.rows("events")
        assert frame["event_id"].is_unique
        times = frame["event_ts"].dt.strftime("%d %H:%M")
        return dict(zip(frame["event_id"], zip(frame["user_id"], frame["item_id"], times, strict=True), strict=True))
