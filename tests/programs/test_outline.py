"""What a file declares is read from its text, and says what the programs say of themselves."""

from pathlib import Path

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.programs import PROGRAMS
from a1_sgl.programs.contract import find_program
from a1_sgl.programs.outline import Outline, library, outlines, registered

EXAMPLES = Path(__file__).parents[2] / "examples"


def said(program):
    return Outline(program.name, program.about, tuple(program.own), program.takes_over, program.joint)


def test_the_library_is_as_its_programs_say():
    assert library() == [said(one) for one in PROGRAMS.values()]


def test_a_users_file_is_as_its_programs_say():
    file = EXAMPLES / "my_program.py"
    assert outlines(file) == [said(find_program(f"{file}:second_opinion"))]
    assert registered(EXAMPLES / "compose.py", "score") == ["median"]
    assert registered(EXAMPLES / "compose.py", "vote") == ["fewest-take-overs"]
    assert registered(EXAMPLES / "compose.py", "rate") == []


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(ConfigError, match=r"bad\.py:2 is no Python"):
        outlines(tmp_path / "bad.py")
    with pytest.raises(ConfigError, match="none.py cannot be read"):
        outlines(tmp_path / "none.py")


def test_a_program_is_found_by_its_name_whoever_imported_its_file_first():
    import a1_sgl.programs
    from a1_sgl.programs.a1 import redraw

    assert redraw
    assert a1_sgl.programs.a1 is PROGRAMS["a1"]
    assert "a1" in dir(a1_sgl.programs)
    with pytest.raises(AttributeError, match="has no attribute 'a2'"):
        _ = a1_sgl.programs.a2
