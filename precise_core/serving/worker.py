"""The application of a process that answers: it alone imports what answers are made with, not who starts it."""

from __future__ import annotations

import os

from fastapi import FastAPI

from precise_core.serving.app import create_app
from precise_core.serving.served import SERVED, TOKEN, Served


def application() -> FastAPI:
    """What the environment says is to be served."""
    return create_app(Served.model_validate_json(os.environ[SERVED]), os.environ.get(TOKEN))
