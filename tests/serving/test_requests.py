"""What a request may be: its token, size, number, time; a malformed one gets 4xx and the field that is wrong."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from precise_core.errors import ConfigError
from precise_core.serving.command import require_safe
from precise_core.serving.release import ServedTask
from tests.serving.world import USERS, WIDTH, World, client_of, wait_for

TOKEN = "a secret of sixteen or more"
PATHS = ("/user_vector", "/item_vector", "/similar", "/recommend", "/history")
BODIES = ("/scores", "/similar")


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[TestClient]:
    with client_of(world, max_k=50, max_pairs=3, max_body_bytes=2000) as made:
        wait_for(made, "/ready", "ready", True)
        yield made


def field_of(answer: Any) -> str:
    return str(answer.json()["errors"][0]["field"])


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/user_vector", 422, "query.user_id"),
        ("/user_vector?user_id=", 422, "query.user_id"),
        ("/user_vector?user_id=" + 513 * "x", 422, "query.user_id"),
        ("/user_vector?user_id=user-1&format=xml", 422, "query.format"),
        ("/user_vector?user_id=user-1&task=../../etc", 404, "query.task"),
        ("/item_vector?item_id=../../../etc/passwd", 404, "query.item_id"),
        ("/recommend?user_id=user-1&k=0", 422, "query.k"),
        ("/recommend?user_id=user-1&k=51", 422, "query.k"),
        ("/recommend?user_id=user-1&k=ten", 422, "query.k"),
        ("/recommend?user_id=user-1&list=../x", 404, "query.list"),
        ("/recommend?user_id=user-1&source=magic", 422, "query.source"),
        ("/recommend?user_id=user-1&filter_seen=perhaps", 422, "query.filter_seen"),
        ("/history?user_id=user-1&k=99", 422, "query.k"),
        ("/nothing/here", 404, ""),
        ("/%2e%2e/%2e%2e/etc/passwd", 404, ""),
    ],
)
def test_a_malformed_query_is_refused_with_its_field(client: TestClient, path: str, status: int, field: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, field_of(answer)) == (status, field)


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/scores", "{", 422, "body.1"),
        ("/scores", "[]", 422, "body"),
        ("/scores", '{"pairs": [["u"]]}', 422, "body.pairs.0"),
        ("/scores", '{"pairs": [["u", 5]]}', 422, "body.pairs.0.1"),
        ("/scores", '{"pairs": [["u", "\\ud800"]]}', 422, "body.pairs.0.1"),
        ("/scores", '{"pairs": [], "extra": 1}', 422, "body.extra"),
        ("/scores", json.dumps({"pairs": 4 * [["u", "i"]]}), 422, "body.pairs"),
        ("/scores", '{"pairs": [], "task": "x"}', 404, "body.task"),
        ("/similar", '{"vector": [1, 2]}', 422, "body.vector"),
        ("/similar", json.dumps({"vector": WIDTH * ["1"]}), 422, "body.vector.0"),
        ("/similar", '{"vector": [' + ",".join(WIDTH * ["NaN"]) + "]}", 422, "body.vector"),
        ("/similar", '{"vector": [' + ",".join(WIDTH * ["1e300"]) + "]}", 422, "body.vector"),
        ("/similar", json.dumps({"vector": WIDTH * [0.5], "k": 0}), 422, "body.k"),
        ("/similar", " " * 3000, 413, "body"),
    ],
)
def test_a_malformed_body_is_refused_with_its_field(
    client: TestClient, path: str, body: str, status: int, field: str
) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert field_of(answer).startswith(field)


def test_a_body_that_does_not_say_its_size_is_limited_too(client: TestClient) -> None:
    answer = client.post("/scores", content=iter([b" " * 1500, b" " * 1500]))
    assert (answer.status_code, field_of(answer)) == (413, "body")


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.floats(), max_size=9)
)
_JSON = st.recursive(_VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(PATHS),
    values=st.dictionaries(
        st.sampled_from(["user_id", "item_id", "task", "k", "format", "source", "list", "filter_seen"]),
        st.text(max_size=12) | st.integers().map(str) | st.sampled_from(["user-1", "item-2", "all", "u2i", "float32"]),
    ),
)
def test_no_query_is_a_fault_of_the_server(client: TestClient, path: str, values: dict[str, str]) -> None:
    answer = client.get(path, params=values)
    assert answer.status_code in (200, 404, 422), answer.text
    assert answer.status_code == 200 or field_of(answer).startswith("query.")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(BODIES),
    body=st.binary(max_size=40)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {}, optional={"task": _VALUES, "pairs": _JSON, "vector": st.lists(st.floats(), max_size=9), "k": _VALUES}
    ).map(lambda value: json.dumps(value).encode()),
)
def test_no_body_is_a_fault_of_the_server(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404, 413, 422), answer.text
    assert answer.status_code == 200 or field_of(answer).startswith("body")


@pytest.mark.faults
def test_ten_thousand_malformed_requests_change_nothing(client: TestClient) -> None:
    draw = random.Random(3)
    good = [f"{path}?user_id=user-1&item_id=item-2&task=all&k=3" for path in PATHS]
    body = json.dumps({"vector": WIDTH * [0.25], "pairs": [["user-1", "item-2"]], "k": 3, "task": "all"})
    before = client.get("/version").content
    for number in range(10_000):
        if number % 2:
            path, sep, values = draw.choice(good).partition("?")
            answer = client.get(path + sep + broken(draw, values))
        else:
            json_type = {"content-type": "application/json"}
            answer = client.post(draw.choice(BODIES), content=broken(draw, body).encode(), headers=json_type)
        assert answer.status_code in (200, 400, 404, 413, 422), answer.text
    assert client.get("/version").content == before
    assert client.get("/health").json()["status"] == "ok"


def broken(draw: random.Random, text: str) -> str:
    """A text with some characters replaced, doubled or left out."""
    letters = list(text)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(letters))
        letters[at] = draw.choice(["", letters[at] * 2, "%00", *"%&=\"'{}[],:-+eE.9/é\u2028"])
    return "".join(letters)


def test_with_a_token_only_what_holds_no_data_is_open(world: World) -> None:
    with client_of(world, token=TOKEN) as client:
        wait_for(client, "/ready", "ready", True)
        assert client.get("/").status_code == 200
        for path in ("/health", "/version", "/metrics", "/history?user_id=user-1"):
            for header in ({}, {"authorization": "Bearer no"}, {"authorization": TOKEN}):
                answer = client.get(path, headers=header)
                assert (answer.status_code, field_of(answer)) == (401, "header.authorization")
            assert client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_without_a_token_a_page_of_another_name_cannot_ask(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8080", "", "127.0.0.1.evil.example"):
        answer = client.get("/version", headers={"host": host})
        assert (answer.status_code, field_of(answer)) == (403, "header.host")
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert client.get("/version", headers={"host": host}).status_code == 200


def test_a_server_that_others_could_reach_needs_a_token(world: World) -> None:
    require_safe(world.served(), None)
    require_safe(world.served(host="0.0.0.0"), TOKEN)
    with pytest.raises(ConfigError, match=r"serving\.host 0\.0\.0\.0: .*PRECISE_SERVING_TOKEN is not set"):
        require_safe(world.served(host="0.0.0.0"), None)
    with pytest.raises(ConfigError, match="a token of 5 characters"):
        require_safe(world.served(), "short")
    with pytest.raises(ConfigError, match="no such folder"):
        require_safe(world.served().model_copy(update={"warehouse": str(world.root / "x")}), None)


def test_what_takes_too_long_and_what_is_too_much_at_a_time_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)
    as_it_is = ServedTask.similar

    def slow(*arguments: Any) -> Any:
        begun.release()
        go_on.wait(60)
        return as_it_is(*arguments)

    with client_of(world, timeout_seconds=1.0, max_concurrent=2) as client:
        wait_for(client, "/ready", "ready", True)
        monkeypatch.setattr(ServedTask, "similar", slow)
        found: list[int] = []
        path = "/similar?item_id=item-7"
        threads = [threading.Thread(target=lambda: found.append(client.get(path).status_code)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=60)
        statuses = set()
        while any(thread.is_alive() for thread in threads):
            statuses.add(client.get("/history", params={"user_id": USERS[0]}).status_code)
            time.sleep(0.01)
        go_on.set()
        assert found == [504, 504]
        assert 503 in statuses
        wait_for(client, "/health", "status", "ok")
        assert client.get(path).status_code == 200
