"""What a client is told when it is not given an answer: OpenAI's error shape, and nothing of the inside."""

from __future__ import annotations

import math
from typing import Any

from a1_sgl.errors import A1Error

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "invalid_request_error",
    405: "invalid_request_error", 408: "invalid_request_error", 409: "invalid_request_error",
    413: "invalid_request_error", 415: "invalid_request_error", 422: "invalid_request_error",
    429: "rate_limit_error",
}  # fmt: skip
"""``error.type`` by status; everything else is a ``server_error``."""


class Refusal(A1Error):
    """A request that gets no answer, or no more of one.

    Attributes:
        status: of the response; of a stream that has begun, only said in its error frame.
        param: the request's field that is to blame, as a path such as ``messages.0.role``.
        code: a word that programs can go by.
        retry_after: seconds after which it may be tried again.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        retry_after: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI has it."""
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Whole seconds, at least one: a client that takes 0 at its word comes back at once."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def wrong(message: str, param: str | None = None, code: str = "invalid_value") -> Refusal:
    """The request is at fault."""
    return Refusal(400, message, param=param, code=code)


def broken(request: str) -> Refusal:
    """Something here is at fault; what it was stands in the log under the request's id."""
    return Refusal(500, f"the server failed; its log says why under request {request}", code="internal_error")


def unreachable(request: str) -> Refusal:
    """A runtime behind this server is at fault."""
    message = f"a runtime behind this server failed; its log says how under request {request}"
    return Refusal(503, message, code="runtime_failed", retry_after=5)
