import threading

import pytest

from a1_sgl.answers import bare, boxes, final_answer, stated_answer
from a1_sgl.evals import grading
from a1_sgl.types import Question


def graded(grader, answer, gold, **meta):
    return grading.grade(grader, answer, Question(id="q", messages=(), answer=gold, meta=meta))


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("0.5", "\\frac{1}{2}", True),
        ("\\dfrac12", "\\frac{1}{2}", True),
        ("(3, \\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("x^2 + 2x + 1", "(x+1)^2", True),
        ("2, 1", "1,2", True),
        ("(2, 1)", "(1, 2)", False),
        ("5\\text{ cm}", "5", True),
        ("90", "90^\\circ", True),
        ("$\\frac{3}{4}$", "\\frac{3}{4}", True),
        ("12342_8", "12342_{8}", True),
        ("12342_7", "12342_8", False),
        ("\\text{Evelyn}", "Evelyn", True),
        ("0.33", "\\frac{1}{3}", False),
        ("", "3", False),
        ("\\frac{", "3", False),
        ("p - q", "p-q", True),
        ("12^{\\mathrm{th}} \\text{ grade}", "12", True),
        ("12th grade", "12", True),
        ("12\\, \\text{cm}", "12", True),
        ("11th grade", "12", False),
        ("0.000067", ".0000672", False),
        ("0.0000672", ".0000672", True),
        ("5.4", "5.4 \\text{ cents}", True),
        ("4π", "4\\pi", True),
        ("1 and -2", "-2,1", True),
        ("5", "x=5", True),
        ("2 \\pi", "2", False),
        ("2x", "2", False),
        ("3i", "3", False),
        ("12 million", "12", False),
        ("12 \\text{ million}", "12", False),
        ("5 less than x", "5", False),
        ("6 Trinkets", "6", True),
    ],
)
def test_mathematics(answer, gold, right):
    assert graded("math", answer, gold).correct is right


def test_a_tolerance_is_the_questions_own():
    assert not graded("math", "3.14", "\\pi").correct
    assert graded("math", "3.14", "\\pi", tolerance=0.01).correct
    assert not graded("math", "3.2", "\\pi", tolerance=0.01).correct


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("27", "27.0", True), ("$1,234", "1234", True), ("1{,}234.0", "1234", True), ("70,000", "70000", True),
        ("540 \\text{ meters}", "540", True), ("3", "3.1", False), ("\\frac{54}{2}", "27", True), ("nan", "27", False),
        ("1,2", "12", False), ("025", "25", True),
    ],
)  # fmt: skip
def test_numbers(answer, gold, right):
    assert graded("number", answer, gold).correct is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True), ("(b)", True), ("B. 12 m", True), ("\\text{B}", True), ("Option B", True), ("\\textbf{(B)}", True),
        ("The answer is B", True), ("\\boldsymbol{B}", True), ("B - 12 m", True), ("B, a metre", True),
        ("B, C", False), ("(B) and (C)", False), ("B) or A)", False), ("A", False), ("Both", False), ("BC", False),
        ("", False), ("12 m", False),
    ],
)  # fmt: skip
def test_choices(answer, right):
    assert graded("choice", answer, "B").correct is right


def test_no_answer_or_no_reference_is_wrong():
    assert not graded("math", None, "1").correct
    assert not graded("math", "1", None).correct


def test_equal_answers_have_one_key():
    keys = {graded("math", text, "7").key for text in ("0.5", "1/2", "\\frac{1}{2}", "\\dfrac12", "$\\frac12$")}
    assert len(keys) == 1
    assert graded("number", "27.0", "1").key == graded("number", "27", "1").key
    assert graded("choice", "(b)", "A").key == "B"
    for same in (("1200", "1200 dollars", "x=1200", "1,200.0"), ("1024", "2^{10}"), ("\\sqrt{8}", "2\\sqrt{2}")):
        assert len({graded("number", text, "7").key for text in same}) == 1, same
    assert len({graded("math", text, "7").key for text in ("(x+1)^2", "x^2+2x+1")}) == 1


def test_text_that_is_no_mathematics_is_told():
    grade = graded("math", "", "")
    assert (grade.correct, grade.note) == (True, "not read as mathematics")


def test_a_pathological_answer_costs_its_time_limit_and_nothing_else(monkeypatch):
    monkeypatch.setattr(grading, "SECONDS", 2.0)
    grade = graded("math", "9^{9^{9^{9^9}}}", "3")
    assert (grade.correct, grade.note) == (False, "comparison not finished within 2 s")
    monkeypatch.undo()
    assert graded("math", "0.5", "\\frac{1}{2}").correct  # the next one has a new worker
    assert "characters" in graded("math", "1+" * 5000 + "1", "5001").note


def test_grading_works_off_the_main_thread():
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(graded("math", f"{i}/7", f"\\frac{{{i}}}{{7}}").correct))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{\\left\\{ 1, 2 \\right.}", ["\\left\\{ 1, 2 \\right."]),
        ("\\boxed{ unclosed \\boxed{5}", ["5"]),
        ("\\fbox{3} \\boxed {4}", ["3", "4"]),
        ("<think>maybe \\boxed{1}</think> It is \\boxed{2}.", ["1", "2"]),
    ],
)
def test_boxes_survive_what_models_write(text, found):
    assert boxes(text) == found
    assert final_answer(text) == found[-1]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("$\\boxed{3}$, $\\boxed{5}$, and $\\boxed{7}$.", "3, 5, 7"),
        ("\\boxed{1} and \\boxed{-2}", "1, -2"),
        ("\\(\\boxed{1}\\) or \\(\\boxed{2}\\)", "1, 2"),
        ("\\boxed{5} and \\boxed{5}", "5"),
        ("\\boxed{5}. Wait, no. \\boxed{6}", "6"),
        ("\\boxed{5} \\boxed{6}", "6"),
    ],
)
def test_boxes_that_stand_together_are_one_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 42.", "42"),
        ("**Final Answer:** $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("The final answer is: **(B)**", "(B)"),
        ("<think>the answer is 3, or not</think> Hence the answer is 4.\n", "4"),
        ("<think>the answer is 3.</think> I do not know.", None),
        ("The answer is 3.5 m. The answer is \\boxed{7}.", "7"),
        ("no idea", None),
        ("The final answer is **7**.", "7"),
        ("put it within \\boxed{}.</think> The answer is 7.", "7"),
        ("The answer isn't known", None),
        ("\\boxed{" + "7" * 3000 + "}", None),
    ],
)
def test_an_answer_may_be_stated_without_a_box(text, answer):
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "inner"),
    [("$x$", "x"), ("\\(\\frac{1}{2}\\)", "\\frac{1}{2}"), (" **5**. ", "5"), ("$a$ and $b$", "$a$ and $b$"), ("", "")],
)
def test_bare(text, inner):
    assert bare(text) == inner


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{3}" + "\\quad" * 500 + " x \\boxed{5}", "5"),
        ("the answer is" + "\n" * 20_000, None),
        ("\\boxed{" * 3000, None),
        ("the answer is" + " " * 20_000 + "7", "7"),
        ("answer " * 20_000, None),
    ],
)
def test_loops_of_a_model_do_not_hold_up_a_run(text, answer):
    """Quadratic or exponential searching would take minutes here."""
    assert stated_answer(text) == answer
