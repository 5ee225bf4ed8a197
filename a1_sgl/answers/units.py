"""Words after a number: units, which may be left out, and words that change the number, which may not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_NAMES = """
cm: cm centimeter centimetre
m: m meter metre
mm: mm millimeter millimetre
km: km kilometer kilometre
inch: in inch inches
foot: ft foot feet
yard: yd yard
mile: mi mile
second: s sec second
minute: min minute
hour: h hr hour
day: day
week: week wk
month: month
year: yr year
g: g gram gramme
kg: kg kilogram kilo
mg: mg milligram
pound: lb lbs pound
ounce: oz ounce
liter: liter litre L
ml: ml mL milliliter millilitre
gallon: gal gallon
dollar: dollar usd buck $
cent: cent
euro: euro
degree: degree deg °
radian: rad radian
percent: percent
newton: newton
joule: joule
watt: watt
volt: volt
mph: mph
"""


def _words(table: str) -> frozenset[str]:
    return frozenset(table.split())


UNITS: dict[str, str] = {}
"""Canonical name by each way to write a unit; a plural is as its singular."""
for _line in _NAMES.strip().splitlines():
    _name, _, _ways = _line.partition(":")
    UNITS |= {way: _name for way in _ways.split()}

SCALES: dict[str, Fraction] = {
    "hundred": Fraction(100), "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9),
    "trillion": Fraction(10**12), "dozen": Fraction(12), "half": Fraction(1, 2), "halves": Fraction(1, 2),
    "third": Fraction(1, 3), "quarter": Fraction(1, 4), "fourth": Fraction(1, 4), "fifth": Fraction(1, 5),
    "sixth": Fraction(1, 6), "seventh": Fraction(1, 7), "eighth": Fraction(1, 8), "ninth": Fraction(1, 9),
    "tenth": Fraction(1, 10), "twelfth": Fraction(1, 12), "hundredth": Fraction(1, 100),
    "thousandth": Fraction(1, 1000), "millionth": Fraction(1, 10**6), "billionth": Fraction(1, 10**9),
}  # fmt: skip
"""Words that multiply the number before them."""

CHANGING = _words("""
pi sqrt over less more fewer than times time plus minus and or to from through between half twice double triple
thrice squared cubed base mod modulo factorial percentage gross greater least most about approximately not
undefined divided by multiplied power log ln sin cos tan if when where for all real
""")
"""Words that make of a number something else; what is said with them is no quantity."""

_BARE = _words("""
cm mm km m s g h kg mg lb lbs oz ft yd mi in min sec hr hrs mph ml mL rad deg usd USD cent cents day days
""")
"""Short names that are units without ``\\text``. Other letters beside a number are variables."""
_WORD = re.compile(r"(?=[A-Za-z]*[aeiouy])[A-Za-z][a-z]{3,}")


@dataclass(frozen=True)
class Unit:
    """What a quantity is counted in: names with their powers, in order of name.

    Attributes:
        known: whether each is in the table; words that are not may well be two names of one thing.
    """

    powers: tuple[tuple[str, int], ...]
    known: bool

    def fits(self, other: Unit) -> bool:
        """Whether both may stand for one thing."""
        return self.powers == other.powers or not (self.known and other.known)

    def __str__(self) -> str:
        return " ".join(name if power == 1 else f"{name}^{power}" for name, power in self.powers)


def is_unit(letters: str, apart: bool) -> bool:
    """Whether letters beside a number, which stand ``apart`` from it or not, are a unit and not variables."""
    if letters in _BARE:
        return apart or len(letters) > 1
    return bool(_WORD.fullmatch(letters)) and (apart or _singular(letters.lower()) in UNITS)


def scaled(words: list[str]) -> tuple[Fraction, list[str]]:
    """What the leading words multiply a number by, and the words that are left."""
    factor = Fraction(1)
    while words and (scale := SCALES.get(words[0].lower()) or SCALES.get(_singular(words[0].lower()))) is not None:
        factor *= scale
        words = words[1:]
    return factor, words[1:] if words and words[0].lower() == "of" and factor != 1 else words


def unit(words: list[str]) -> Unit | None:
    r"""What words count, with powers such as ``^2`` as words of their own; None for words that change the number."""
    powers: dict[str, int] = {}
    known, sign, next_power, last = True, 1, 1, None
    for word in words:
        low = word.lower().rstrip(".")
        if low.startswith("^") and last is not None:
            powers[last] *= int(low[1:])
        elif low in ("squared", "cubed") and last is not None:
            powers[last] *= 2 if low == "squared" else 3
        elif low in CHANGING or low in SCALES or _singular(low) in SCALES:
            return None
        elif low in ("square", "sq", "cubic", "cu"):
            next_power = 2 if low in ("square", "sq") else 3
        elif low in ("per", "/"):
            sign = -1
        elif low in ("a", "an", "the", "of", "un", "unit", "units", "", "-"):
            continue
        else:
            last = UNITS.get(word) or UNITS.get(low) or UNITS.get(_singular(low))
            known, last = known and last is not None, last or _singular(low)
            powers[last] = powers.get(last, 0) + sign * next_power
            sign = next_power = 1
    return Unit(tuple(sorted(powers.items())), known)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
