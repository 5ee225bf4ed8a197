"""What every program is asked."""

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.session import Query
from a1_sgl.types import Question


def test_from_a_text_and_a_count():
    query = Query.of("What is 1 + 1?", 3)
    assert query.samples == (0, 1, 2)
    assert query.chains == 3
    assert query.question == Question.of("What is 1 + 1?")
    assert (query.vote, query.rate, query.seed, query.listener) == ("majority", None, None, None)


def test_from_a_question_and_numbers():
    question = Question(id="q", messages=())
    query = Query.of(question, [5, 2], vote="best", rate="own", seed=3)
    assert query.question is question
    assert query.samples == (5, 2)
    assert (query.vote, query.rate, query.seed) == ("best", "own", 3)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (0, "at least one chain, not 0"),
        (-2, "at least one chain, not -2"),
        ((), "at least one chain"),
        ((1, 1), "each once"),
        ((-1, 2), "numbered from 0"),
    ],
)
def test_chains_that_make_no_sense_are_refused(samples, why):
    with pytest.raises(ConfigError, match=why):
        Query.of("q", samples)


def test_an_unknown_vote_or_rate_is_refused_at_once():
    with pytest.raises(ValueError, match="unknown vote 'loudest'"):
        Query.of("q", 1, vote="loudest")
    with pytest.raises(ValueError, match="unknown rate 'luck'"):
        Query.of("q", 1, rate="luck")
