"""A task: a filter on scene and action."""

from __future__ import annotations

from pydantic import Field, model_validator

from precise_core.config import Config

ALL_TASK = "all"  # every event; the task of Universal Training


class TaskConfig(Config):
    """A filter on (scene, action); an omitted side means every value."""

    scene: str | None = Field(None, description="Only events of this scene; every scene where omitted.")
    action: str | None = Field(None, description="Only events of this action; every action where omitted.")

    @model_validator(mode="after")
    def _is_a_filter(self) -> TaskConfig:
        if self.scene is None and self.action is None:
            raise ValueError(f"give `scene`, `action` or both; every event is the task {ALL_TASK!r} already")
        return self
