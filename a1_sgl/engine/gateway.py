"""SGLang's model gateway (``sglang-router``): what stands behind it, and what it makes of what it is sent.

Checked with sglang-router 0.3.2 before runtimes of SGLang 0.5.23, and in its source where that says more:

- ``/generate`` passes on ids, log-probabilities, ``rid`` and priority, and of the sampling parameters that A1 sends all
  but ``stream_interval``; workers whose long generations are streamed want ``--stream-interval 128``.
- It has no ``/abort_request``, ``/server_info`` and ``/open_session`` (404; sglang issue 6531, open). ``/workers``
  lists its workers, those that joined a moment ago included; older ones had ``/list_workers``. When the connection of
  a request is cut it cuts the worker's at once, of a stream with the next piece, and the worker notices that within
  some seconds.
- ``/flush_cache`` goes to all workers, and is answered with 206 where one of them refuses or is down.
- ``/get_model_info`` goes to one worker, which may be one that has died and is not yet known to have (500). The context
  is in nothing that it answers by itself.
- A request whose worker dies is sent to another one, up to five times. Where all are down it is answered with 503 and
  the code ``no_available_workers``.
- Policy ``manual`` keeps all requests with one `ROUTING_KEY` on one worker for as long as that lives; without the
  header it spreads them at random. ``cache_aware`` takes no notice of the header and goes by the prefix, of ids as well
  as of text; the other policies (``random``, ``round_robin``, ``power_of_two``) by neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from a1_sgl.engine.protocol import NOWHERE, Route

ROUTING_KEY = "X-SMG-Routing-Key"
NO_WORKERS = "no_available_workers"
ERROR = "X-SMG-Error-Code"


@dataclass(frozen=True)
class Worker:
    """A runtime behind a gateway.

    Attributes:
        url: where the gateway reaches it; others may not.
        model: what it serves, where the gateway says.
        healthy: what the gateway thinks; of one that has just died it may not know.
    """

    url: str
    model: str | None = None
    healthy: bool = True


def affinity(route: Route) -> dict[str, str]:
    """The header by which a gateway keeps a chain on one worker; a runtime takes no notice of it.

    A chain and not its question: the prompt that a question's chains share is soon computed everywhere, while a
    question kept on one worker would leave the others idle where there are few questions.
    """
    if route == NOWHERE:
        return {}
    return {ROUTING_KEY: blake2b("\0".join(route).encode(errors="replace"), digest_size=12).hexdigest()}


def listed(answer: Any) -> list[Worker]:
    """The workers in a gateway's list of them, each once.

    With ``--dp-aware`` one is listed once for each rank, as ``http://host:port@rank``.
    """
    rows = answer.get("workers", answer.get("urls")) if isinstance(answer, dict) else None
    found: dict[str, Worker] = {}
    for row in rows if isinstance(rows, list) else ():
        said = row if isinstance(row, dict) else {"url": row}
        if isinstance(url := said.get("url"), str):
            at, model = re.sub(r"@\d+$", "", url).rstrip("/"), said.get("model_id")
            found.setdefault(at, Worker(at, model if isinstance(model, str) else None, bool(said.get("is_healthy", 1))))
    return list(found.values())
