"""Values of expressions: whether two are equal, exactly, and one text for all that are."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from a1_sgl.answers.parse import Value

BITS = 4000
"""Irrational numbers that agree in so many are equal."""
WORKED_OUT = 20
"""Highest degree of polynomials that are."""
POINTS = 6
"""At so many points two expressions of variables have to agree."""


def equal(a: Value, b: Value) -> bool:
    """Whether two values are equal: fractions exactly, other numbers in 4,000 bits, what has variables at points."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    return _is_zero(_symbolic(a), _symbolic(b))


def near(a: Value, b: Value, tolerance: Fraction) -> bool:
    """Whether two numbers are no further apart than that; False for what is no real number."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return abs(a - b) <= tolerance
    mine, theirs = _symbolic(a), _symbolic(b)
    return bool(mine.is_comparable and theirs.is_comparable and abs(mine - theirs) <= _symbolic(tolerance))


def times(value: Value, factor: Fraction) -> Value:
    """Their product."""
    if isinstance(value, Fraction):
        return value * factor
    return value if factor == 1 else value * _symbolic(factor)


def minus(a: Value, b: Value) -> Any:
    """Their difference."""
    return _symbolic(a) - _symbolic(b)


def canonical(value: Value, factor: Fraction = Fraction(1)) -> str:
    """The same text for equal values: a fraction, 25 digits of another number, a quotient of small polynomials.

    Any other expression of variables is told by its values at some points.
    """
    value = times(value, factor)
    if isinstance(value, Fraction):
        return _written(value)
    import sympy

    symbols = sorted(value.free_symbols, key=str)
    if not symbols:
        return _digits(value)
    if value.is_rational_function(*symbols) and _degree(value) <= WORKED_OUT:
        return str(sympy.cancel(sympy.expand(value)))
    names = ", ".join(map(str, symbols))
    told = [_digits(one, 12) for point in _points(symbols, value) if (one := _at(value, point)) is not None]
    return f"a function of {names}: {', '.join(told)}"


def proportion(a: Any, b: Any) -> Fraction | None:
    """The number ``a / b`` where it is the same at all points; None where it is not, or irrational."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    ratios = set()
    for point in _points(symbols, a + b):
        up, down = _at(a, point), _at(b, point)
        if up is None or down is None:
            continue
        if (up == 0) != (down == 0):
            return None
        if up != 0:
            ratio = (up / down).evalf(20)
            if not ratio.is_real:
                return None
            ratios.add(str(ratio.evalf(15)))
    return Fraction(ratios.pop()) if len(ratios) == 1 else None


def _is_zero(a: Any, b: Any) -> bool:
    import sympy

    if a == b:
        return True
    if a.has(sympy.oo, sympy.zoo, sympy.nan) or b.has(sympy.oo, sympy.zoo, sympy.nan):
        return False
    gap = a - b
    symbols = sorted(gap.free_symbols, key=str)
    if not symbols:
        return _vanishes(gap)
    known = 0
    for point in _points(symbols, gap):
        if (value := _at(gap, point)) is not None:
            if not _vanishes(value):
                return False
            known += 1
    return known >= 3 or bool(sympy.simplify(gap) == 0)


def _vanishes(number: Any) -> bool:
    from sympy.core.evalf import evalf

    if number.is_Rational:
        return bool(number == 0)
    try:
        re_, im, re_accuracy, im_accuracy = evalf(number, 64, {"maxprec": BITS})
    except NotImplementedError:
        return False
    # What has no bits that are certain in so many is zero as far as they go.
    return bool((re_ is None or re_accuracy < 8) and (im is None or im_accuracy < 8))


def _at(value: Any, point: dict[Any, Any]) -> Any:
    """The value at a point; None where there is none."""
    import sympy

    found = value.subs(point).doit()
    return None if found.has(sympy.nan, sympy.zoo, sympy.oo) or found.free_symbols else found


def _points(symbols: Sequence[Any], value: Any) -> list[dict[Any, Any]]:
    """Fixed points, the same for the same variables; whole ones where functions of whole numbers are met."""
    import sympy

    whole = value.has(sympy.floor, sympy.ceiling, sympy.factorial, sympy.binomial, sympy.Mod, sympy.Sum) or any(
        power.base.is_negative for power in value.atoms(sympy.Pow)
    )
    found = []
    for i in range(POINTS):
        rng = random.Random(f"{i}/{'/'.join(map(str, symbols))}")
        if whole:
            found.append({symbol: sympy.Integer(rng.randint(3, 14)) for symbol in symbols})
        else:
            sign = -1 if i >= POINTS - 2 else 1
            found.append({one: sympy.Rational(sign * rng.randint(20, 99), rng.randint(11, 19)) for one in symbols})
    return found


def _degree(value: Any) -> float:
    """No less than that of a quotient of polynomials, above and below together, without working it out."""
    if value.is_Pow:
        return abs(float(value.exp)) * _degree(value.base) if value.exp.is_Number else 0.0
    if value.is_Symbol:
        return 1.0
    degrees = [_degree(one) for one in value.args]
    return sum(degrees) if value.is_Mul else max(degrees, default=0.0)


def _symbolic(value: Value) -> Any:
    import sympy

    return sympy.Rational(value.numerator, value.denominator) if isinstance(value, Fraction) else value


def _digits(value: Any, count: int = 25) -> str:
    found = value.evalf(count, maxn=BITS, chop=True)
    return str(found)


def _written(value: Fraction) -> str:
    bits = max(abs(value.numerator), value.denominator).bit_length()
    if bits < 400:
        return str(value)
    short = hashlib.sha256(f"{value.numerator:x}/{value.denominator:x}".encode()).hexdigest()[:16]
    return f"a fraction of {math.ceil(bits * math.log10(2))} digits, {short}"


def radians(value: Value) -> Any:
    """What so many degrees are."""
    import sympy

    return _symbolic(value) * sympy.pi / 180
