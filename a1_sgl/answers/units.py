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
cent: cent ¢
euro: euro €
degree: degree deg °
radian: rad radian
percent: percent
newton: newton N
joule: joule J
watt: watt W
volt: volt V
mph: mph
kelvin: K
celsius: C
fahrenheit: F
mole: mol
kilojoule: kJ
hertz: Hz
pascal: Pa
yen: yen ¥
am: a.m am
pm: p.m pm
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
    "quadrillion": Fraction(10**15), "lakh": Fraction(10**5), "crore": Fraction(10**7),
    "eleventh": Fraction(1, 11), "thirteenth": Fraction(1, 13), "fourteenth": Fraction(1, 14),
    "fifteenth": Fraction(1, 15), "sixteenth": Fraction(1, 16), "seventeenth": Fraction(1, 17),
    "eighteenth": Fraction(1, 18), "nineteenth": Fraction(1, 19), "twentieth": Fraction(1, 20),
    "thirtieth": Fraction(1, 30), "fortieth": Fraction(1, 40), "fiftieth": Fraction(1, 50),
    "sixtieth": Fraction(1, 60),
}  # fmt: skip
"""Words that multiply the number before them."""

CHANGING = _words("""
pi sqrt over less fewer than plus minus and or to from through between half twice double triple
thrice squared cubed base mod modulo factorial percentage gross greater least most about approximately not
undefined divided by multiplied power log ln sin cos tan if when where for all real is are
wrong below above under zero mille score
""")
"""Words that make of a number something else; what is said with them is no quantity."""

_BARE = _words("""
cm mm km m s g h L kg mg lb lbs oz ft yd mi in min sec hr hrs mph ml mL rad deg usd USD cent cents day days pm am
""")
"""Short names that are units without ``\\text``. Other letters beside a number are variables."""
_EMPTY = _words("a an the of un unit units each old -") | {""}
_JOINING = _words("per of a an the old in each sq sq. cu")
_VOWEL = re.compile("[aeiouy]", re.IGNORECASE)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


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


def are_units(words: list[str], apart: bool) -> bool:
    """Whether words beside a number, which stand ``apart`` from it or not, say what it counts, and are no variables."""
    if not apart:
        return len(words) == 1 and len(words[0]) > 1 and (words[0] in _BARE or _is_thing(words[0], known=True))
    telling = [word for word in words if word not in _JOINING]
    return bool(telling) and all(
        word in _BARE or _is_thing(word) or (len(word) == 3 and len(telling) > 1 and bool(_VOWEL.search(word)))
        for word in telling
    )


def _is_thing(word: str, known: bool = False) -> bool:
    """Whether it is a word of English rather than letters of a formula, by its looks; or one in the table."""
    low = word.lower()
    if _singular(low) in UNITS or (word in UNITS and len(word) > 1):
        return True
    return not known and len(word) > 3 and bool(_VOWEL.search(word)) and low not in _ALPHABET and word[1:].islower()


def scaled(words: list[str]) -> tuple[Fraction, list[str]]:
    """What the leading words multiply a number by, and the words that are left."""
    factor = Fraction(1)
    while words and (scale := SCALES.get(words[0].lower()) or SCALES.get(_singular(words[0].lower()))) is not None:
        factor *= scale
        words = words[1:]
    return factor, words[1:] if words and words[0].lower() == "of" and factor != 1 else words


def unit(words: list[str]) -> Unit | None:
    r"""What words count, with powers such as ``^2`` as words of their own; None where they are no unit."""
    powers: dict[str, int] = {}
    known, sign, next_power, last = True, 1, 1, None
    for word in words:
        low = word.lower().rstrip(".")
        if low == "mph":
            powers |= {"mile": 1, "hour": -1}
        elif low.startswith("^") and last is not None:
            powers[last] *= int(low[1:])
        elif low in ("squared", "cubed") and last is not None:
            powers[last] *= 2 if low == "squared" else 3
        elif low in CHANGING or low in SCALES or _singular(low) in SCALES:
            return None
        elif low in ("square", "sq", "cubic", "cu"):
            next_power = 2 if low in ("square", "sq") else 3
        elif low in ("per", "/"):
            sign = -1
        elif low in _EMPTY:
            continue
        else:
            last = UNITS.get(word) or (UNITS.get(low) or UNITS.get(_singular(low)) if len(low) > 1 else None)
            if last is None and (len(low) < 3 or not _VOWEL.search(low) or low in _ALPHABET):
                return None  # letters of a formula
            known, last = known and last is not None, last or _singular(low)
            powers[last] = powers.get(last, 0) + sign * next_power
            sign = next_power = 1
    return Unit(tuple(sorted(powers.items())), known)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
