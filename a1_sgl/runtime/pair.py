"""A draft and a target runtime as one backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSamplingParams

from a1_sgl.errors import ConfigError
from a1_sgl.runtime.endpoint import Endpoint
from a1_sgl.runtime.lanes import Lanes


class DraftTarget(BaseBackend):  # type: ignore[misc]
    """The backend of draft/target programs: ``a1.run(question=..., gate=..., backend=DraftTarget(draft, target))``.

    To a program that knows nothing of pairs it behaves like its draft. Chains of one program share `in_flight` lanes.
    """

    def __init__(self, draft: Endpoint, target: Endpoint, *, in_flight: int = 64) -> None:
        """
        Raises:
            ConfigError: both endpoints carry one name, so that records could not tell them apart.
        """
        super().__init__()
        if draft.name == target.name:
            raise ConfigError(f"draft and target are both named {draft.name!r}; give each its own name")
        self.draft, self.target = draft, target
        self.lanes = Lanes(in_flight)
        self.chat_template = draft.chat_template

    @classmethod
    def connect(cls, draft_url: str, target_url: str, *, in_flight: int = 64, timeout: float = 180.0) -> DraftTarget:
        """Connects to both runtimes; errors as in `Endpoint`."""
        return cls(
            Endpoint(draft_url, "draft", timeout=timeout, in_flight=in_flight),
            Endpoint(target_url, "target", timeout=timeout, in_flight=in_flight),
            in_flight=in_flight,
        )

    @property
    def same_tokenizer(self) -> bool:
        """Whether ids pass from one runtime to the other as they are."""
        return self.draft.tokenizer_key == self.target.tokenizer_key

    def abort(self) -> None:
        """Stops every call in flight on both runtimes."""
        self.draft.abort()
        self.target.abort()

    def close(self) -> None:
        """Gives connections and threads back."""
        self.lanes.close()
        self.draft.close()
        self.target.close()

    def __enter__(self) -> DraftTarget:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- SGLang's backend contract: the draft answers, a fork's common prefix is computed on both -------------

    def get_model_name(self) -> str:
        """The draft's."""
        return self.draft.model

    def flush_cache(self) -> None:
        """Empties both prefix caches."""
        self.draft.flush_cache()
        self.target.flush_cache()

    def commit_lazy_operations(self, s: StreamExecutor) -> None:
        """Computes the state's text on both runtimes."""
        self.draft.commit_lazy_operations(s)
        self.target.commit_lazy_operations(s)

    def generate(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> tuple[str, dict[str, Any]]:
        """The draft's."""
        return self.draft.generate(s, sampling_params)

    def generate_stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The draft's."""
        return self.draft.generate_stream(s, sampling_params)

    def select(
        self,
        s: StreamExecutor,
        choices: list[str],
        temperature: float,
        choices_method: ChoicesSamplingMethod | None = None,
    ) -> ChoicesDecision:
        """The draft's."""
        return self.draft.select(s, choices, temperature, choices_method)
