"""Numbers and expressions with what is said after them: units, words that scale, percent, a base."""

from __future__ import annotations

import re

from a1_sgl.answers import units
from a1_sgl.answers.nodes import Compound, Node, Quantity, Words
from a1_sgl.answers.units import Unit

GROUP = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d|\.\d*,)")
"""A number whose commas separate thousands."""
_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|\^ ?\{ ?-?\d ?\}|\^ ?\d(?!\d)|[A-Za-z]+|\d+(?:\.\d+)?|\s+|.", re.S
)
_BASE = re.compile(
    r"[({]*([0-9A-Fa-f]+(?:,[0-9]{3})*)[)}]*(?:_ ?[{(]* ?(?:\\text\{ ?)?(?:base ?)?\}? ?([a-z]+|\d{1,2}) ?[)}]*"
    r"| ?\\text\{ ?\(?(?:in )?base ?\)? ?([a-z]+|\d{1,2})? ?\)?\} ?(\d{1,2})?| \(?(?:in )?base ([a-z]+|\d{1,2})\)?)"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
          "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip
_ORDINAL = re.compile(r"(\d) ?(?:\^ ?\{? ?)?(?:\\text\{ ?)?(?:st|nd|rd|th)(?![A-Za-z])( ?\}){0,2}")
_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_MONEY = re.compile(r"^(-?) ?(\\\$|[£€¥]) ?")
_PAID = {"\\$": "dollar", "£": "pound", "€": "euro", "¥": "yen"}
_PER = re.compile(r"\\frac\{\\text\{ ?([A-Za-z]+) ?\}\}\{\\text\{ ?([A-Za-z]+) ?\}\}$")
"""Words over words, as in metres over seconds."""
_AMID = re.compile(r"(\d) ?([A-Za-z]{2,})(?= ?\d)")
"""Words between numbers, as in 5 feet 3 inches."""


def quantity(text: str, grouped: bool = True) -> Node:
    """A number or an expression with its unit, its words and its base."""
    if based := _BASE.fullmatch(text):
        name = next((one for one in based.groups()[1:] if one), "")
        number = _BASES.get(name) or (int(name) if name.isdigit() else None)
        if number is not None and 2 <= number <= 36:
            return Quantity(based[1].replace(",", "").lstrip("0") or "0", base=number)
    money = _MONEY.match(text)
    value = _ORDINAL.sub(r"\1", _MONEY.sub(r"\1", text) if money else text)
    value = _AMID.sub(_as_words, _PER.sub(r"\\text{ \1/\2}", value))
    tokens = _TOKEN.findall(value)
    end, words, percent = _tail(tokens)
    value = "".join(tokens[:end]).strip()
    factor, words = units.scaled(words)
    unit = units.unit(words) if words else None
    if (words and unit is None) or not value or value in "+-":
        return Words(text)
    if money and (unit is None or unit.powers[:1] != (("dollar", 1),)):
        paid = ((_PAID[money[2]], 1),)
        unit = Unit(tuple(sorted(paid + (unit.powers if unit else ()))), unit is None or unit.known)
    unit = None if unit is not None and not unit.powers else unit
    if unit is not None and unit.powers == (("percent", 1),):
        unit, percent = None, True
    if "\\text{" in value:
        return _compound(f"{value}\\text{{ {' '.join(words)}}}") or Words(text)
    latex = re.sub(r"(?<![\d.])(\d{1,3})((?: \d{3})+)(?![\d])", lambda found: found[0].replace(" ", ""), value)
    commas = bool(grouped and GROUP.search(latex))
    if commas:
        latex = GROUP.sub(lambda found: found[0].replace(",", ""), latex)
    return Quantity(latex, factor, unit, percent, grouped=commas)


def _as_words(found: re.Match[str]) -> str:
    return f"{found[1]}\\text{{ {found[2]}}}" if units.are_units([found[2]], apart=True) else found[0]


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
        elif token in ("€", "¥", "£", "¢"):
            end, words = end - 1, [token, *words]
        elif token.startswith("\\text{"):
            end, words = end - 1, [*_wordlist(token[6:-1]), *words]
        elif token[0] == "^" and end > 1 and tokens[end - 2].startswith("\\text{"):
            end, words = end - 1, [_power(token), *words]
        elif (begin := _bare(tokens, end)) < end:
            words = [_power(one) if one[0] == "^" else one for one in tokens[begin:end] if not one.isspace()] + words
            end = begin
        else:
            break
    number = "".join(tokens[:end]).strip()
    return (end, words, percent) if number else (len(tokens), [], False)


def _bare(tokens: list[str], end: int) -> int:
    r"""Where the words begin that end there and are units without ``\text``; `end` where none do."""
    begin = end
    while begin and (tokens[begin - 1].isalpha() or tokens[begin - 1].isspace() or tokens[begin - 1][0] in "^/."):
        begin -= 1
    stretch = tokens[begin:end]
    words = [one for one in stretch if one.isalpha()]
    before = "".join(tokens[:begin])
    if not words or not before or not re.search(r"\d|\\pi", before):
        return end
    if before.endswith("\\degree") and words in (["C"], ["F"]):
        return begin
    if stretch[0] == "/":  # of a price, say
        return begin if _MONEY_BEFORE.search(before) or before.endswith("}") else end
    if stretch[0][0] in "^.":
        return end
    return begin if units.are_units(words, stretch[0].isspace()) and not before.endswith("\\") else end


_MONEY_BEFORE = re.compile(r"\d$")


def _power(token: str) -> str:
    return "^" + re.sub(r"[^\d-]", "", token)


def _wordlist(text: str) -> list[str]:
    return re.findall(r"[A-Za-z$°'.-]+|/|\^-?\d", text.replace("-", " "))


_PART = re.compile(r"\s*(-?[\d.,]+|\\frac\{\d+\}\{\d+\})\s*(\\text\{[^{}]*\})")


def _compound(text: str) -> Compound | None:
    items, at = [], 0
    text = re.sub(r"\\text\{([^{}]*?),? and \}", r"\\text{\1}", text)
    while at < len(text) and (found := _PART.match(text, at)):
        one = quantity(found[0].strip())
        if not isinstance(one, Quantity):
            return None
        items.append(one)
        at = found.end()
    return Compound(tuple(items)) if len(items) > 1 and not text[at:].strip(" .,") else None
