"""The `openai` client, in one piece, streamed with times, and many at once: python openai_client.py [URL [KEY]]"""

import asyncio
import sys
import time

from openai import AsyncOpenAI, OpenAI

URL, KEY = [*sys.argv[1:], *["http://127.0.0.1:8080/v1", "none"][len(sys.argv) - 1 :]]
ASKED = "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"
A1 = {"model": "a1", "messages": [{"role": "user", "content": ASKED}], "temperature": 0.6, "seed": 1}


def whole(client):
    """In one piece."""
    answer = client.chat.completions.create(**A1, extra_body={"a1": {"alpha": 0.3}})
    said, used = answer.choices[0].message, answer.usage
    print(
        f"{said.content}  [{used.completion_tokens} tokens, {used.completion_tokens_details.reasoning_tokens} before]"
    )
    print(f"written by the target: {answer.a1['take_overs']} of {answer.a1['turns']} turns\n")


def streamed(client):
    """As it is written, with the seconds since it was asked for."""
    begun = time.monotonic()
    for chunk in client.chat.completions.create(**A1, stream=True, stream_options={"include_usage": True}):
        at = f"{time.monotonic() - begun:5.2f} s"
        for choice in chunk.choices:
            for field in ("reasoning_content", "content"):
                if text := getattr(choice.delta, field, None):
                    print(at, f"{field:17} {text!r}")
            if choice.finish_reason:
                print(at, "finish_reason    ", choice.finish_reason)
        if chunk.usage:
            print(at, "usage            ", chunk.usage.completion_tokens, "tokens\n")


async def many():
    """The same of several models at once."""
    async with AsyncOpenAI(base_url=URL, api_key=KEY) as client:
        models = ["draft", "target", "a1", "a1+majority"]
        asked = [client.chat.completions.create(**{**A1, "model": model}) for model in models]
        for model, answer in zip(models, await asyncio.gather(*asked), strict=True):
            print(f"{model:12} {answer.choices[0].message.content}")


with OpenAI(base_url=URL, api_key=KEY) as client:
    whole(client)
    streamed(client)
asyncio.run(many())
