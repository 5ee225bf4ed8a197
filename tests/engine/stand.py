"""Stand-ins for runtimes, and for gateways that answer what they are told to, over HTTP."""

import asyncio
import threading
import time
from contextlib import suppress

from aiohttp import web

from a1_sgl.engine.gateway import ROUTING_KEY
from a1_sgl.evals.benchmarks.fake_runtime import TOKENIZER, pieces, streamed


class Stand:
    """A runtime in a thread of its own; `answers` are those to paths that it answers otherwise, a status or JSON.

    Attributes:
        tokens: how many it writes at most.
        pause: seconds before each piece.
    """

    def __init__(self, **answers):
        self.answers, self.seen, self.keys, self.cut, self.held = answers, [], [], [], {}
        self.tokens, self.pause = 1, 0.0
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Listens, on the port that it had before."""

        async def start():
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answer)
            self.runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
            await self.runner.setup()
            await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
            self.port = self.runner.addresses[0][1]

        self._do(start())

    def stop(self):
        """Cuts its connections and listens no more."""
        self._do(self.runner.cleanup())

    def _do(self, work):
        asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _answer(self, request):
        path = request.path.strip("/")
        if path in self.answers:
            found = self.answers[path]
            return web.Response(status=found) if isinstance(found, int) else web.json_response(found)
        if path == "generate":
            return await self._generate(request)
        if path == "abort_request":
            self.held[(await request.json())["rid"]].set()
            return web.Response()
        if path in ("get_model_info", "model_info"):
            return web.json_response({"model_path": str(TOKENIZER), "is_generation": True})
        if path == "v1/models":
            return web.json_response({"data": [{"id": "m", "object": "model", "owned_by": "m", "max_model_len": 512}]})
        return web.Response(status=200 if path in ("health", "flush_cache") else 404)

    async def _generate(self, request):
        asked = await request.json()
        self.seen.append(asked)
        self.keys.append(request.headers.get(ROUTING_KEY))
        most = asked["sampling_params"].get("max_new_tokens", 0)
        if most > 512:
            refusal = "Requested token count exceeds the model's maximum context length of 512 tokens. You ..."
            return web.json_response({"error": {"message": refusal}}, status=400)
        if asked.get("stream"):
            return await streamed(request, self._pieces(asked, most))
        return web.json_response([answer async for answer in self._pieces(asked, most)][-1])

    async def _pieces(self, asked, most):
        """The answer as it grows; the last is the whole of it."""
        ids = [20] * min(most, self.tokens)
        meta = {"id": asked["rid"], "prompt_tokens": 3, "cached_tokens": 1, "completion_tokens": len(ids)}
        whole = {"text": "7" * len(ids), "output_ids": ids}
        whole["meta_info"] = meta | {"finish_reason": {"type": "length", "length": most}}
        if most != 500:
            async for piece in pieces(whole, asked["sampling_params"].get("stream_interval", 1)):
                await asyncio.sleep(self.pause)
                yield piece
            return
        self.held[asked["rid"]] = ended = asyncio.Event()  # for ever
        try:
            while not ended.is_set():
                yield whole | {"meta_info": meta | {"finish_reason": None}}
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.1)
        finally:
            if not ended.is_set():
                self.cut.append(asked["rid"])
        yield whole | {"meta_info": meta | {"finish_reason": {"type": "abort", "message": "aborted"}}}


def until(reached):
    last = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < last, "it never came to that"
        time.sleep(0.02)
