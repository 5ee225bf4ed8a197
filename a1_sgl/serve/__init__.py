"""`a1 serve`: programs as the models of an OpenAI-compatible server, in front of a draft and a target."""

from typing import TYPE_CHECKING

from a1_sgl.lazy import lazy

if TYPE_CHECKING:
    from a1_sgl.serve.app import create_app
    from a1_sgl.serve.service import Service, Settings

lazy(__name__, {"create_app": "app", "Service": "service", "Settings": "service"})  # they need fastapi and sglang

__all__ = ["Service", "Settings", "create_app"]
