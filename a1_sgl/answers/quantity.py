"""Numbers and expressions with what is said after them: units, words that scale, percent, a base."""

from __future__ import annotations

import re

from a1_sgl.answers import units
from a1_sgl.answers.nodes import Compound, Node, Quantity, Words
from a1_sgl.answers.units import Unit

GROUP = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,]|\.\d*,)")
"""A number whose commas separate thousands."""
_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|\^ ?\{ ?-?\d ?\}|\^ ?\d(?!\d)|[A-Za-z]+|\d+(?:\.\d+)?|\s+|.", re.S
)
_BASE = re.compile(
    r"\(?([0-9A-Fa-f]+)\)?(?:_ ?\{? ?(?:\\text\{)?(?:base )?([a-z]+|\d{1,2})\}? ?\}?"
    r"| ?\\text\{ ?(?:in )?base ([a-z]+|\d{1,2}) ?\})"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
          "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip
_ORDINAL = re.compile(r"(\d) ?(?:\^ ?\{? ?)?(?:\\text\{ ?)?(?:st|nd|rd|th)(?![A-Za-z])( ?\}){0,2}")
_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_MONEY = re.compile(r"^(-?) ?(?:\\\$|£) ?")


def quantity(text: str, grouped: bool = True) -> Node:
    """A number or an expression with its unit, its words and its base."""
    if based := _BASE.fullmatch(text):
        name = based[2] or based[3]
        number = _BASES.get(name) or (int(name) if name.isdigit() else None)
        if number is not None and 2 <= number <= 36:
            return Quantity(based[1].lstrip("0") or "0", base=number)
    text = re.sub(r"^([A-Za-z]+(?:_\{?\w+\}?)?) ?: ?(?=[\d\\(-])", "", text)
    money = _MONEY.match(text)
    value = _ORDINAL.sub(r"\1", _MONEY.sub(r"\1", text) if money else text)
    tokens = _TOKEN.findall(value)
    end, words, percent = _tail(tokens)
    value = "".join(tokens[:end]).strip()
    factor, words = units.scaled(words)
    unit = units.unit(words) if words else None
    if (words and unit is None) or not value or value in "+-":
        return Words(text)
    if money and unit is None:
        unit = Unit((("dollar", 1),), True)
    unit = None if unit is not None and not unit.powers else unit
    if unit is not None and unit.powers == (("percent", 1),):
        unit, percent = None, True
    if "\\text{" in value:
        return _compound(value, "".join(tokens[end:])) or Words(text)
    latex = re.sub(r"(?<![\d.])(\d{1,3})((?: \d{3})+)(?![\d])", lambda found: found[0].replace(" ", ""), value)
    commas = bool(grouped and GROUP.search(latex))
    if commas:
        latex = GROUP.sub(lambda found: found[0].replace(",", ""), latex)
    return Quantity(latex, factor, unit, percent, grouped=commas)


def _tail(tokens: list[str]) -> tuple[int, list[str], bool]:
    """Where a quantity's number ends, the words after it, and whether it is in percent."""
    end, percent = len(tokens), False
    words: list[str] = []
    while end > 0:
        token = tokens[end - 1]
        if token.isspace():
            end -= 1
        elif token == "\\%":
            end, percent = end - 1, True
        elif token == "\\degree" and not _ANGLE.search("".join(tokens[:end])):
            end, words = end - 1, ["degree", *words]
        elif token.startswith("\\text{"):
            end, words = end - 1, [*_wordlist(token[6:-1]), *words]
        elif token[0] == "^" and end > 1 and _counts(tokens, end - 2):
            end, words = end - 1, ["^" + re.sub(r"[^\d-]", "", token), *words]
        elif token == "/" and words and words[0] not in ("/", "per") and end > 1 and _counts(tokens, end - 2):
            end, words = end - 1, ["/", *words]
        elif token.isalpha() and _counts(tokens, end - 1):
            end, words = end - 1, [token, *words]
        else:
            break
    number = "".join(tokens[:end]).strip()
    return (end, words, percent) if number else (len(tokens), [], False)


def _counts(tokens: list[str], at: int) -> bool:
    token = tokens[at]
    if token.startswith("\\text{"):
        return True
    if token.isspace():
        return at > 0 and _counts(tokens, at - 1)
    before = next((one for one in reversed(tokens[:at]) if not one.isspace()), "")
    numeric = any(any(c.isdigit() for c in one) or one == "\\pi" for one in tokens[:at])
    return token.isalpha() and numeric and bool(before) and units.is_unit(token, tokens[at - 1].isspace())


def _wordlist(text: str) -> list[str]:
    return re.findall(r"[A-Za-z$°'.-]+|/|\^-?\d", text.replace("-", " "))


_PART = re.compile(r"\s*(-?[\d.,]+|\\frac\{\d+\}\{\d+\})\s*(\\text\{[^{}]*\})")


def _compound(value: str, tail: str) -> Compound | None:
    items, at, text = [], 0, value + tail
    text = re.sub(r"\\text\{([^{}]*?),? and \}", r"\\text{\1}", text)
    while at < len(text) and (found := _PART.match(text, at)):
        one = quantity(found[0].strip())
        if not isinstance(one, Quantity):
            return None
        items.append(one)
        at = found.end()
    return Compound(tuple(items)) if len(items) > 1 and not text[at:].strip(" .,") else None
