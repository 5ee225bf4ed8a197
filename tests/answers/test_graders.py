"""What the graders hold of answers, kind by kind."""

import threading

import pytest

from a1_sgl import answers
from a1_sgl.answers import graders
from a1_sgl.answers.worker import WORKER
from a1_sgl.types import Question


def graded(grader, answer, gold, **meta):
    return answers.grade(grader, answer, Question(id="q", messages=(), answer=gold, meta=meta))


RIGHT = {
    "factorials": [("5!", "120"), ("\\frac{6!}{2!}", "360"), ("3!!", "720"), ("\\frac{100!}{2^{50}}", "\\frac{100!}{2^{50}}")],
    "huge": [("2^{20000}", "4^{10000}"), ("\\frac{1}{2006!}", "\\frac{1}{2006 \\cdot 2005!}"), ("10^{5000}", "10^{5000}")],
    "words that scale": [
        ("\\$5 \\text{ million}", "5000000"), ("3 \\text{ tenths}", "0.3"), ("5 million", "5{,}000{,}000"),
        ("2 dozen", "24"), ("\\frac{1}{2} \\text{ billion}", "500000000"), ("two thirds", "two thirds"),
        ("2 thirds", "\\frac23"), ("5 million dollars", "5 million"),
    ],
    "units": [
        ("12 \\text{ cm}", "12"), ("5~\\text{cm}", "5"), ("5 m^2", "5"), ("5 m", "5"), ("5cm", "5"), ("5 \\, \\mathrm{cm}^{2}", "5"),
        ("5 \\text{ square units}", "5"), ("12", "12 \\text{ cm}"), ("5.4", "5.4 \\text{ cents}"), ("6 Trinkets", "6"),
        ("864 \\text{ in}^2", "864 \\mbox{ inches}^2"), ("864 square inches", "864 \\mbox{ inches}^2"),
        ("5 \\text{ hours } 30 \\text{ minutes}", "5\\text{ hours and } 30\\text{ minutes}"), ("60 \\text{ km/h}", "60"),
        ("5\\ \\text{kilometers per hour}", "5"), ("\\frac{270}{7}^\\circ", "\\frac{270}7\\text{ degrees}"),
        ("12th grade", "12"), ("12^{\\mathrm{th}} \\text{ grade}", "12"), ("21^{st}", "21"), ("1,000 dollars", "1000"),
        ("\\$18.90", "18.9"), ("18.90 \\text{ dollars}", "\\$18.90"), ("USD 5", "5"), ("25 mph", "25"), ("7 days", "7"),
        ("5\\mathrm{~cm}", "5"), ("n \\text{ units}", "n"),
    ],
    "thousands": [
        ("2\\,000", "2000"), ("10 000", "10000"), ("x = 1,200", "1200"), ("1,234,567", "1234567"), ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
        ("1{,}234.50", "1234.5"), ("\\$32,\\!348", "32348"), ("2~000", "2000"), ("1,200 \\pi", "1200\\pi"), ("-1,200", "-1200"),
        ("100, 200", "100,200"), ("100,200", "100200"),
    ],
    "mixed numbers": [
        ("3 1/2", "3.5"), ("1\\frac{4}{5}", "1.8"), ("137 \\frac{1}{2}", "137.5"), ("-2\\frac13", "-\\frac73"), ("3½", "3.5"),
        ("3\\dfrac{1}{2}\\text{ cups}", "3.5"), ("2\\frac{x}{3}", "\\frac{2x}{3}"), ("3\\tfrac12\\pi", "\\frac{7\\pi}{2}"),
    ],
    "Unicode": [
        ("45°", "45"), ("(2,∞)", "(2,\\infty)"), ("√2", "\\sqrt{2}"), ("–5", "-5"), ("−5", "-5"), ("3√5", "3\\sqrt5"), ("x²+1", "x^2+1"),
        ("½", "0.5"), ("4π", "4\\pi"), ("2·3", "6"), ("2×10³", "2000"), ("x ≤ 3", "x \\leq 3"), ("(−∞, 0)∪(1, ∞)", "(-\\infty,0)\\cup(1,\\infty)"),
        ("α+β", "\\alpha+\\beta"), ("∛8", "2"), ("１２", "12"), ("a₁+1", "a_1+1"), ("5 cm²", "5"), ("\u200b7\u200b", "7"), ("1 ± √19", "1 \\pm \\sqrt{19}"),
        ("2⁻¹", "0.5"), ("√(x+1)", "\\sqrt{x+1}"), ("6 − 5i", "6-5i"),
    ],
    "exact": [("0.1+0.2", "0.3"), ("0.\\overline{3}", "0.\\overline{3}"), ("\\frac{1}{3}", "1/3"), ("0.33333333333333333333", "\\frac{33333333333333333333}{10^{20}}"),
        ("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5+2\\sqrt{6}}"), ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt2}{2}"), ("e^{i\\pi}", "-1"), ("(1+i)^2", "2i"),
        ("\\sin 30^\\circ", "\\frac12"), ("\\cos\\frac{\\pi}{5}", "\\frac{1+\\sqrt5}{4}"), ("\\log_2 8", "3"), ("\\binom{5}{2}", "10"),
        ("1.5 \\cdot 10^{3}", "1500"), ("1.5 \\times 10^3", "1500"), ("2.5^2", "6.25"), ("2 + 3 = 5", "5"), ("\\frac{-1}{2}", "-\\frac12"),
        ("\\frac{0.5}{2}", ".25"), ("\\tan 45^\\circ", "1"), ("2(3)", "6"), ("(2)(3)", "6"), ("\\frac{1}{4} n(n+1)", "\\frac{n^2+n}{4}"),
        ("\\left\\lfloor\\frac{7}{2}\\right\\rfloor", "3"), ("1/4 n(n+1)", "\\frac{n^2+n}{4}"),
    ],
    "percent": [("12.5\\%", "12.5"), ("12\\%", "12"), ("62.5", "62.5%"), ("0.625", "62.5%"), ("12 percent", "12\\%"), ("12.5%", "\\frac18"), ("8 \\%", "8\\%")],
    "degrees": [("90", "90^\\circ"), ("\\frac{\\pi}{2}", "90^\\circ"), ("90 \\text{ degrees}", "90^{\\circ}"), ("90°", "90")],
    "names": [
        ("n^2-n-1", "m_{\\max }=n^{2}-n-1"), ("5", "x=5"), ("x = 5", "5"), ("f(x)=2x", "2x"), ("f(n)=n+1", "f(x)=x+1"), ("y = 2x + 3", "2x+3"),
        ("2x - y + 3 = 0", "y = 2x + 3"), ("\\angle ABC = 30^\\circ", "30"), ("\\text{Area} = 5", "5"), ("x\\in[-2,7]", "[-2,7]"), ("-2 \\le x \\le 7", "x \\in [-2,7]"),
        ("k \\ge 2", "k \\geqslant 2"), ("2 \\le k", "k \\geqslant 2"), ("[2,\\infty)", "k \\geqslant 2"), ("x < 2 \\text{ or } x > 3", "(-\\infty,2)\\cup(3,\\infty)"),
        ("10x - 14y + 22z + 8 = 0", "5x - 7y + 11z + 4 = 0"), ("S_{ABC} = 7", "7"), ("x \\approx 3", "3"), ("AB = 7", "7"), ("(x,y)=(3,5)", "(3,5)"),
        ("7 = x", "7"), ("\\overline{AB} = 4", "4"), ("P(A) = \\frac12", "0.5"),
    ],
    "lists": [
        ("3,5", "5,3"), ("1 and -2", "-2,1"), ("1, -2", "1,-2"), ("\\{1,2\\}", "1,2"), ("x=1, x=2", "1,2"), ("x=1 \\text{ or } x=2", "2,1"), ("1;2", "1,2"),
        ("1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"), ("\\pm 2", "2, -2"), ("\\{-2, 1+\\sqrt5, 1-\\sqrt5\\}", "\\{1\\pm\\sqrt{5},-2\\}"),
        ("(1,2), (3,4)", "(3,4),(1,2)"), ("\\frac{-1 \\pm \\sqrt5}{2}", "\\frac{-1+\\sqrt5}{2}, \\frac{-1-\\sqrt5}{2}"), ("16,3,1,1", "1,16,1,3"),
        ("$69$,$84$", "84, 69"), ("\\{5\\}", "5"), ("x = 3, y = 5", "3, 5"), ("\\emptyset", "\\varnothing"), ("∅", "\\{\\}"),
        ("\\frac{1}{2},\\ \\frac{3}{4}", "0.75, 0.5"), ("1, 2, \\dots, n", "1,2,\\ldots,n"),
    ],
    "points and intervals": [
        ("(3, \\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)"), ("\\left(\\frac35,\\frac83\\right]", "(0.6, 8/3]"), ("(1,2)", "( 1 , 2 )"),
        ("(2,12) \\cup (12,102)", "(12,102)\\cup(2,12)"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}"),
        ("\\langle 1,2 \\rangle", "(1,2)"), ("\\begin{pmatrix} -0.2 \\\\ 0.5 \\end{pmatrix}", "\\begin{pmatrix} -1/5 \\\\ 1/2 \\end{pmatrix}"),
    ],
    "bases": [("(204)_5", "204_5"), ("204_{5}", "204_5"), ("204_{\\text{five}}", "204_5"), ("204", "204_5"), ("12342_8", "12342_{8}"), ("\\text{204}_5", "204_5")],
    "words": [
        ("\\text{016}", "16"), ("\\text{The answer is 460}", "460"), ("Evelyn", "\\text{Evelyn}"), ("\\textbf{Evelyn}", "Evelyn"), ("east", "\\text{east}"), ("East", "\\text{east}"),
        ("an ellipse", "\\text{ellipse}"), ("\\text{(C)}", "C"), ("(C)", "\\text{(C)}"), ("C", "\\text{(C)}"), ("p - q", "p-q"), ("\\mathrm{even}", "even"),
    ],
    "expressions": [
        ("x^2 + 2x + 1", "(x+1)^2"), ("\\sin^2 x", "1-\\cos^2 x"), ("2^{k-1}", "\\frac{2^k}{2}"), ("\\lfloor n/2 \\rfloor + 1", "\\left\\lfloor \\frac{n}{2}\\right\\rfloor+1"),
        ("m n-\\lfloor m / 2\\rfloor", "mn - \\left\\lfloor\\frac m2\\right\\rfloor"), ("\\frac{d !}{2 k(d-k) !}", "\\frac{d!}{2k(d-k)!}"), ("2RC+R+C", "C+R+2CR"), ("|x-1|", "\\lvert 1-x \\rvert"),
        ("\\sqrt{x^2}", "|x|"), ("n(n-1)", "n^2-n"), ("\\cot x", "\\frac{\\cos x}{\\sin x}"), ("\\sum_{i=1}^{n} i", "\\frac{n(n+1)}{2}"), ("\\binom{2n}{n}", "\\frac{(2n)!}{n!^2}"),
        ("\\ln 8", "3\\ln 2"), ("e^{2x}", "(e^x)^2"),
    ],
}  # fmt: skip
WRONG = {
    "factorials": [("5!", "5"), ("120!", "120"), ("x!", "x"), ("\\frac{1}{20!}", "\\frac{1}{21!}")],
    "huge": [("2^{20000}", "5"), ("\\frac{1}{2006!}", "\\frac{1}{2004!}"), ("10^{5000}", "10^{5001}"), ("9^{9^{9^{9^9}}}", "3"), ("(10^9)!", "1")],
    "letters": [("5xy", "5"), ("5x", "5"), ("5 x", "5"), ("5n", "5"), ("2k", "2"), ("5ab", "5"), ("3i", "3"), ("2\\pi", "2"), ("5 xy", "5"), ("2 n m", "2"), ("5e", "5")],
    "words that change the number": [
        ("3 \\text{ tenths}", "3"), ("\\$5 \\text{ million}", "5"), ("\\frac{1}{2} \\text{ million}", "\\frac{1}{2}"), ("12 million", "12"), ("5 dozen", "5"),
        ("5 less than x", "5"), ("5 more than 3", "5"), ("5 \\text{ or more}", "5"), ("5 percent of 3", "5"), ("at least 5", "5"), ("5 squared", "5"), ("3 hundredths", "3"),
        ("5 \\text{ times } 3", "5"), ("\\text{half of } 10", "10"), ("not 5", "5"),
    ],
    "two quantities": [("5\\text{ hours } 30 \\text{ minutes}", "5"), ("5\\text{ hours } 30 \\text{ minutes}", "30"), ("5 feet 3 inches", "5"), ("3 apples and 2 pears", "3")],
    "units": [("5 \\text{ m}", "5 \\text{ cm}"), ("5 \\text{ cm}^3", "5 \\text{ cm}^2"), ("11th grade", "12"), ("5 \\text{ cm}7", "5"), ("\\$5", "5 \\text{ cents}")],
    "thousands": [("2\\,000", "0"), ("2\\,000", "2"), ("1,200", "1"), ("1,2", "12"), ("1,20", "120"), ("(1,200)", "1200"), ("1,200", "200")],
    "mixed numbers": [("3 1/2", "2"), ("3\\frac12", "1.5"), ("3 1/2", "3"), ("3 1/2", "15.5"), ("1\\frac45", "\\frac45")],
    "tiny differences": [
        ("1-\\frac{1}{2^{60}}", "1-\\frac{1}{2^{61}}"), ("1-2^{-60}", "1"), ("\\sqrt{2}+10^{-40}", "\\sqrt2"), ("0.3333333333333333333", "\\frac13"), ("3.14159265358979323846", "\\pi"),
        ("0.000067", ".0000672"), ("\\sqrt2 - \\frac{\\sqrt3}{2^{300}}", "\\sqrt2 - \\frac{\\sqrt3}{2^{301}}"), ("10^{-20}", "0"), ("12345678901234567890", "12345678901234567891"),
        ("x + 10^{-30}", "x"),
    ],
    "percent": [("12\\%", "12.5\\%"), ("0.12", "12"), ("1200\\%", "1.2")],
    "letters keep their case": [("N=n+1", "N=n"), ("n", "N"), ("2rc", "2RC"), ("ab", "AB")],
    "names": [("x=5", "y=6"), ("x = 5", "y = 5"), ("5 = 7", "7"), ("x > 2", "x \\ge 2"), ("x < 2", "x > 2"), ("2x - y = 0", "y = 2x+3"), ("x^2 = 5", "5"), ("2x = 5", "5"), ("N(w)=n", "N(n)=n")],
    "lists": [
        ("1, 3, 5, \\ldots, 2n-1", "1, 2, \\ldots, n"), ("16,3,1", "16,3,1,1"), ("1,2,3", "1,2"), ("1,2", "1,2,3"), ("1", "1,2"), ("1,1", "1"), ("1,2,2", "1,1,2"), ("1 \\pm 2", "3"),
        ("x = 3, y = 5", "5, 3"), ("\\{1,2\\}", "\\{1,3\\}"), ("f(n)=n", "f(n)=n, g(n)=1"), ("5 \\text{ or } 6", "5"),
    ],
    "points and intervals": [
        ("(2, 1)", "(1, 2)"), ("[1,2]", "(1,2)"), ("(1,2]", "(1,2)"), ("(1,2)", "[1,2)"), ("(1,2,3)", "(1,2)"), ("(-\\infty,2)", "(-\\infty,2)\\cup(3,\\infty)"), ("(2,\\infty)", "(2,-\\infty)"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"), ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1&3\\end{pmatrix}"),
    ],
    "bases": [("204_6", "204_5"), ("54", "204_5"), ("12342_7", "12342_8")],
    "words": [("\\text{Evelyn}!", "Evelyn"), ("Evelynn", "\\text{Evelyn}"), ("\\text{not even}", "\\text{even}"), ("odd", "even"), ("", "3"), ("D", "\\text{(C)}"), ("\\text{no}", "\\text{yes}")],
    "unfinished": [("\\frac{", "3"), ("\\frac{1}{", "1"), ("3 +", "3"), ("(3", "3"), ("=", "3"), ("$$", "3"), ("\\", "3"), ("{", "3"), ("^2", "4"), ("_", "3"), ("3,,", "4")],
    "approximations": [("0.33", "\\frac{1}{3}"), ("3.14", "\\pi"), ("1.41", "\\sqrt2"), ("2.67", "\\frac83")],
    "expressions": [("\\sqrt{x^2}", "x"), ("x^2", "x^3"), ("\\frac{1}{x}", "x"), ("2^k", "2^{k+1}"), ("\\lfloor n/2 \\rfloor", "\\lceil n/2 \\rceil"), ("n^2", "n(n+1)"), ("x", "y"), ("5", "x")],
}  # fmt: skip


def pairs(table):
    return [pytest.param(*pair, id=f"{kind}: {pair[0]} | {pair[1]}") for kind, some in table.items() for pair in some]


@pytest.mark.parametrize(("answer", "gold"), pairs(RIGHT))
def test_equal_answers_are_right(answer, gold):
    grade = graded("math", answer, gold)
    assert grade.correct, (grade, answers.explain("math", answer, gold))
    assert graded("number", answer, gold) == grade


@pytest.mark.parametrize(("answer", "gold"), pairs(WRONG))
def test_other_answers_are_wrong(answer, gold):
    grade = graded("math", answer, gold)
    assert not grade.correct, (grade, answers.explain("math", answer, gold))
