"""One SGLang runtime as a frontend-language backend: pooled, token-exact, and honest about errors."""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import tenacity
from huggingface_hub import snapshot_download
from safetensors import safe_open
from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.chat_template import get_chat_template_by_model_path
from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSamplingParams
from transformers import AutoConfig, AutoTokenizer

from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.runtime import chat
from a1_sgl.runtime.inflight import InFlight
from a1_sgl.runtime.lanes import Lanes
from a1_sgl.runtime.options import PLAIN, CallOptions
from a1_sgl.runtime.transcript import Transcript
from a1_sgl.types import Call, CallKind, Loss

# A connection that the server closed while idle fails before anything was processed, a runtime that restarts refuses
# for a moment, and an answer can get lost (seen on the CPU engine with 128 calls in flight: one call in thousands hung
# while the others went on). All are safe to repeat under a fresh request id, the old one being aborted.
_PASSING = (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.ReadTimeout)
_ATTEMPTS = 4
_WHOLE_CHARACTER = 3  # a UTF-8 character has at most four bytes, so at most three tokens of a torn one


class Endpoint(BaseBackend):  # type: ignore[misc]
    """A backend for ``@sgl.function`` programs, and the runtime client below `DraftTarget`.

    Unlike SGLang's own ``RuntimeEndpoint`` it sends token ids: what a runtime generated goes back to it unchanged, so
    the next call's prefix is a cache hit to the last token (see `Transcript`). Connections are pooled, calls have a
    timeout, and a failed call raises `RuntimeFault` with the runtime and the request. Stop strings stay in the text,
    since they stay in the ids.

    Safe to share between threads.
    """

    def __init__(
        self,
        url: str,
        name: str = "target",
        *,
        tokenizer: str | None = None,
        api_key: str | None = None,
        timeout: float = 180.0,
        in_flight: int = 64,
    ) -> None:
        """Connects and reads what the runtime serves.

        Args:
            url: where the runtime listens, ``http://host:port``.
            name: what to call it in errors and records, ``draft`` or ``target``.
            tokenizer: folder or hub name of its tokenizer; by default the one the runtime names.
            api_key: sent as a bearer token.
            timeout: seconds to wait for one answer before the call is repeated; at most four attempts.
            in_flight: how many chains of a program may run on it at once.

        Raises:
            ConfigError: a URL that is none, or a tokenizer that cannot be loaded.
            RuntimeFault: nothing answers there, or something that is no SGLang runtime for generation.
        """
        super().__init__()
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{name} runtime: {url!r} is not a URL; it must look like http://127.0.0.1:30000")
        self.url, self.name = url.rstrip("/"), name
        self.lanes = Lanes(in_flight)
        self._in_flight = InFlight()
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=10.0),
            # SGLang closes a connection that was idle for five seconds; giving it up earlier avoids the race.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=2 * in_flight, keepalive_expiry=3.0),
            trust_env=False,
        )
        self.info = self._json("GET", "/get_model_info")
        if not isinstance(self.info, dict) or "model_path" not in self.info:
            raise RuntimeFault(f"{self}: what answers there is no SGLang runtime (no model_path in /get_model_info)")
        if not self.info.get("is_generation", True):
            raise RuntimeFault(
                f"{self}: serves an embedding model, {self.info['model_path']}; a chain needs generation"
            )
        self.model: str = self.info["model_path"]
        path = tokenizer or self.info["tokenizer_path"]
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self}: its tokenizer {path!r} cannot be loaded here ({str(error).splitlines()[0]}); "
                "name a folder or hub model that this machine can read with tokenizer="
            ) from error
        self.vocabulary = _vocabulary(self.model, self.tokenizer)
        self.context = self._context()
        # What SGLang 0.5.23's scheduler admits: less than five tokens short of a request that fills all but one.
        self.longest_prompt = self.context - 7
        self.tokenizer_key = _tokenizer_key(self.tokenizer)
        self.key = f"{chat.key(self.tokenizer)}/{self.tokenizer_key}"
        self.chat_template = get_chat_template_by_model_path(self.model)

    def __str__(self) -> str:
        return f"{self.name} runtime {self.url}"

    # --- what programs and chains use -------------------------------------------------------------------------

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, without special tokens around it."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def prefill(self, ids: Sequence[int], options: CallOptions = PLAIN) -> Call:
        """Computes a prompt, so that what follows finds it in the prefix cache."""
        _, call = self._generate(ids, {"max_new_tokens": 0}, "prefill", options)
        return call

    def next_token(
        self, ids: Sequence[int], choices: Sequence[int], options: CallOptions = PLAIN
    ) -> tuple[list[float], Call]:
        """Log-probabilities of `choices` as the token after `ids`, at temperature 1: one prefill.

        Raises:
            RuntimeFault: the runtime gave none for one of them.
        """
        answer, call = self._generate(
            ids, {"max_new_tokens": 0}, "verify", options, return_logprob=True, token_ids_logprob=list(choices)
        )
        (entries,) = answer["meta_info"].get("output_token_ids_logprobs") or [()]
        values = {token: value for value, token, *_ in entries}
        if missing := [token for token in choices if values.get(token) is None]:
            raise RuntimeFault(f"{self}: no log-probability for token {missing[0]} as the next one")
        return [values[token] for token in choices], call

    def loss(self, prefix: Sequence[int], chunk: Sequence[int], options: CallOptions = PLAIN) -> tuple[Loss, Call]:
        """Scores `chunk` after `prefix` by teacher forcing: one prefill, nothing generated.

        Raises:
            ValueError: an empty prefix or chunk; there is nothing to condition on, or nothing to score.
            RuntimeFault: the runtime gave no log-probability for some token of the chunk.
        """
        if not prefix or not chunk:
            raise ValueError(f"a loss needs a prefix and a chunk, not {len(prefix)} and {len(chunk)} tokens")
        # The first position asked for comes back without a value, and the prefix cache is used up to it only; so the
        # last token of the prefix is asked for as well, and no more.
        start = len(prefix) - 1 + options.image_tokens.get(self.key, 0)
        answer, call = self._generate(
            [*prefix, *chunk], {"max_new_tokens": 0}, "verify", options, return_logprob=True, logprob_start_len=start
        )
        entries = (answer["meta_info"].get("input_token_logprobs") or [])[1:]
        values = [entry[0] for entry in entries]
        if len(values) != len(chunk) or any(value is None for value in values):
            raise RuntimeFault(
                f"{self}: asked for the log-probabilities of {len(chunk)} tokens, got "
                f"{sum(value is not None for value in values)}; does the runtime return input log-probabilities?"
            )
        return Loss(tuple(-value for value in values)), call

    def abort(self) -> None:
        """Stops every call in flight; each raises `ChainAborted`. Further calls raise it at once."""
        self._in_flight.stop()

    def abort_request(self, rid: str) -> None:
        """Stops one request; the runtime answers it with what it has so far."""
        try:
            self._http.post("/abort_request", json={"rid": rid}, timeout=5.0)
        except httpx.HTTPError:
            return  # a runtime that is gone has nothing in flight

    def close(self) -> None:
        """Gives connections and threads back."""
        self.lanes.close()
        self._http.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fingerprint(self) -> dict[str, str]:
        """What the runtime serves, for records: model, hash of its files, tokenizer and chat template."""
        return {
            "model": Path(self.model).name,
            "model_sha256": _model_hash(self.model),
            "tokenizer_sha256": self.tokenizer_key,
            "chat_template_sha256": chat.key(self.tokenizer),
        }

    def parameters(self) -> int | None:
        """How many parameters the model has, from the headers of its files; None where they are not on this machine."""
        return _parameters(self.model)

    # --- SGLang's backend contract ----------------------------------------------------------------------------

    def get_model_name(self) -> str:
        """The model's path or hub name."""
        return self.model

    def flush_cache(self) -> None:
        """Empties the prefix cache; the runtime refuses while requests run."""
        self._request("POST", "/flush_cache")

    def get_server_info(self) -> Any:
        """The runtime's own account of its settings."""
        return self._json("GET", "/server_info")

    def commit_lazy_operations(self, s: StreamExecutor) -> None:
        """SGLang asks for this before a fork: the common prefix is computed once."""
        transcript = Transcript.of(s)
        transcript.save(s)
        if ids := transcript.ids(self):
            self.prefill(ids, CallOptions.of(s))

    def generate(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> tuple[str, dict[str, Any]]:
        """Continues the state's text. ``meta_info`` gains ``output_ids`` (no end token), ``ended``, ``call``.

        A generation that one of the state's `CallOptions.scopes` stopped returns what it has, with ``stopped`` set.
        """
        *_, last = self._stream(s, sampling_params, stream=False)
        return last

    def generate_stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Like `generate`, in pieces of text as they come."""
        return self._stream(s, sampling_params, stream=True)

    def select(
        self,
        s: StreamExecutor,
        choices: list[str],
        temperature: float,
        choices_method: ChoicesSamplingMethod | None = None,
    ) -> ChoicesDecision:
        """Scores each choice after the state's text and lets `choices_method` decide, as ``sgl.select`` asks."""
        transcript = Transcript.of(s)
        transcript.save(s)
        prefix = transcript.ids(self)
        ids = [self.encode(choice) for choice in choices]
        losses = [self.loss(prefix, choice, CallOptions.of(s))[0] for choice in ids]
        entries = [
            [(-value, token, None) for value, token in zip(loss.values, choice, strict=True)]
            for loss, choice in zip(losses, ids, strict=True)
        ]
        assert choices_method is not None
        if choices_method.requires_unconditional_logprobs:
            raise ConfigError(f"{self}: choices method {type(choices_method).__name__} is not supported")
        return choices_method(
            choices=choices,
            normalized_prompt_logprobs=[-loss.mean for loss in losses],
            input_token_logprobs=entries,
            output_token_logprobs=[[] for _ in choices],
        )

    # --- requests ---------------------------------------------------------------------------------------------

    def _stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams, stream: bool
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        transcript = Transcript.of(s)
        prefix = transcript.ids(self)
        if not prefix:
            raise RuntimeFault(f"{self}: nothing to continue, the program's text is empty")
        params = {key: value for key, value in sampling_params.to_srt_kwargs().items() if value is not None}
        params |= {"skip_special_tokens": True, "no_stop_trim": True}
        extra = {
            key: value
            for key in ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs")
            if (value := getattr(sampling_params, key, None)) is not None
        }
        options = CallOptions.of(s)
        if s.images_:
            options = replace(options, images=(*options.images, *(data for _, data in s.images_)))
        if options.seed is not None:
            params["sampling_seed"] = options.seed
        answer: dict[str, Any] = {}
        call: Call | None = None
        said = ""
        for answer, call in (
            self._generate_stream(prefix, params, options, **extra)
            if stream
            else [self._generate(prefix, params, "decode", options, **extra)]
        ):
            if call is None:
                text = answer["text"]
                if not text.endswith("�") and len(text) > len(said):
                    yield text[len(said) :], answer["meta_info"]
                    said = text
        assert call is not None
        meta = answer["meta_info"]
        ids, text, ended = self._whole(answer)
        meta |= {"output_ids": ids, "ended": ended, "call": call, "stopped": _aborted(answer)}
        transcript.plus(text, {self.tokenizer_key: tuple(ids)}).save(s)
        yield text[len(said) :], meta

    def _whole(self, answer: dict[str, Any]) -> tuple[list[int], str, bool]:
        """Ids and text of an answer without the end token and without a character torn at the end."""
        ids, text, reason = list(answer["output_ids"]), answer["text"], answer["meta_info"]["finish_reason"]
        ended = reason["type"] == "stop" and not isinstance(reason.get("matched"), str)
        if ended and ids and ids[-1] == reason.get("matched"):
            ids.pop()
        if text.endswith("�") and not ended:
            for cut in range(1, min(_WHOLE_CHARACTER, len(ids) - 1) + 1):
                whole = self.tokenizer.decode(ids[:-cut], skip_special_tokens=True)
                if not whole.endswith("�"):
                    return ids[:-cut], whole, ended
        return ids, text, ended

    def _payload(
        self, ids: Sequence[int], params: dict[str, Any], options: CallOptions, extra: dict[str, Any]
    ) -> dict[str, Any]:
        # An id outside the vocabulary kills the server, so it is stopped here.
        if bad := [i for i in ids if not 0 <= i < self.vocabulary]:
            raise RuntimeFault(f"{self}: token id {bad[0]} is outside its vocabulary of {self.vocabulary}")
        images = {"image_data": list(options.images)} if options.images else {}
        return {"input_ids": list(ids), "sampling_params": params, **images, **extra}

    def _generate(
        self, ids: Sequence[int], params: dict[str, Any], kind: CallKind, options: CallOptions, **extra: Any
    ) -> tuple[dict[str, Any], Call]:
        payload = self._payload(ids, params, options, extra)
        started = time.time()
        answer = self._json("POST", "/generate", payload, options.scopes)
        return answer, self._call(answer, kind, started, options)

    def _generate_stream(
        self, ids: Sequence[int], params: dict[str, Any], options: CallOptions, **extra: Any
    ) -> Iterator[tuple[dict[str, Any], Call | None]]:
        payload = self._payload(ids, params, options, extra) | {"stream": True}
        rid, started, answer = self._new_rid(options.scopes), time.time(), None
        try:
            with self._http.stream("POST", "/generate", json=payload | {"rid": rid}) as response:
                if response.status_code != 200:
                    response.read()
                    self._raise(response, payload)
                for line in response.iter_lines():
                    if line.startswith("data:") and line != "data: [DONE]":
                        answer = json.loads(line[5:])
                        if "error" in answer:
                            raise RuntimeFault(f"{self}: {answer['error'].get('message', answer['error'])}")
                        yield answer, None
        except httpx.HTTPError as error:
            raise self._fault(error, "/generate") from error
        finally:
            self._forget(rid, options.scopes)
        if answer is None:
            raise RuntimeFault(f"{self}: an empty stream")
        yield answer, self._call(answer, "decode", started, options)

    def _call(self, answer: dict[str, Any], kind: CallKind, started: float, options: CallOptions) -> Call:
        meta = answer["meta_info"]
        call = Call(
            runtime=self.name,
            kind=kind,
            prompt_tokens=meta["prompt_tokens"],
            cached_tokens=meta["cached_tokens"],
            completion_tokens=meta["completion_tokens"],
            started=started,
            ended=time.time(),
        )
        if _aborted(answer):
            if not (self._in_flight.stopped or options.stopped):
                raise RuntimeFault(f"{self}: the runtime gave up: {meta['finish_reason'].get('message', 'aborted')}")
            if self._in_flight.stopped or kind != "decode":
                raise ChainAborted(f"{self}: stopped", call)
        return call

    def _json(
        self, method: str, path: str, payload: dict[str, Any] | None = None, scopes: tuple[InFlight, ...] = ()
    ) -> Any:
        response = self._request(method, path, payload, scopes)
        try:
            return response.json()
        except ValueError as error:
            raise RuntimeFault(f"{self}: {path} answered something that is not JSON: {response.text[:80]!r}") from error

    @tenacity.retry(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error.__cause__, _PASSING)),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=0.1, max=1.0),
        reraise=True,
    )
    def _request(
        self, method: str, path: str, payload: dict[str, Any] | None = None, scopes: tuple[InFlight, ...] = ()
    ) -> httpx.Response:
        rid = self._new_rid(scopes) if path == "/generate" else ""
        try:
            response = self._http.request(method, path, json=payload | {"rid": rid} if payload and rid else payload)
        except httpx.HTTPError as error:
            if rid and isinstance(error, httpx.ReadTimeout):
                self.abort_request(rid)
            self._stopped(scopes)
            raise self._fault(error, path) from error
        finally:
            self._forget(rid, scopes)
        if response.status_code != 200:
            self._stopped(scopes)
            self._raise(response, payload)
        return response

    def _stopped(self, scopes: tuple[InFlight, ...]) -> None:
        """A call that was stopped may fail in any way: one that still waited is answered with an error, for one."""
        if any(scope.stopped for scope in (self._in_flight, *scopes)):
            raise ChainAborted(f"{self}: stopped")

    def _new_rid(self, scopes: tuple[InFlight, ...]) -> str:
        rid = f"a1-{self.name}-{uuid.uuid4().hex}"
        try:
            for scope in (self._in_flight, *scopes):
                scope.add(rid, self)
        except ChainAborted:
            self._forget(rid, scopes)
            raise
        return rid

    def _forget(self, rid: str, scopes: tuple[InFlight, ...]) -> None:
        for scope in (self._in_flight, *scopes):
            scope.discard(rid)

    def _fault(self, error: httpx.HTTPError, path: str) -> RuntimeFault:
        if isinstance(error, httpx.TimeoutException):
            return RuntimeFault(f"{self}: {path} gave no answer within {self._http.timeout.read:g} s")
        return RuntimeFault(f"{self}: {path} failed ({type(error).__name__}: {error}); is the runtime up?")

    def _raise(self, response: httpx.Response, payload: dict[str, Any] | None) -> None:
        try:
            body = response.json()
            said = body["error"]["message"] if isinstance(body, dict) and "error" in body else str(body)
        except (ValueError, KeyError, TypeError):
            said = response.text[:200]
        tokens = f" ({len(payload['input_ids'])} prompt tokens)" if payload and "input_ids" in payload else ""
        raise RuntimeFault(f"{self}: {response.request.url.path} answered {response.status_code}{tokens}: {said}")

    def _context(self) -> int:
        """Longest sequence the runtime takes, in tokens."""
        try:
            return int(self._json("GET", "/v1/models")["data"][0]["max_model_len"])
        except (KeyError, IndexError, TypeError) as error:
            raise RuntimeFault(f"{self}: /v1/models names no max_model_len; is this an SGLang runtime?") from error


def _aborted(answer: dict[str, Any]) -> bool:
    reason = answer["meta_info"]["finish_reason"]
    return bool(reason) and reason["type"] == "abort"


def _tokenizer_key(tokenizer: Any) -> str:
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        # Padding and truncation are settings of a call, not of the vocabulary.
        described = json.dumps(state | {"padding": None, "truncation": None}, sort_keys=True)
    else:
        described = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _vocabulary(model: str, tokenizer: Any) -> int:
    """Rows of the model's embedding, from its configuration where this machine can read it."""
    try:
        return int(AutoConfig.from_pretrained(model).get_text_config().vocab_size)
    except (OSError, ValueError, AttributeError):
        return len(tokenizer)


def _parameters(model: str) -> int | None:
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model, allow_patterns=["*.safetensors"], local_files_only=True))
        except (OSError, ValueError):
            return None
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total or None


def _model_hash(model: str) -> str:
    """Hash of a local model's files: configuration in full, weights in full up to 64 MB, else by name and size."""
    folder, digest = Path(model), hashlib.sha256()
    if not folder.is_dir():
        return hashlib.sha256(model.encode()).hexdigest()[:16]
    for file in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        size = file.stat().st_size
        digest.update(f"{file.name}/{size}".encode())
        if size <= 64 << 20:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
