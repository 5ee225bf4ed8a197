"""Answers are found where they stand in a chain's text."""

import pytest

from a1_sgl.answers import bare, boxes, final_answer, stated_answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{\\left\\{ 1, 2 \\right.}", ["\\left\\{ 1, 2 \\right."]),
        ("\\boxed{ unclosed \\boxed{5}", ["5"]),
        ("\\fbox{3} \\boxed {4}", ["3", "4"]),
        ("<think>maybe \\boxed{1}</think> It is \\boxed{2}.", ["1", "2"]),
        ("\\boxed{\\boxed{5}}", ["\\boxed{5}"]),
        ("{ \\boxed{5}", ["5"]),
        ("} \\boxed{5} }", ["5"]),
        ("\\boxed{\\text{a {b} c}}", ["\\text{a {b} c}"]),
    ],
)
def test_boxes_survive_what_models_write(text, found):
    assert boxes(text) == found
    assert final_answer(text) == found[-1]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("$\\boxed{3}$, $\\boxed{5}$, and $\\boxed{7}$.", "3, 5, 7"), ("\\boxed{1} and \\boxed{-2}", "1, -2"),
        ("\\(\\boxed{1}\\) or \\(\\boxed{2}\\)", "1, 2"), ("\\boxed{5} and \\boxed{5}", "5"),
        ("\\boxed{5}. Wait, no. \\boxed{6}", "6"), ("\\boxed{5} \\boxed{6}", "6"),
        ("\\boxed{1},\\ \\boxed{2}", "1, 2"), ("\\boxed{1} \\text{ and } \\boxed{2}", "1, 2"),
        ("\\boxed{1}\\quad\\boxed{2}", "1, 2"), ("\\boxed{1} \\text{ or } \\boxed{2}", "1, 2"),
        ("\\boxed{1}\\ \\boxed{2}", "1, 2"), ("\\boxed{1}\n\n\\boxed{2}", "2"), ("\\boxed{1}, so \\boxed{2}", "2"),
    ],
)  # fmt: skip
def test_boxes_that_stand_together_are_one_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("so \\boxed 5", "5"), ("\\boxed 12.", "12"), ("\\boxed-5", "-5"), ("\\boxed x", "x"), ("\\boxed word", None)],
)
def test_a_box_may_lack_its_braces(text, answer):
    assert final_answer(text) == answer
    assert boxes(text) == []  # which may go on


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 42.", "42"), ("**Final Answer:** $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("The final answer is: **(B)**", "(B)"), ("no idea", None), ("The final answer is **7**.", "7"),
        ("<think>the answer is 3, or not</think> Hence the answer is 4.\n", "4"),
        ("<think>the answer is 3.</think> I do not know.", None),
        ("The answer is 3.5 m. The answer is \\boxed{7}.", "7"), ("The answer isn't known", None),
        ("put it within \\boxed{}.</think> The answer is 7.", "7"), ("\\boxed{" + "7" * 3000 + "}", None),
        ("ANSWER: B", "B"), ("The answer is 5. So, ANSWER = 6", "6"), ("Answer: 5\nanswer: 6", "6"),
        ("The answer is an integer, so the Answer: 10", "10"), ("*Answer*: *B*", "B"), ("**Answer: B**", "B"),
        ("The answer is 5.\n\nI double-checked: this answer is correct.", "5"), ("__Answer__: 5", "5"),
        ("The answer is 5. That answer is not wrong.", "5"), ("The answer is right.", None),
        ("The answer to this problem is 42.", "42"), ("the answer to part (a) is 3", "3"),
        ("The answer is 5, since 2 + 3 = 5.", "5"), ("The answer is 12 because it is even", "12"),
        ("**Final Answer**\n\n42", None), ("Final answer:\n\n42", "42"), ("Answer:\n$x = 5$", "x = 5"),
        ("The answers are 3 and 5.", "3 and 5"), ("The answer should be 7", "7"), ("the answer is therefore 8", "8"),
        ("<think>It is \\boxed{3}.</think> The answer is 4.", "4"), ("<think>\\boxed{3}</think> Done.", "3"),
        ("<think>\\boxed{3}</think> So \\boxed{4}.", "4"), ("The answer is 3.5 m.", "3.5 m"),
        ('The answer is\n\\[\n5\n\\]', '5'),
        ('Thus, the answer is:\n\n$$\n5\n$$', '5'),
        ('So the final answer is:\n\\[\n\\frac{1}{2}\n\\]', '\\frac{1}{2}'),
        ('The correct option is B', 'B'),
        ('Therefore, the correct option is (B).', '(B)'),
        ('The correct choice is (C).', '(C)'),
        ('The correct answer choice is B', 'B'),
        ('blah\n#### 42', '42'),
        ('### Final Answer\n\n5', '5'),
        ('The answer turns out to be 5.', '5'),
        ('The answer has to be 5.', '5'),
        ('$x=\\boxed{3}$ or $x=\\boxed{5}$', '3, 5'),
        ('**\\boxed{3}** and **\\boxed{5}**', '3, 5'),
        ('\\boxed\\frac{1}{2}', '\\frac{1}{2}'),
        ('The answer is 5. The answer is an integer.', '5'),
        ('The answer is 5. The answer is positive, as expected.', '5'),
        ('The answer is 5. Double-check the answer: yes.', '5'),
        ('The answer is 5 (since 2+3=5).', '5'),
        ('(Answer: 5)', '5'),
        ('`ANSWER: B`', 'B'),
        ('"ANSWER: B"', 'B'),
        ('The answer is 5, not 6.', '5'),
        ('The answer is definitely B.', 'B'),
        ('The answer is 5.</s>', '5'),
        ('The answer is __5__.', '5'),
        ("The answer is \\boxed{}.", None), ("The answer is below: 5", None), ("unanswered: 5", None),
    ],
)  # fmt: skip
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
        ("\\boxed{3}" + "\\quad" * 500 + " x \\boxed{5}", "5"), ("the answer is" + "\n" * 20_000, None),
        ("\\boxed{" * 200_000, None), ("the answer is" + " " * 20_000 + "7", "7"), ("answer " * 200_000, None),
        ("answer is not " * 50_000, None), ("{" * 500_000, None),
        ("answer: " * 50_000, "answer:"), ("\\boxed{5}, " * 50_000, "5"), ("*" * 200_000, None),
    ],
)  # fmt: skip
def test_loops_of_a_model_do_not_hold_up_a_run(text, answer):
    """Quadratic or exponential searching would take minutes here."""
    assert stated_answer(text) == answer
