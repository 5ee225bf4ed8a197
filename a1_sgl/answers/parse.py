r"""Reading LaTeX as a value: plain fractions at once and exactly, everything else by latex2sympy2_extended.

Nothing is rounded: a decimal is the fraction that it writes.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

from a1_sgl.answers.arguments import applied

Value: TypeAlias = "Fraction | Any"
"""A fraction, or an expression of sympy, which is not imported here before it is needed."""


class Unreadable(ValueError):
    """It is no mathematics, or none that can be read."""


class TooLarge(ArithmeticError):
    """Working it out would take for ever."""


class NeedsAlgebra(Exception):
    """It is no plain fraction, and only those were to be read."""


_INT = r"\d+"
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_PLAIN = re.compile(rf"({_DECIMAL})")
_RATIO = re.compile(
    rf"\\frac ?\{{ ?([+-]?) ?({_DECIMAL}) ?\}} ?\{{ ?([+-]?) ?({_DECIMAL}) ?\}}|({_DECIMAL}) ?/ ?({_DECIMAL})"
)
_MIXED = re.compile(rf"({_INT}) ?\\frac ?\{{ ?({_INT}) ?\}} ?\{{ ?({_INT}) ?\}}|({_INT}) ({_INT}) ?/ ?({_INT})")
REPEATING = re.compile(
    r"(\d+)\.(\d*)(?:\\(?:overline|bar|dot|overdot) ?\{ ?(\d+) ?\}|\\(?:overline|bar|dot) ?(\d)|\((\d+)\)(?![\d(]))"
)
"""A decimal whose last digits go on for ever."""
_LONGEST = 4000
"""Digits of a number that is read without a time limit."""
_LARGEST_FACTORIAL = 20_000
_BITS = 2_000_000


def rational(latex: str) -> Fraction | None:
    r"""The fraction that is written: ``-7``, ``.5``, ``\frac{1}{2}``, ``3/4``, ``1 1/2``, ``1\frac{1}{2}``; else None.

    A mixed number has a proper fraction.
    """
    text, sign = latex.strip(), 1
    while text[:1] in ("-", "+"):
        sign, text = -sign if text[0] == "-" else sign, text[1:].strip()
    if text.startswith("(") and text.endswith(")") and "(" not in text[1:]:
        text = text[1:-1].strip()
        return None if (inner := rational(text)) is None else sign * inner
    if len(text) > _LONGEST:
        return None
    if _PLAIN.fullmatch(text):
        return sign * Fraction(text)
    if found := REPEATING.fullmatch(text):
        return sign * _repeating(found)
    if found := _RATIO.fullmatch(text):
        top, bottom = Fraction(found[2] or found[5]), Fraction(found[4] or found[6])
        minus = (found[1] == "-") != (found[3] == "-")
        return None if not bottom else sign * (-top if minus else top) / bottom
    if found := _MIXED.fullmatch(text):
        whole, top, bottom = (Fraction(a or b) for a, b in zip(found.groups()[:3], found.groups()[3:], strict=True))
        return None if not top < bottom else sign * (whole + top / bottom)
    return None


def plain(latex: str) -> Fraction:
    """What `rational` reads.

    Raises:
        NeedsAlgebra: nothing.
    """
    if (found := rational(latex)) is None:
        raise NeedsAlgebra
    return found


def _repeating(found: re.Match[str]) -> Fraction:
    whole, before, again = found[1], found[2], found[3] or found[4] or found[5]
    scale: int = 10 ** len(before)
    return Fraction(int(whole + before) * (10 ** len(again) - 1) + int(again), (10 ** len(again) - 1) * scale)


_REWRITES = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        # the parser takes 2(3) and 2\frac{x}{3} for sums
        (rf"(?<![\d.]){REPEATING.pattern}", lambda found: _fraction(_repeating(found))),
        (rf"(?<![\d.]){_MIXED.pattern}", lambda found: _mixed(found)),
        (r"(?<![\d.])(\d+) ?\\degree", r"(\1 \\cdot \\frac{\\pi}{180})"),
        (r"(?<![\d.\\A-Za-z])(\d*\.\d+|\d+\.(?!\d))", lambda found: _decimal(found[1])),
        (r"(?<![_^\d])(\d+) ?(?=\(|\\frac|\\binom|\\sqrt|\{)", r"\1 \\cdot "),
        (r"(?<!_\{\w)(?<!_\{\w\w)([)}]) ?(?=\d)", r"\1 \\cdot "),
        (r"\) ?(?=\()", r") \\cdot "),
        (r"(?<=\d)(/\d+) (?=[A-Za-z\\(])", r"\1 \\cdot "),
        (r"([A-Za-z]|\d+|\([^()]*\)) ?! ?(?=\^)", r"(\1!)"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\%", r" \\cdot \\frac{1}{100}"),
    )
)


@lru_cache(maxsize=4096)
def expression(latex: str) -> Value:
    r"""A plain fraction, or what latex2sympy makes of it with decimals as fractions.

    ``i`` is the imaginary unit where there is no other letter, ``e`` always Euler's number.

    Raises:
        Unreadable: it cannot be read as an expression.
        TooLarge: a power or factorial in it is.
    """
    if (found := rational(latex)) is not None:
        return found
    import sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    if re.search(r"\\text\{|\\ldots|(?<=\d) (?=\d)|\d ?_|\\to(?![A-Za-z])", latex):
        raise Unreadable(latex)
    if re.search("[=<>:;]", re.sub(r"\{[^{}]*\}", "", latex)):
        raise Unreadable(latex)
    text, doubles = _without_double_factorials(applied(latex))
    for pattern, to in _REWRITES:
        text = pattern.sub(to, text)
    try:
        read = latex2sympy(
            text, normalization_config=None,
            conversion_config=ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False),
        )  # fmt: skip
        read = sympy.sympify(read).xreplace({sympy.Symbol(name): value for name, value in doubles.items()})
        if _is_huge(read):
            raise TooLarge(f"a number of more than {_BITS:,} bits")
        read = read.doit()
    except (TooLarge, MemoryError, RecursionError):
        raise
    except Exception as error:  # whatever the parser raises at what is no mathematics
        raise Unreadable(latex) from error
    if not isinstance(read, sympy.Expr):
        raise Unreadable(latex)
    functions = {one: sympy.Symbol(str(one)) for one in read.atoms(sympy.core.function.AppliedUndef)}
    read = read.xreplace(functions)
    read = read.xreplace({one: sympy.Rational(str(one)) for one in read.atoms(sympy.Float)})
    if {symbol.name for symbol in read.free_symbols} == {"i"}:
        read = read.xreplace({symbol: sympy.I for symbol in read.free_symbols})
    read = read.replace(_is_odd_root, _real_root)
    if read.is_Rational:
        return Fraction(int(read.p), int(read.q))
    return read


_DOUBLE = re.compile(r"(\d+|[A-Za-z]|\([^()]*\)) ?!!(?!!)")


def _without_double_factorials(latex: str) -> tuple[str, dict[str, Any]]:
    """Names in their place, and what these stand for; the parser takes ``7!!`` for the factorial of one."""
    import sympy

    found: dict[str, Any] = {}

    def named(double: re.Match[str]) -> str:
        inner = expression(double[1])
        name = f"x_{{{900 + len(found)}}}"
        value = sympy.Rational(inner.numerator, inner.denominator) if isinstance(inner, Fraction) else inner
        found[name] = sympy.factorial2(value)
        return f" {name} "

    return _DOUBLE.sub(named, latex), found


def _is_odd_root(part: Any) -> bool:
    power = part.is_Pow and part.exp.is_Rational and part.exp.q > 1 and part.exp.q % 2 == 1
    return bool(power and part.base.is_negative)


def _real_root(part: Any) -> Any:
    """Of a negative number: ``\\sqrt[3]{-8}`` is -2."""
    root = (-part.base) ** part.exp
    return -root if part.exp.p % 2 else root


def _is_huge(read: Any) -> bool:
    import sympy

    for part in sympy.preorder_traversal(read):
        if isinstance(part, sympy.factorial) and _size(part.args[0]) > _LARGEST_FACTORIAL:
            return True
        if isinstance(part, sympy.Pow) and not part.free_symbols and _size(part.exp) * _bits(part.base) > _BITS:
            return True
    return False


def _size(read: Any) -> float:
    """About how large a number is, without working it out; 0 for what holds variables."""
    if read.is_Number:
        return abs(float(read)) if abs(read) < 10**300 else math.inf
    if read.is_Pow and not read.free_symbols:
        bits = _size(read.exp) * _bits(read.base)
        return 2.0**bits if bits < 1000 else math.inf
    return max((_size(one) for one in read.args), default=0.0)


def _bits(read: Any) -> float:
    return math.log2(max(2.0, _size(read)))


def _mixed(found: re.Match[str]) -> str:
    groups = found.groups()
    whole, top, bottom = (a or b for a, b in zip(groups[:3], groups[3:], strict=True))
    if int(top) >= int(bottom):
        return f"{whole} \\cdot \\frac{{{top}}}{{{bottom}}}" if groups[0] else found[0]
    return f"({whole}+\\frac{{{top}}}{{{bottom}}})"


def _decimal(text: str) -> str:
    return _fraction(Fraction(text.rstrip(".") if text.endswith(".") else text))


def _fraction(value: Fraction) -> str:
    return f"(\\frac{{{value.numerator}}}{{{value.denominator}}})" if value.denominator > 1 else str(value.numerator)
