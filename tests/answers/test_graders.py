"""What the graders hold of answers, kind by kind."""

import json
import threading
from pathlib import Path

import pytest
import yaml

from a1_sgl import answers
from a1_sgl.answers.graders import compared
from a1_sgl.answers.parse import expression, plain
from a1_sgl.types import Question

HERE = Path(__file__).parent
CASES = HERE.parents[2] / "shared/cases/answers.jsonl"


def graded(grader, answer, gold, **meta):
    return answers.grade(grader, answer, Question(id="q", messages=(), answer=gold, meta=meta))


def key(answer, grader="math"):
    return answers.key(grader, answer)


def pairs(name):
    table = yaml.safe_load((HERE / name).read_text())
    return [pytest.param(*pair, id=f"{kind}: {pair[0]} | {pair[1]}") for kind, some in table.items() for pair in some]


@pytest.mark.parametrize(("answer", "gold"), pairs("right.yaml"))
def test_equal_answers_are_right(answer, gold):
    grade = graded("math", answer, gold)
    assert grade.correct, (grade, answers.explain("math", answer, gold))
    assert grade.note is None
    assert graded("number", answer, gold) == grade


@pytest.mark.parametrize(("answer", "gold"), pairs("wrong.yaml"))
def test_other_answers_are_wrong(answer, gold):
    grade = graded("math", answer, gold)
    assert not grade.correct, (grade, answers.explain("math", answer, gold))


@pytest.mark.skipif(not CASES.exists(), reason="needs the cases of ../shared, which are not part of the project")
def test_inputs_that_once_failed():
    for case in map(json.loads, CASES.read_text().splitlines()):
        if case["case"] == "grade":
            assert graded(case["grader"], case["answer"], case["gold"]).correct is case["right"], case
        elif case["case"] == "same":
            assert len({graded("math", one, case["gold"]).key for one in case["answers"]}) == 1, case
        else:
            assert answers.stated_answer(case["output"]) == case["answer"], case


def test_a_tolerance_is_the_questions_own():
    assert not graded("math", "3.14", "\\pi").correct
    assert graded("math", "3.14", "\\pi", tolerance=0.01).correct
    assert not graded("math", "3.2", "\\pi", tolerance=0.01).correct
    assert graded("math", "3.14, 2", "2, \\pi", tolerance=0.01).correct
    assert graded("math", "0.305", "0.3", tolerance=0.005).correct  # as decimals, not as binary fractions
    assert not graded("math", "x + 0.001", "x", tolerance=0.01).correct


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("(b)", "B"), ("B. 12 m", "B"), ("\\text{B}", "B"), ("Option B", "B"), ("\\textbf{(B)}", "B"),
        ("The answer is B", "B"), ("\\boldsymbol{B}", "B"), ("B - 12 m", "B"), ("B, a metre", "B"), ("{B}", "B"),
        ("\\textbf{\\text{(B)}}", "B"), ("\\text{The correct answer is (B)}", "B"), ("B – a metre", "B"), ("[B]", "B"),
        ("B) D-glucose", "B"), ("**B**", "B"), ("$\\mathrm{B}$", "B"), ("\\text{B: both}", "B"), ("b", "B"),
        ("Option (B) is correct", "B"), ("\\boxed{B}", "B"), ("\\mathbf{(B)}\\ 12", "B"), ("choice B.", "B"),
        ("B.\\ \\text{a metre}", "B"), ("A. C-14", "A"), ("(D) none of these", "D"), ("I choose C", "C"),
        ('**B** - 12', 'B'),
        ('**B**: 12', 'B'),
        ('**(B)** 12', 'B'),
        ('The answer is b', 'B'),
        ('option b', 'B'),
        ('answer: b', 'B'),
        ('(B)12', 'B'),
        ('\\textbf{(B)}12', 'B'),
        ('(B) A', 'B'),
        ('\\textbf{(B) } A', 'B'),
        ('B = 12', 'B'),
        ('B\n12', 'B'),
        ('`B`', 'B'),
        ('"B"', 'B'),
        ('A is incorrect', None),
        ('A is not correct', None),
        ('(A) is false', None),
        ('A - B', None),
        ("B, C", None), ("(B) and (C)", None), ("B) or A)", None), ("Both", None), ("BC", None), ("", None),
        ("12 m", None), ("C-14", None), ("A(x)", None), ("B-cells", None), ("a metre", None), ("A metre", None),
        ("D-glucose", None), ("B_2", None), ("B^2", None), ("A/B", None), ("B'", None), ("E = mc^2", None),
        ("A + B", None), ("B12", None), ("(A, B)", None), ("K", None), ("A & B", None),
    ],
)  # fmt: skip
def test_choices(answer, letter):
    assert graded("choice", answer, letter or "B").correct is (letter is not None)
    assert key(answer, "choice") == (letter or answer.strip())


def test_no_answer_or_no_reference_is_wrong():
    assert not graded("math", None, "1").correct
    assert not graded("math", "1", None).correct


@pytest.mark.parametrize(
    "equal",
    [
        ("0.5", "1/2", "\\frac{1}{2}", "\\dfrac12", "$\\frac12$", "x = 0.5", "½", "0.50"),
        ("27.0", "27", "27 \\text{ cm}", "27\\%", "027"),
        ("1200", "1200 dollars", "x=1200", "1,200.0", "1\\,200"),
        ("1024", "2^{10}", "4^5"),
        ("\\sqrt{8}", "2\\sqrt{2}", "\\frac{4}{\\sqrt2}"),
        ("(x+1)^2", "x^2+2x+1", "1 + x(x+2)"),
        ("\\sin^2 x", "1-\\cos^2 x"),
        ("2^{k-1}", "\\frac{2^k}{2}"),
        ("3, 5", "5,3", "\\{3,5\\}", "x=3 \\text{ or } x=5"),
        ("(1, 0.5)", "\\left(1,\\frac12\\right)"),
        ("x \\ge 2", "[2,\\infty)", "x \\in [2, \\infty)"),
        ("\\text{Evelyn}", "Evelyn", "evelyn"),
        ("204_5", "(204)_5", "204_{five}"),
        ("10^{5000}", "100^{2500}"),
        ("\\sqrt2+\\sqrt3", "\\sqrt{5+2\\sqrt6}"),
        ("\\cos\\frac{2\\pi}{7}+\\cos\\frac{4\\pi}{7}+\\cos\\frac{6\\pi}{7}", "-\\frac12"),
        ("\\frac{\\ln 8}{\\ln 2}", "3"),
        ("\\sqrt{7+4\\sqrt3}+\\sqrt{7-4\\sqrt3}", "4"),
        ("\\sin^2 x+\\cos^2 x", "1"),
        ("\\binom{n}{2}", "\\frac{n(n-1)}{2}"),
        ("x+y=3", "y+x=3", "2x+2y=6"),
        ("x^2+y^2=1", "1=x^2+y^2"),
        ("1+2=3", "3"),
        ("f(x)=x+1", "f(n)=n+1"),
        ("(1,2)", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        ("2+3i", "3i+2"),
    ],
)
def test_equal_answers_have_one_key(equal):
    assert len({key(text) for text in equal}) == 1, {text: key(text) for text in equal}


def test_other_answers_have_other_keys():
    texts = [
        "5", "5!", "5x", "5xy", "(5)!", "0.5", "5, 5", "(5, 5)", "[5, 5)", "204_5", "204_6", "204", "\\sqrt5", "x=5y",
        "Evelyn", "2.2360679774997896964", "10^{5000}", "10^{5001}", "5 \\text{ million}", "-5", "x", "X",
        "\\frac{1}{5",
    ]  # fmt: skip
    assert len({key(text) for text in texts}) == len(texts) - 1  # 5! and (5)!


def test_what_an_algebra_system_raises_is_a_note(monkeypatch):
    grade = graded("math", "9^{9^{9^{9^9}}}", "3")
    assert (grade.correct, grade.note) == (
        False, "could not be compared: TooLarge: a number of more than 2,000,000 bits"
    )  # fmt: skip
    assert graded("math", "(10^9)!", "(10^9)!").correct
    assert "characters" in graded("math", "1+" * 5000 + "1", "5001").note
    assert graded("math", "1+" * 90 + "1", "91").correct


def test_grading_works_off_the_main_thread():
    found = []

    def work(i):
        found.append(graded("math", f"\\sqrt{{{i + 2}}}/7", f"\\frac{{\\sqrt{{{i + 2}}}}}{{7}}").correct)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


@pytest.mark.parametrize(
    ("answer", "gold"), [("1,200", "1200"), ("3 1/2", "3.5"), ("(2, 0.5)", "(2, 1/2)"), ("x = 5", "6")]
)
def test_plain_numbers_need_no_algebra(answer, gold):
    assert compared(plain, answer, gold, None) == compared(expression, answer, gold, None)


def test_every_stage_is_explained():
    rows = answers.explain("math", "x = 1\\,200 \\text{ cm}", "1200")
    assert [name for name, _, _ in rows] == ["as written", "normalised: spaces", "split", "key", "verdict"]
    assert rows[1][1] == "x = 1 200 \\text{ cm}"
    assert rows[2][1:] == ("named x: 1200, counted in cm", "1200")
    assert rows[-2:] == [("key", "1200", "1200"), ("verdict", "right", "")]
    assert answers.explain("choice", "(b)", "B")[-1] == ("verdict", "right", "")
