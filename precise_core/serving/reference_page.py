"""`/docs`: every path with its parameters, to try. Its script and style come from here, so it needs no internet."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

_FOLDER = Path(fastapi_offline.__file__).parent / "static"
_SCRIPT, _STYLE, _ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"

PATHS = ("/docs", *(f"/docs/{name}" for name in (_SCRIPT, _STYLE, _ICON)))


def add_reference_page(app: FastAPI) -> None:
    """Answer ``PATHS``; each file has a path of its own, so nothing of a request becomes a part of a file name."""

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=app.openapi_url or "",
            title=app.title,
            swagger_js_url=f"/docs/{_SCRIPT}",
            swagger_css_url=f"/docs/{_STYLE}",
            swagger_favicon_url=f"/docs/{_ICON}",
            swagger_ui_parameters={"validatorUrl": None},  # else it shows the schema to a site on the internet
        )

    @app.get(f"/docs/{_SCRIPT}", include_in_schema=False)
    async def script() -> FileResponse:
        return FileResponse(_FOLDER / _SCRIPT)

    @app.get(f"/docs/{_STYLE}", include_in_schema=False)
    async def style() -> FileResponse:
        return FileResponse(_FOLDER / _STYLE)

    @app.get(f"/docs/{_ICON}", include_in_schema=False)
    async def icon() -> FileResponse:
        return FileResponse(_FOLDER / _ICON)
