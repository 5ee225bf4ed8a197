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
    """The same text for equal values: a fraction, 25 digits of another number, values at some points of a function."""
    value = times(value, factor)
    if isinstance(value, Fraction):
        return _written(value)
    symbols = sorted(value.free_symbols, key=str)
    if not symbols:
        return _number(value)
    told = fingerprint(value, symbols)
    if told and len(set(told)) == 1:
        return told[0]  # it does not depend on them
    return f"a function of {', '.join(map(str, symbols))}: {', '.join(told)}"


def fingerprint(value: Any, symbols: Sequence[Any]) -> list[str]:
    """Its values at fixed points, whole and broken ones."""
    points = _points(symbols, whole=True)[:4] + _points(symbols, whole=False)[-2:]
    return [_number(found) for point in points if (found := _at(value, point)) is not None]


def _number(value: Any) -> str:
    """A fraction where it is one, else 25 digits."""
    if value.is_Rational:
        return _written(Fraction(int(value.p), int(value.q)))
    if value.is_real:
        near_by = Fraction(str(value.evalf(40, maxn=BITS))).limit_denominator(10**6)
        if equal(value, near_by):
            return _written(near_by)
    return _digits(value)


def ratios(gap: Any, symbols: Sequence[Any]) -> list[str]:
    """Values at fixed points over the first that is not 0: the same for all multiples."""
    found = [one for point in _points(symbols, whole=True) if (one := _at(gap, point)) is not None]
    first = next((one for one in found if one != 0), None)
    return [] if first is None else [_number(one / first) for one in found]


def proportion(a: Any, b: Any) -> Fraction | None:
    """The number ``a / b`` where it is the same at all points; None where it is not, or irrational."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    ratios = set()
    for point in _points(symbols, _is_whole(a + b)):
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
    for point in _points(symbols, _is_whole(gap)):
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


def _is_whole(value: Any) -> bool:
    """Whether functions of whole numbers are met in it."""
    import sympy

    return (
        bool(value.has(sympy.floor, sympy.ceiling, sympy.factorial, sympy.factorial2, sympy.binomial, sympy.Mod))
        or bool(value.has(sympy.Sum))
        or any(power.base.is_negative for power in value.atoms(sympy.Pow))
    )


def _points(symbols: Sequence[Any], whole: bool) -> list[dict[Any, Any]]:
    """Fixed points, the same for the same variables; the last two of those that are not whole are negative."""
    import sympy

    found = []
    for i in range(POINTS):
        rng = random.Random(f"{i}/{'/'.join(map(str, symbols))}")
        if whole:
            found.append({symbol: sympy.Integer(rng.randint(3, 14)) for symbol in symbols})
        else:
            sign = -1 if i >= POINTS - 2 else 1
            found.append({one: sympy.Rational(sign * rng.randint(20, 99), rng.randint(11, 19)) for one in symbols})
    return found


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
