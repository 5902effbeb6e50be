"""What is published is what is answered: vectors, scores, similar items, recall, lists, titles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from precise_core import consume
from precise_core.serving.user_parts import Lists, write_lists
from precise_core.warehouse.reader import TableReader
from schemas import RECOMMENDATIONS
from schemas import columns as c
from tests.fake_warehouse import put
from tests.night import ROOT
from tests.serving.world import DELETED, MONDAY, NEWCOMER, USERS, WIDTH, World, client_of, wait_for


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[TestClient]:
    with client_of(world) as made:
        wait_for(made, "/ready", "ready", True)
        yield made


def answer(client: TestClient, path: str, **values: Any) -> dict[str, Any]:
    got = client.get(path, params=values)
    assert got.status_code == 200, got.text
    return dict(got.json())


@pytest.mark.parametrize("user", USERS)
def test_a_users_vector_is_the_published_one_as_json_and_as_bytes(world: World, client: TestClient, user: str) -> None:
    for task in ("all", "share"):
        expected = np.array(world.vector(f"{task}-0", user), np.float32)
        found = answer(client, "/user_vector", user_id=user, task=task)
        assert (found[c.MODEL_VERSION], found[c.AS_OF]) == (f"{task}-0", MONDAY.isoformat())
        np.testing.assert_array_equal(np.array(found["vector"], np.float32), expected)
        sent = client.get("/user_vector", params={"user_id": user, "task": task, "format": "float32"})
        np.testing.assert_array_equal(np.frombuffer(sent.content, "<f4"), expected)
        assert sent.headers["x-model-version"] == f"{task}-0"
        assert sent.headers["x-as-of"] == MONDAY.isoformat()


def test_an_items_vector_is_the_published_one_and_one_without_is_not_found(world: World, client: TestClient) -> None:
    found = answer(client, "/item_vector", item_id="item-7")
    np.testing.assert_array_equal(np.float32(found["vector"]), np.float32(world.vector("all-0", "item-7")))
    for path, field in (
        ("/item_vector?item_id=item-1", "query.item_id"),
        (f"/item_vector?item_id={DELETED}", "query.item_id"),
        (f"/similar?item_id={DELETED}", "query.item_id"),
        ("/user_vector?user_id=x", "query.user_id"),
    ):
        missing = client.get(path)
        assert missing.status_code == 404
        assert missing.json()["errors"][0]["field"] == field


def test_scores_are_dot_products_in_the_order_of_the_pairs(world: World, client: TestClient) -> None:
    pairs = [(USERS[1], "item-4"), ("x", "item-4"), (USERS[2], DELETED), (USERS[0], "item-9"), (USERS[2], "item-1")]
    found = client.post("/scores", json={"pairs": pairs}).json()
    first, second = (np.dot(world.vector("all-0", pairs[n][0]), world.vector("all-0", pairs[n][1])) for n in (0, 3))
    assert found["scores"] == [pytest.approx(first, abs=1e-6), None, None, pytest.approx(second, abs=1e-6), None]
    assert client.post("/scores", json={"pairs": []}).json()["scores"] == []


def test_similar_items_are_the_nearest_ones_without_itself_and_without_deleted_ones(
    world: World, client: TestClient
) -> None:
    own = np.array(world.vector("all-0", "item-7"))
    others = [item for item in world.items if item not in ("item-7", "item-1", DELETED)]
    expected = sorted(others, key=lambda item: -float(np.dot(own, world.vector("all-0", item))))[:6]
    by_id = answer(client, "/similar", item_id="item-7", k=6)
    assert [row[c.ITEM_ID] for row in by_id["items"]] == expected
    assert by_id["items"][0]["title"] == f"Title of {expected[0]}"
    sent = client.post("/similar", json={"vector": own.tolist(), "k": 7}).json()
    assert [row[c.ITEM_ID] for row in sent["items"]] == ["item-7", *expected]


def test_a_list_is_what_consume_reads_and_a_stranger_gets_that_of_anybody(world: World, client: TestClient) -> None:
    for user in (*USERS, "stranger", c.ANYBODY):
        for task, name, k in (("all", "all", 3), ("share", "new", 50), ("all", "repeat", 2)):
            rows = consume.recommendations(world.root, [user], task=task, name=name, k=k).to_pylist()
            found = answer(client, "/recommend", user_id=user, task=task, list=name, k=k)
            columns = (c.RANK, c.ITEM_ID, c.SCORE, c.PROBABILITY, c.SOURCES, c.REASON, c.SEED_ITEM_ID)
            assert [[row[n] for n in columns] for row in found["items"]] == [[row[n] for n in columns] for row in rows]
            assert found[c.AS_OF] == MONDAY.isoformat()
            assert found["is_own"] == (user != "stranger")
            assert {found[c.MODEL_VERSION]} == ({f"lists-0/{name}"} if rows else {None})


def test_who_has_nothing_on_a_list_but_others_of_the_task_does_not_get_that_of_anybody(tmp_path: Path) -> None:
    """`u` has had every item: what is popular is nothing new to `u`."""
    of_anybody = [(c.ANYBODY, name, f"i{rank}") for name in ("all", "new") for rank in (1, 2)]
    listed = [("u", "all", "i1"), ("u", "repeat", "i1"), *of_anybody]
    rows = [{c.USER_ID: user, c.TASK: "all", c.LIST: name, c.ITEM_ID: item} for user, name, item in listed]
    put(tmp_path, RECOMMENDATIONS, [row | {c.RANK: int(row[c.ITEM_ID][1:]), c.SCORE: 0.5} for row in rows])
    (folder := tmp_path / "lists").mkdir()
    write_lists(TableReader(tmp_path), {c.TASK: "all", "versions": {RECOMMENDATIONS.name: 0}}, folder)
    served = Lists(folder)
    for user, name, expected in (
        ("u", "new", []), ("u", "all", ["i1"]), ("v", "new", ["i1", "i2"]), ("v", "repeat", []),
    ):  # fmt: skip
        read = consume.recommendations(tmp_path, [user], name=name)
        assert read[c.ITEM_ID].to_pylist() == expected and set(read[c.USER_ID].to_pylist()) <= {user}
        assert [row[c.ITEM_ID] for row in served.of(user, name, 9).places] == expected


def test_seen_items_are_left_out_on_request_and_deleted_ones_always(world: World, client: TestClient) -> None:
    user = USERS[4]
    for source in ("u2i", "u2i2i"):
        found = answer(client, "/recommend", user_id=user, source=source, k=40, filter_seen=True)
        items = {row[c.ITEM_ID] for row in found["items"]}
        assert items and not items & {*world.histories[user], DELETED, "item-1"}
    unfiltered = answer(client, "/recommend", user_id=user, source="u2i", k=40)["items"]
    assert len(unfiltered) == len(world.items) - 2


def test_whoever_has_no_vector_gets_what_is_popular(client: TestClient) -> None:
    found = answer(client, "/recommend", user_id=NEWCOMER, source="u2i2i", k=5)
    counts = [row[c.SCORE] for row in found["items"]]
    assert found["source"] == c.POPULAR and len(counts) == 5
    assert counts == sorted(counts, reverse=True)


def test_the_history_is_told_newest_first_with_titles(world: World, client: TestClient) -> None:
    found = answer(client, "/history", user_id=USERS[2], k=3)["items"]
    assert [row[c.ITEM_ID] for row in found] == world.histories[USERS[2]][::-1][:3]
    assert found[0]["title"] == f"Title of {found[0][c.ITEM_ID]}"
    assert found[0][c.EVENT_TS] > found[1][c.EVENT_TS]
    assert answer(client, "/history", user_id="stranger")["items"] == []


def test_the_request_of_the_page_serve_md_is_answered(client: TestClient) -> None:
    (asked,) = re.findall(r"`curl 'localhost:8080(\S+)'`", (ROOT / "docs" / "jobs" / "serve.md").read_text("utf-8"))
    found = client.get(asked)
    assert found.status_code == 200 and len(found.json()["items"]) == 5


def test_the_state_is_told(client: TestClient) -> None:
    assert answer(client, "/health")["status"] == "ok"
    version = answer(client, "/version")
    assert version["tasks"]["share"] | {"published_at": ""} == {
        c.MODEL_VERSION: "share-0", c.AS_OF: MONDAY.isoformat(), c.INDEX_VERSION: "share-0-index",
        "published_at": "", "users": len(USERS), "items": 39, "width": WIDTH,
    }  # fmt: skip
    assert version["lists"]["all"]["lists"] == ["all", "new", "repeat"]
    numbers = client.get("/metrics").text
    assert 'precise_request_seconds_count{path="/version",status="200"}' in numbers
    assert "precise_serves_newest 1.0" in numbers
    assert "/recommend" in client.get("/openapi.json").json()["paths"]
    assert "Recommendations" in client.get("/").text


def test_the_reference_page_needs_nothing_from_elsewhere(world: World) -> None:
    with client_of(world, token="a secret of sixteen or more") as client:
        page = client.get("/docs").text
        files = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert sorted(files) == ["/docs/favicon.png", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"]
        assert "//" not in re.sub(r"(?m)//.*$|<!--.*?-->", "", page) and "'/openapi.json'" in page
        for file in files:
            assert client.get(file).status_code == 200
        assert "SwaggerUIBundle" in client.get("/docs/swagger-ui-bundle.js").text
        assert client.get("/docs/..%2f__init__.py").status_code in (401, 404)


def test_before_the_first_event_nothing_is_popular(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(-30)
    with client_of(world) as client:
        wait_for(client, "/ready", "ready", True)
        assert answer(client, "/recommend", user_id=NEWCOMER, source="u2i", task="share")["items"] == []
        assert answer(client, "/recommend", user_id=USERS[0], source="u2i", task="share")["items"]


def test_a_warehouse_with_lists_alone_is_served(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(0)
    for file in sorted((tmp_path / "tables" / "published_models").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    with client_of(world) as client:
        wait_for(client, "/ready", "ready", True)
        assert answer(client, "/recommend", user_id=USERS[0])["items"]
        assert client.get("/user_vector", params={"user_id": USERS[0]}).status_code == 404
