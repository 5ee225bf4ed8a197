"""Who plays which part."""

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.programs import direct
from a1_sgl.session import Backend, Role, Roles
from a1_sgl.testing import FakeEngine

DRAFT, TARGET, THIRD = FakeEngine(name="one"), FakeEngine(name="two"), FakeEngine(name="three")


def test_of_a_pair_the_target_verifies_and_takes_over():
    roles = Roles.pair(DRAFT, TARGET)
    assert (roles.writer.engine, roles.verifier.engine, roles.successor.engine) == (DRAFT, TARGET, TARGET)
    assert [role.name for role in roles.all] == ["draft", "target"]


def test_a_third_runtime_may_verify():
    roles = Roles.pair(DRAFT, TARGET, THIRD)
    assert (roles.verifier.engine, roles.successor.engine) == (THIRD, TARGET)
    assert [role.name for role in roles.all] == ["draft", "verifier", "target"]


def test_alone_nobody_takes_over():
    roles = Roles.alone(DRAFT, "draft")
    assert roles.writer is roles.verifier
    assert roles.successor is None
    assert [role.name for role in roles.all] == ["draft"]


def test_a_part_is_found_by_its_name():
    roles = Roles.pair(DRAFT, TARGET)
    assert roles.named("target").engine is TARGET
    with pytest.raises(ConfigError, match="no runtime plays the verifier; there is draft, target"):
        roles.named("verifier")


def test_two_runtimes_in_one_part_are_refused():
    with pytest.raises(ConfigError, match="two runtimes play one role, target"):
        Roles(Role("target", DRAFT), Role("target", TARGET))


def test_one_runtime_may_play_several_parts():
    backend = Backend(Roles.pair(DRAFT, DRAFT))
    assert [role.name for role in backend.roles.all] == ["draft", "target"]
    assert backend.engines == [DRAFT]


def test_one_part_of_a_pair_by_itself_shares_its_places():
    pair = Backend(Roles.pair(DRAFT, TARGET), in_flight=3, deadline=7.0)
    alone = pair.alone("draft")
    assert alone.engines == [DRAFT]
    assert [role.name for role in alone.roles.all] == ["draft"]
    assert (alone.admission, alone.scope, alone.deadline) == (pair.admission, pair.scope, 7.0)
    with pytest.raises(ConfigError, match="no runtime plays the judge"):
        pair.alone("judge")


def test_a_backend_of_no_roles_is_refused():
    with pytest.raises(ConfigError, match="a Backend has roles, such as"):
        Backend(FakeEngine())


def test_a_program_without_a_backend_says_what_one_is():
    with pytest.raises(ConfigError, match=r"a backend is a Backend, such as Backend.connect.*not None"):
        direct.run(question="1 + 1?")
