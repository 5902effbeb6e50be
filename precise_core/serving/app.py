"""The application: paths, what they take, and the answers as JSON or bytes. Every answer is made from one release."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from precise_core.config.tasks import ALL_TASK
from precise_core.serving.guard import Guard, Refused, refusal
from precise_core.serving.keeper import Keeper
from precise_core.serving.metrics import exposition
from precise_core.serving.reference_page import add_reference_page
from precise_core.serving.release import Found, Release, ServedTask
from precise_core.serving.requests import Format, ItemId, K, Pairs, RecommendSource, Task, UserId, Vector
from precise_core.serving.served import Served
from schemas import columns as c

_PAGE = Path(__file__).parent / "page.html"
_FIRST_LIST = "all"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def create_app(served: Served, token: str | None, keeper: Keeper | None = None) -> FastAPI:
    """The application over a warehouse; ``token`` None = requests of this machine need none."""
    kept = keeper or Keeper(served)
    searches = ThreadPoolExecutor(served.serving.search_threads, thread_name_prefix="search")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if served.serving.workers > 1:  # until this one has something to answer from, the others take its requests
            await asyncio.to_thread(kept.look)
        kept.start()
        yield
        await asyncio.to_thread(kept.stop)
        searches.shutdown()

    app = FastAPI(title="PRECISE", description=__doc__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, config=served.serving, token=token)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    add_reference_page(app)
    _add_state(app, kept)
    _add_lookups(app, served, kept)
    _add_searches(app, served, kept, searches)
    return app


def _add_state(app: FastAPI, keeper: Keeper) -> None:
    @app.get("/health", tags=["state"])
    async def health() -> Response:
        """Whether what is published now is what answers, and if not, why."""
        release = keeper.release
        state = "ok" if keeper.refused is None else "behind" if release else "nothing to serve"
        return _json({"status": state, "refused": keeper.refused, "serving": release and release.name})

    @app.get("/ready", tags=["state"])
    async def ready() -> Response:
        """200 as soon as there is something to answer from."""
        return _json({"ready": keeper.release is not None}, status=200 if keeper.release else 503)

    @app.get("/version", tags=["state"])
    async def version() -> Response:
        """What answers: checkpoints by task, and the lists."""
        release = _release(keeper)
        tasks = {
            task: {
                c.MODEL_VERSION: own.model_version,
                c.AS_OF: own.as_of,
                c.INDEX_VERSION: own.published.index_version,
                "published_at": own.published.published_at,
                "users": len(own.users.keys),
                "items": len(own.index),
                "width": own.index.width,
            }
            for task, own in release.tasks.items()
        }
        lists = {
            task: {"lists": own.names, "model_versions": own.model_versions, c.AS_OF: own.as_of, "users": len(own.keys)}
            for task, own in release.lists.items()
        }
        return _json({"serving": release.name, "tasks": tasks, "lists": lists})

    @app.get("/metrics", tags=["state"])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"))


def _add_lookups(app: FastAPI, served: Served, keeper: Keeper) -> None:
    @app.get("/user_vector", tags=["vectors"])
    async def user_vector(user_id: UserId, task: Task = ALL_TASK, format: Format = "json") -> Response:
        """The published vector of a user."""
        own = _task(_release(keeper), task, "query.task")
        return _vector_answer(own, {c.USER_ID: user_id}, own.users.of(user_id), format)

    @app.get("/item_vector", tags=["vectors"])
    async def item_vector(item_id: ItemId, task: Task = ALL_TASK, format: Format = "json") -> Response:
        """The published vector of an item that is not deleted."""
        own = _task(_release(keeper), task, "query.task")
        return _vector_answer(own, {c.ITEM_ID: item_id}, own.item_vector(item_id), format)

    @app.post("/scores", tags=["vectors"])
    async def scores(asked: Pairs) -> Response:
        """Dot products of users and items, in the order of the pairs; null where one of the two has no vector."""
        if len(asked.pairs) > served.serving.max_pairs:
            raise Refused(422, "body.pairs", f"{len(asked.pairs):,} pairs; at most {served.serving.max_pairs:,}")
        own = _task(_release(keeper), asked.task, "body.task")
        return _json(_state_of(own) | {"scores": own.scores(asked.pairs)})

    @app.get("/history", tags=["lists"])
    async def history(user_id: UserId, k: K = 20) -> Response:
        """What a user had, newest first, with titles."""
        _require_k(k, served.serving.max_k, "query.k")
        release = _release(keeper)
        items = release.catalog.item_ids(release.everywhere.items_of(user_id)[::-1][:k])
        times = release.everywhere.times_of(user_id)[::-1][:k].tolist()
        had = [
            {c.ITEM_ID: item, "title": release.catalog.title(item), c.EVENT_TS: _EPOCH + timedelta(microseconds=at)}
            for item, at in zip(items, times, strict=True)
        ]
        return _json({c.USER_ID: user_id, "serving": release.name, "items": had})


def _add_searches(app: FastAPI, served: Served, keeper: Keeper, searches: ThreadPoolExecutor) -> None:
    most = served.serving.max_k

    async def searched(search: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(searches, search)

    @app.get("/similar", tags=["search"])
    async def similar(item_id: ItemId, task: Task = ALL_TASK, k: K = 10) -> Response:
        """The items whose vectors are nearest to an item's, without itself."""
        _require_k(k, most, "query.k")
        release = _release(keeper)
        own = _task(release, task, "query.task")
        row = own.item_row(item_id)
        if row < 0:
            raise Refused(404, "query.item_id", f"{own.model_version} has no vector of this item")
        found = await searched(lambda: own.similar(own.index.vectors_ND[row], k, row))
        return _json(_state_of(own) | {c.ITEM_ID: item_id, "items": _items(release, found)})

    @app.post("/similar", tags=["search"])
    async def similar_to_vector(asked: Vector) -> Response:
        """The items whose vectors are nearest to the one that was sent."""
        _require_k(asked.k, most, "body.k")
        release = _release(keeper)
        own = _task(release, asked.task, "body.task")
        vector_D = _require_vector(asked.vector, own.index.width)
        found = await searched(lambda: own.similar(vector_D, asked.k))
        return _json(_state_of(own) | {"items": _items(release, found)})

    @app.get("/recommend", tags=["lists"])
    async def recommend(
        user_id: UserId,
        task: Task = ALL_TASK,
        source: RecommendSource = "lists",
        list: str = _FIRST_LIST,
        k: K = 10,
        filter_seen: bool | None = None,
    ) -> Response:
        """What to show a user: a published list, or U2I or U2I2I candidates searched for now.

        `list` is which of the published lists; `filter_seen` leaves out of the candidates what the user had,
        recall.filter_seen where it is not given. A user without any list of the task gets that of `(anybody)`, and
        `is_own` is false; one without a vector gets what is popular.
        """
        _require_k(k, most, "query.k")
        release = _release(keeper)
        if source == "lists":
            return _json({c.USER_ID: user_id} | _listed(release, user_id, task, list, k))
        own = _task(release, task, "query.task")
        is_filtered = served.recall.filter_seen if filter_seen is None else filter_seen
        how, found = await searched(lambda: own.recall(user_id, source, k, filter_seen=is_filtered))
        answer = {c.USER_ID: user_id, "source": how, "items": _items(release, found)}
        return _json(_state_of(own) | answer)


def _listed(release: Release, user_id: str, task: str, name: str, k: int) -> dict[str, Any]:
    lists = release.lists.get(task)
    if lists is None:
        raise Refused(404, "query.task", f"no lists of task {task!r}; there are those of {sorted(release.lists)}")
    if name not in lists.names:
        raise Refused(404, "query.list", f"no list {name!r} of task {task!r}; there are {lists.names}")
    found = lists.of(user_id, name, k)
    for row in found.places:
        row["title"] = release.catalog.title(row[c.ITEM_ID])
    about = {c.TASK: task, "source": "lists", c.LIST: name, "is_own": found.is_own}
    return about | {c.MODEL_VERSION: found.model_version, c.AS_OF: lists.as_of, "items": found.places}


def _release(keeper: Keeper) -> Release:
    if keeper.release is None:
        raise Refused(503, "", f"nothing to serve yet: {keeper.refused}")
    return keeper.release


def _task(release: Release, task: str, field: str) -> ServedTask:
    if task not in release.tasks:
        raise Refused(404, field, f"no model is published for task {task!r}; published are {sorted(release.tasks)}")
    return release.tasks[task]


def _require_k(k: int, most: int, field: str) -> None:
    if not 1 <= k <= most:
        raise Refused(422, field, f"{k}: 1 to {most} (serving.max_k) are allowed")


def _require_vector(vector: list[float], width: int) -> np.ndarray:
    """The vector as float32 [D]."""
    if len(vector) != width:
        raise Refused(422, "body.vector", f"{len(vector)} numbers; the vectors of the task have {width}")
    with np.errstate(over="ignore"):
        vector_D = np.asarray(vector, np.float32)
    if not np.isfinite(vector_D).all():
        raise Refused(422, "body.vector", "NaN, infinite or too large for float32")
    return vector_D


def _vector_answer(own: ServedTask, key: dict[str, str], vector_D: np.ndarray | None, form: str) -> Response:
    if vector_D is None:
        (name,) = key
        raise Refused(404, f"query.{name}", f"{own.model_version} has no vector of this {name.removesuffix('_id')}")
    if form == "float32":
        headers = {"x-model-version": own.model_version, "x-as-of": own.as_of.isoformat()}
        body = np.ascontiguousarray(vector_D, "<f4").tobytes()
        return Response(body, media_type="application/octet-stream", headers=headers)
    return _json(_state_of(own) | key | {"vector": vector_D.tolist()})


def _state_of(own: ServedTask) -> dict[str, Any]:
    return {c.TASK: own.published.task, c.MODEL_VERSION: own.model_version, c.AS_OF: own.as_of}


def _items(release: Release, found: list[Found]) -> list[dict[str, Any]]:
    return [
        {
            c.RANK: rank,
            c.ITEM_ID: one.item_id,
            "title": release.catalog.title(one.item_id),
            c.SCORE: one.score,
            c.SEED_ITEM_ID: one.seed_item_id,
        }
        for rank, one in enumerate(found, start=1)
    ]


def _json(content: Any, status: int = 200) -> Response:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat)
    return Response(text, status, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    field = "body" if error.status_code == 400 else ""  # 400 is what a body gets that is no text
    answer = _json(refusal((getattr(error, "field", field), str(error.detail))), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _malformed(_: Request, error: Exception) -> Response:
    """The fields that are wrong; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    wrong = [(".".join(map(str, one["loc"])), str(one["msg"])) for one in error.errors()]
    return _json(refusal(*wrong), 422)
