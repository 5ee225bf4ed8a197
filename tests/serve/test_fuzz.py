"""Whatever is sent, nothing is a 500: requests that the schema allows, and others."""

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from a1_sgl.serve import Service, Settings
from a1_sgl.serve.gate import Kind
from a1_sgl.serve.requests import ChatRequest, CompletionRequest, Options
from a1_sgl.serve.running import running
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine

from .conftest import steps

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def server():
    engines = (FakeEngine(steps, name=name, model=name, context=2000, remember=False) for name in ("draft", "target"))
    with Backend(Roles.pair(*engines)) as backend:
        service = Service(backend, Kind("marginal", 0.25), settings=Settings(chains=8, tokens=500, deadline=60))
        with running(service) as one, httpx.Client(base_url=one.url, timeout=60) as http:
            yield http


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_the_schema_allows_and_what_it_does_not(server, mode):
    """Not by schemathesis' own plugin, which does not know this pytest."""
    schema = schemathesis.openapi.from_url(f"{server.base_url}/openapi.json")
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) >= 7
    for operation in operations:

        @QUICK
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            case.call_and_validate(checks=[not_a_server_error])

        try:
            check()
        except Unsatisfiable:  # no request for it that the schema does not allow
            assert mode is GenerationMode.NEGATIVE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields})
OPTIONS = sorted({*Options.model_fields, "turns", "draft_tokens", "take_over", "score", "retries", "presample"})
MODELS = ["a1", "target", "draft", "self_consistency", "a1+best", "route", "dvts", "spec_reason", "budget_forcing"]


@QUICK
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions"]), st.sampled_from(MODELS),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    st.dictionaries(st.sampled_from(OPTIONS), JSON, max_size=2),
)  # fmt: skip
def test_fields_of_any_value(server, path, model, fields, options):
    """Near a request that is right, one or two fields are anything that JSON can say, and more."""
    right = {"prompt": "q"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "q"}]}
    body = json.dumps({"model": model, "a1": options, **right, **fields}).encode(errors="surrogatepass")
    answer = server.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    elif answer.headers["content-type"] == "application/json":
        assert answer.json()["choices"]
    else:
        assert answer.text.endswith("data: [DONE]\n\n")
