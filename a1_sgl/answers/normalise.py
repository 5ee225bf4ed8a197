r"""One form for what is written in many: Unicode, LaTeX's spaces, sizes and wrappers, fractions, roots and signs.

What comes out is plain LaTeX: words stand in ``\text{...}`` and nowhere else do fonts, fractions and roots have their
braces, spaces are single blanks, degrees are ``\degree`` and percent is ``\%``. Nothing is compared here, and no number
changes its digits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from a1_sgl.answers.arguments import braced
from a1_sgl.answers.units import UNITS

_WRAPPED = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]|\*\*(.*)\*\*|\*(.*)\*", re.S)


def bare(answer: str) -> str:
    """An answer without the delimiters of mathematics around it, white space at its ends and a full stop."""
    text = answer.strip().strip('`"').strip().removesuffix(".").strip()
    text = text.strip("*").removesuffix(".").strip() if "**" in text else text
    while match := _WRAPPED.fullmatch(text):
        inner = next(group for group in match.groups() if group is not None)
        if "$" in inner:  # two formulas, not one in delimiters
            break
        text = inner.strip().removesuffix(".").strip()
    return text


# --- Unicode ------------------------------------------------------------------------------------------------------

_SIGNS = {
    "\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d": "-", "×·⋅∙•✕✖": "\\cdot ", "÷∕\u2044": "/", "∞": "\\infty ",
    "≤⩽≦": "\\le ", "≥⩾≧": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "∈": "\\in ", "∪": "\\cup ", "∩": "\\cap ",
    "∅⌀Ø": "\\emptyset ", "±": "\\pm ", "∓": "\\mp ", "°º˚": "\\degree ", "…⋯": "\\ldots ", "√": "\\sqrt ",
    "∛": "\\sqrt[3] ", "∜": "\\sqrt[4] ", "′’": "'", "¢": "\\text{ cents}", "∠": "\\angle ",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "→": "\\to ", "∨": "\\lor ", "％": "%",
    "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad": "", "“”„": '"', "ℝ": "\\mathbb{R}", 
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "∆": "\\Delta ", "∶": ":", "。": ".", "ϕ": "\\phi ",
    "⟨〈": "\\langle ", "⟩〉": "\\rangle ",
}  # fmt: skip
_UNICODE = {ord(sign): latex for signs, latex in _SIGNS.items() for sign in signs}
_GREEK = """
α:alpha β:beta γ:gamma δ:delta ε:epsilon ζ:zeta η:eta θ:theta ι:iota κ:kappa λ:lambda μ:mu ν:nu ξ:xi ο:omicron
π:pi ρ:rho ς:varsigma σ:sigma τ:tau υ:upsilon φ:phi χ:chi ψ:psi ω:omega Γ:Gamma Δ:Delta Θ:Theta Λ:Lambda Ξ:Xi
Π:Pi Σ:Sigma Φ:Phi Ψ:Psi Ω:Omega
"""
_UNICODE |= {ord(pair[0]): f"\\{pair[2:]} " for pair in _GREEK.split()}
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₙₖₘᵢⱼ]+")


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub("([²³⁴])√", lambda found: f"\\sqrt[{_folded(found[1])}]", text)
    text = _RAISED.sub(lambda found: "^{" + _folded(found[0]) + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + _folded(found[0]) + "}", text)
    text = "".join(map(_fraction, text)).translate(_UNICODE)
    return _folded(text)


def _fraction(char: str) -> str:
    if char.isascii() or not unicodedata.decomposition(char).startswith("<fraction>"):
        return char
    top, _, bottom = unicodedata.normalize("NFKC", char).partition("\u2044")
    return f"\\frac{{{top}}}{{{bottom}}}"


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-")


# --- LaTeX --------------------------------------------------------------------------------------------------------

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _rules(*rules: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), to) for pattern, to in rules)


def _apply(rules: tuple[Rule, ...]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        for pattern, to in rules:
            text = pattern.sub(to, text)
        return text

    return apply


_DELIMITERS = _rules(
    (r"(?<!\\)\\[()\[\]](?![^\\]*\\\\\[)", ""),
    (r"^(\s*-?)\$(?=\s*-?\.?\d[\d.,]*[^$]*$)", r"\1\\$"),  # one dollar sign before a number is money
    (r"(?<!\\)\$", " "),
    (r"\bUSD\b\s*|US\s*\\\$", r"\\$"),
)
_SPACES = _rules(  # and what only decorates
    (r"(?<!\\)\\!\s*", ""),
    (r"\{,\}", ","),
    (r",\s*\\[,;:]\s*(?=\d{3}(?!\d))", ","),
    (r"\\(?:begin|end)\{(?:aligned|align\*?|gathered|split|equation\*?|center)\}", " "),
    (r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|checkmark|blacksquare|square)(?![A-Za-z])", " "),
    (r"\\(?:textcolor|color)\s*\{[^{}]*\}", ""),
    (r"\\tag\*?\{[^{}]*\}", ""),
    (r"\\math(?:rm|bf|it|sf)\s+(?=[A-Za-z])", ""),
    (r"\\text\s+([A-Za-z])", r"\\text{\1}"),
    (r"&(?![\s\S]*\\end)", ""),
    (r"(?:\\\\\s*)+$", ""),
    (r"\{\}", ""),
    (r"(?<!\\)\\(?:[,;:> ]|(?:quad|qquad|thinspace|medspace|thickspace|enspace|nobreakspace|space)(?![A-Za-z]))", " "),
    (r"\\[hv]space\*?\{[^{}]*\}", " "),
    (r"~", " "),
)
_SIZES = _rules(
    (r"\\(?:left|right|middle)\s*\.", ""),
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\s*", ""),
    (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|sf|cal)(?![A-Za-z])\s*", ""),
    (r"\\lbrace(?![A-Za-z])", r"\\{"), (r"\\rbrace(?![A-Za-z])", r"\\}"), (r"\\l?r?vert(?![A-Za-z])", "|"),
    (r"\\lbrack(?![A-Za-z])", "["), (r"\\rbrack(?![A-Za-z])", "]"),
)  # fmt: skip
_WORDS = re.compile(r"\\(text|textrm|textbf|textit|textsf|texttt|textnormal|textup|emph|mbox|hbox|mathrm|mathbf|mathit"
                    r"|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb|operatorname\*?|underline|boxed|fbox|ensuremath)"
                    r"\s*\{")  # fmt: skip
_PROSE = frozenset(
    ["text", "textrm", "textbf", "textit", "textsf", "texttt", "textnormal", "textup", "emph", "mbox", "hbox"]
)

_PLAIN = frozenset(["underline", "ensuremath"])


def _wrappers(text: str) -> str:
    r"""Fonts go; what is words is ``\text{...}``, however it was wrapped."""
    out: list[str] = []
    stack: list[tuple[int, str]] = []  # where a group's content begins in `out`, and its command
    at = 0
    while at < len(text):
        if opened := _WORDS.match(text, at):
            stack.append((len(out), opened[1].rstrip("*")))
            at = opened.end()
            continue
        char = text[at]
        if char == "\\" and at + 1 < len(text):
            out.append(text[at : at + 2])
            at += 2
            continue
        at += 1
        if char == "{":
            stack.append((len(out), ""))
            out.append(char)
        elif char == "}" and stack:
            begin, command = stack.pop()
            if not command:
                out.append(char)
                continue
            inner = "".join(out[begin:])
            before = "".join(out[max(0, begin - 12) : begin])
            if command == "mathrm" and inner.strip() in UNITS and re.search(r"\d\s*$", before):
                out[begin:] = [f"\\text{{{inner}}}"]
                continue
            new = _unwrapped(command, inner)
            apart = " " if re.search(r"\\[A-Za-z]+$", before) and new[:1].isalpha() else ""
            out[begin:] = [apart + new]
        else:
            out.append(char)
    while stack:  # never closed: its words are as good as any
        begin, command = stack.pop()
        if command:
            out[begin:] = [_unwrapped(command, "".join(out[begin:]))]
    return "".join(out)


def _unwrapped(command: str, inner: str) -> str:
    if "\\text{" in inner:
        return inner
    if command in ("boxed", "fbox"):
        return f" {inner} "
    if command == "operatorname" or command.startswith("math"):
        if re.fullmatch(_FUNCTIONS, inner.strip()):
            return f"\\{inner.strip()} "
        if re.fullmatch(r"[A-Za-z]+(?: ?[/.] ?[A-Za-z]+|\^ ?\{? ?-?\d ?\}?| [A-Za-z]+)+", inner.strip()):
            return f"\\text{{{inner.replace('{', '').replace('}', '')}}}"
    if command in _PROSE:
        if counted := re.fullmatch(r"\s*(-?[\d.,]*\d)\s+([A-Za-z][^\d]*)", inner):
            return f"{counted[1]}\\text{{ {counted[2]}}}"
        words = bool(re.search(r"[A-Za-z]", inner)) and not re.search(r"\\[A-Za-z]", inner)
    else:
        words = command not in _PLAIN and bool(re.fullmatch(r"[A-Za-z .]*[A-Za-z]{2,}[A-Za-z .]*", inner))
    return f"\\text{{{inner.replace('{', '').replace('}', '')}}}" if words else inner


_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|gcd|lcm"
_MATHEMATICS = _rules(
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\{\s*([^{}\\]*)\\choose\s*([^{}\\]*)\}", r"\\binom{\1}{\2}"),
    (r"\{\s*([^{}\\]*)\\over(?![A-Za-z])\s*([^{}\\]*)\}", r"\\frac{\1}{\2}"),
    (r"\\ldots(?![A-Za-z])|\\c?dots(?![A-Za-z])|\\dotsc|\.\.\.+", r"\\ldots "),
    (r"\\leqslant(?![A-Za-z])|\\leqq?(?![A-Za-z])|<=|=<|\\le(?![A-Za-z])", r"\\le "),
    (r"\\geqslant(?![A-Za-z])|\\geqq?(?![A-Za-z])|>=|\\ge(?![A-Za-z])", r"\\ge "),
    (r"\\neq?(?![A-Za-z])|(?<![\d)}\]A-Za-z])!=|(?<=\s)!=", r"\\ne "),
    (r"\\lt(?![A-Za-z])", "<"), (r"\\gt(?![A-Za-z])", ">"),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\degree\s*\}|\^\s*\\degree", r"\\degree "),
    (r"\*\*", "^"), (r"\\(?:times|ast|cdotp)(?![A-Za-z])|\*", r"\\cdot "),
    (r"\\div(?![A-Za-z])", "/"),
    (r"(?<!\\)%", r"\\%"),
    (r"\\(?:varnothing|O)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"\\vee(?![A-Za-z])", r"\\lor "),
    (r"(?<![\\A-Za-z])sqrt\s*(?=[({\d])", r"\\sqrt"),
    (r"(?<![\\A-Za-z])(" + _FUNCTIONS + r")(?=[\s(^_\d\\{])", r"\\\1 "),
    (r"(?<=\d)[eE]([+-]?\d{1,3})(?![\d.A-Za-z])", r" \\cdot 10^{\1}"),
    (r"(?<=\d) ?[xX] ?(?=10 ?\^)", r" \\cdot "),
    (r"^([^{}]*\d)\^\{0\}$", r"\1\\degree "),
    (r"\\(?:mathbb ?\{? ?R ?\}?|R|Reals)(?![A-Za-z])", r"(-\\infty ,\\infty )"),
    (r"(?<![\\A-Za-z])(pi|infty)(?![A-Za-z])", r"\\\1 "),
    (r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),
    (r"(?<=[\d.)])\s*degrees?(?![A-Za-z])", r"\\degree "),
    (r"\+\s*(?=\\infty)", ""),
)  # fmt: skip
_TEXT = re.compile(r"\\text\{[^{}]*\}")  # whose words are left alone


def _mathematics(text: str) -> str:
    """Only what is not words."""
    words = _TEXT.findall(text)
    parts = _TEXT.split(text)
    for pattern, to in _MATHEMATICS:
        parts = [pattern.sub(to, part) for part in parts]
    return "".join(part + word for part, word in zip(parts, [*words, ""], strict=True))


_TIDY = _rules(
    (r"\\text\{\s*degrees?\s*\}", r"\\degree "),
    (r"\\text\{\s*percent\s*\}", r"\\%"),
    (r"(?i)\\text\{\s*(?:the )?(?:empty|null) set\s*\}|^\s*(?:the )?(?:empty|null) set\s*$", r"\\emptyset "),
    (r"\\text\{\s*\}", " "),
    (r"\s+", " "),
    (r"^[ .;,]+(?!\d)|(?<=[\s\S])[ ;,:]+$|(?<!\.)\.\s*$", ""),
)

STEPS: dict[str, Callable[[str], str]] = {
    "unicode": _unicode,
    "spaces": _apply(_SPACES),  # before the ends are stripped: a backslash needs its blank
    "delimiters": lambda text: _apply(_DELIMITERS)(bare(text)),
    "sizes": _apply(_SIZES),
    "wrappers": _wrappers,
    "mathematics": _mathematics,
    "arguments": braced,
    "tidy": lambda text: _apply(_TIDY)(text).strip(),
}
"""In order."""


def normalise(answer: str) -> str:
    """An answer in one form; time is linear in its length."""
    for step in STEPS.values():
        answer = step(answer)
    return answer
