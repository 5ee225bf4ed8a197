"""A language model's opinion of recorded answers, beside their exact grades and never in their place.

Any endpoint with OpenAI's chat completions will do. Verdicts are kept in the run's folder, a file for each model, and
no summary, vote or comparison reads them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import httpx
import tenacity
from pydantic import BaseModel

from a1_sgl.errors import ConfigError, RuntimeFault, first_line
from a1_sgl.records import RunFolder, files
from a1_sgl.types import Question

Verdict = Literal["right", "wrong", "unclear"]
PROMPT = (
    "Question:\n{question}\n\nReference answer: {gold}\nGiven answer: {answer}\n\nDo the two answers mean the same? "
    "Different notation, rounding to the precision asked for, and units do not matter; anything else does. Reply with "
    "one word, YES or NO."
)


class _Judged(BaseModel):
    """A verdict on record."""

    question: str
    answer: str
    verdict: Verdict
    said: str = ""


def judge(
    folder: RunFolder, url: str, model: str, key: str | None = None, at_once: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[str, str], Verdict]:  # fmt: skip
    """Verdicts on every distinct answer of a run, by question and answer; those on record are not asked for again.

    Args:
        url: of the endpoint, up to and without ``/chat/completions``, such as ``http://127.0.0.1:30000/v1``.
        key: API key, where the endpoint wants one.
        progress: called with how many are done and how many there are.

    Raises:
        ConfigError: the run has no questions on record, or another process writes to its folder.
        RuntimeFault: the endpoint cannot be reached or refuses; verdicts that came are kept.
    """
    questions = folder.questions()
    if not questions:
        raise ConfigError(f"{folder.path} holds no questions.jsonl, so a judge cannot be told what was asked")
    with folder.exclusive():
        return _judge(folder, questions, url, model, key, at_once, progress)


def _judge(
    folder: RunFolder, questions: Mapping[str, Question], url: str, model: str, key: str | None, at_once: int,
    progress: Callable[[int, int], None] | None,
) -> dict[tuple[str, str], Verdict]:  # fmt: skip
    path = verdicts_file(folder, model)
    known = read(path)
    files.mend(path)
    asked = {(c.question, c.answer) for c in folder.chains if c.answer is not None and c.gold is not None}
    todo = sorted(asked - known.keys())
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with (
        httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=120) as client,
        ThreadPoolExecutor(at_once) as pool,
        path.open("ab") as file,
    ):

        def one(name: tuple[str, str]) -> tuple[Verdict, str]:
            question = questions[name[0]]
            text = PROMPT.format(question=question.messages[-1]["content"], gold=question.answer, answer=name[1])
            return _ask(client, model, text)

        try:
            for done, (name, (verdict, said)) in enumerate(zip(todo, pool.map(one, todo), strict=True), start=1):
                known[name] = verdict
                row = _Judged(question=name[0], answer=name[1], verdict=verdict, said=said)
                file.write(files.lines([row]))
                file.flush()
                if progress is not None:
                    progress(done, len(todo))
        except httpx.HTTPError as error:
            pool.shutdown(cancel_futures=True)
            said = first_line(error)
            if isinstance(error, httpx.HTTPStatusError):
                said = f"{error.response.status_code} {error.response.reason_phrase}: {error.response.text[:500]!r}"
            raise RuntimeFault(f"judge at {url}: {said}; verdicts that came are in {path}") from error
    return {name: known[name] for name in asked}


def verdicts_file(folder: RunFolder, model: str) -> Path:
    """Where a model's verdicts on a run are kept."""
    plain = "".join(c if c.isalnum() or c in ".-" else "-" for c in model)
    return folder.path / f"judge-{plain}-{hashlib.sha256(PROMPT.encode()).hexdigest()[:6]}.jsonl"


def read(path: Path) -> dict[tuple[str, str], Verdict]:
    """Verdicts on record; a last line that a crash has torn is left out.

    Raises:
        ConfigError: another line cannot be read; it is named.
    """
    return {(one.question, one.answer): one.verdict for one in files.parse(path, _Judged)}


def agreement(folder: RunFolder, verdicts: Mapping[tuple[str, str], Verdict]) -> Counter[tuple[bool, Verdict]]:
    """Chains by exact grade and verdict."""
    return Counter(
        (chain.correct, verdicts[chain.question, chain.answer])
        for chain in folder.chains
        if chain.answer is not None and (chain.question, chain.answer) in verdicts
    )


@tenacity.retry(
    retry=tenacity.retry_if_exception(
        lambda error: isinstance(error, httpx.TransportError)
        or (isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (429, 500, 502, 503, 504))
    ),
    stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_random_exponential(0.2, 8), reraise=True,
)  # fmt: skip
def _ask(client: httpx.Client, model: str, text: str) -> tuple[Verdict, str]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 512}
    response = client.post("/chat/completions", json=body)
    response.raise_for_status()
    try:
        said = str(response.json()["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RuntimeFault(f"judge at {client.base_url}: no chat completion but {response.text[:200]!r}") from error
    if "<think>" in said and "</think>" not in said:  # it was cut off before it had decided
        return "unclear", said
    words = [word.strip(".,!*: ").upper() for word in said.rpartition("</think>")[2].split()]
    found = [word for word in words if word in ("YES", "NO")]
    if len(set(found)) != 1:
        return "unclear", said
    return ("right" if found[0] == "YES" else "wrong"), said
