"""A runtime without a model, as a process of its own: ``python -m a1_sgl.evals.benchmarks.fake_runtime``.

It speaks as much of SGLang's HTTP as a program of chains needs, answers at once, and prints its URL. For measurements
of clients, which it leaves alone on their core.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from a1_sgl.launch import pocket

CHUNK = 9
"""Tokens of every chunk; of a line of the task ``chain``, which is what a1 has verified there."""
TOKENIZER = Path(pocket.__file__).parent / "chain" / "draft"


def application(text: str, ids: list[int], context: int) -> web.Application:
    """What answers: every generation writes `text`, and every token is as likely as the next."""
    app = web.Application(client_max_size=1 << 26)

    async def generate(request: web.Request) -> web.StreamResponse:
        asked = orjson.loads(await request.read())
        count = len(asked["input_ids"])
        writes = asked["sampling_params"]["max_new_tokens"] > 0
        meta: dict[str, Any] = {
            "id": asked["rid"], "prompt_tokens": count, "cached_tokens": max(0, count - CHUNK - 1),
            "completion_tokens": len(ids) if writes else 0,
            "finish_reason": {"type": "stop", "matched": "\n"} if writes else {"type": "length", "length": 0},
        }  # fmt: skip
        if asked.get("return_logprob") and writes:
            meta["output_token_logprobs"] = [[-0.5, token, None] for token in ids]
        elif asked.get("return_logprob"):
            start = asked["logprob_start_len"]
            rest = [[-0.5, token, None] for token in asked["input_ids"][start + 1 :]]
            meta["input_token_logprobs"] = [[None, 0, None], *rest]
        answer = {"text": text if writes else "", "output_ids": ids if writes else [], "meta_info": meta}
        if asked.get("stream"):
            return await streamed(request, pieces(answer, asked["sampling_params"].get("stream_interval", 1)))
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    async def info(_: web.Request) -> web.Response:
        found = {"model_path": str(TOKENIZER), "tokenizer_path": str(TOKENIZER), "is_generation": True}
        return web.json_response(found)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"max_model_len": context}]})

    async def nothing(_: web.Request) -> web.Response:
        return web.Response()

    app.router.add_post("/generate", generate)
    app.router.add_get("/get_model_info", info)
    app.router.add_get("/v1/models", models)
    for path in ("/abort_request", "/flush_cache"):
        app.router.add_post(path, nothing)
    app.router.add_get("/health", nothing)
    return app


async def pieces(answer: dict[str, Any], interval: int) -> AsyncGenerator[dict[str, Any], None]:
    """`answer` as it grows, the way SGLang sends it: the first token at once, then so many more each time, each piece
    with all that was written so far."""
    ids, text, meta = answer["output_ids"], answer["text"], answer["meta_info"]
    for count in range(1, len(ids), interval):
        so_far = {"finish_reason": None, "completion_tokens": count}
        if "output_token_logprobs" in meta:
            so_far["output_token_logprobs"] = meta["output_token_logprobs"][:count]
        yield {
            "text": text[: len(text) * count // len(ids)], "output_ids": ids[:count], "meta_info": {**meta, **so_far}
        }  # fmt: skip
    yield answer


async def streamed(request: web.Request, answers: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
    """Answers `request` with server-sent events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async with aclosing(answers) as pieces:
        async for piece in pieces:
            await response.write(b"data: " + orjson.dumps(piece) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def serve(context: int) -> None:
    """Listens until its standard input closes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    ids = tokenizer.encode("17 + 8 = 25 and so on and so on\n", add_special_tokens=False)[:CHUNK]
    runner = web.AppRunner(application(tokenizer.decode(ids), ids, context), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    print("http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 65_536))
