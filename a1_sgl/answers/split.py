r"""What a normalised answer is made of: a quantity, words, a name and its value, a list, a tuple or an interval, ...

The parts that only algebra can read stay LaTeX. ``x = 1,200 \text{ cm}`` is the name ``x`` with a quantity, whose
number is ``1200`` and whose unit is cm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from a1_sgl.answers import units
from a1_sgl.answers.units import Unit


@dataclass(frozen=True)
class Quantity:
    """A number or an expression, as LaTeX, and what is said with it.

    Attributes:
        latex: the expression.
        factor: by which words multiply it, as in ``5 million``.
        unit: None where it has none.
        percent: whether ``%`` follows it.
        base: that of ``204_5``; its digits are then `latex`.
        grouped: whether commas in `latex` were taken for separators of thousands.
    """

    latex: str
    factor: Fraction = Fraction(1)
    unit: Unit | None = None
    percent: bool = False
    base: int | None = None
    grouped: bool = False


@dataclass(frozen=True)
class Words:
    """What is said in words, or cannot be read."""

    text: str


@dataclass(frozen=True)
class Named:
    """A value with a name before it, which may be left out."""

    name: str
    value: Node


@dataclass(frozen=True)
class Several:
    """Answers whose order is free. A set's are distinct, those of a list need not be."""

    items: tuple[Node, ...]
    is_set: bool = False


@dataclass(frozen=True)
class Tuple:
    """Answers in order within brackets: a point, or an interval with its ends."""

    left: str
    right: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Union:
    """Intervals and sets joined."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Relation:
    """An equation or inequality that gives no value to a name: sides as LaTeX, and what stands between them."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A matrix."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Compound:
    """A quantity in several units, such as 5 hours 30 minutes."""

    items: tuple[Quantity, ...]


Node = Quantity | Words | Named | Several | Tuple | Union | Relation | Table | Compound

DEEPEST = 12
"""Brackets within brackets that are looked into."""


def split(text: str, depth: int = 0, *, grouped: bool = True) -> Node:
    r"""Reads a normalised answer.

    Args:
        text: from `normalise`.
        depth: how deep in another answer it stands.
        grouped: whether ``1,200`` is a number. Within brackets it never is.
    """
    text = _stripped(text)
    if depth > DEEPEST or not text:
        return Words(text)
    for rule in (_said, _matrix, _listed, _joined, _related, _bracketed, _both_signs):
        if (found := rule(text, depth, grouped)) is not None:
            return found
    return quantity(text, grouped)


def describe(node: Node) -> str:
    """A node in words, for people."""
    match node:
        case Quantity():
            said = [node.latex if node.base is None else f"{node.latex} in base {node.base}"]
            said += [f"times {node.factor}"] if node.factor != 1 else []
            said += ["percent"] if node.percent else []
            return ", ".join([*said, f"counted in {node.unit}"] if node.unit else said)
        case Named():
            return f"named {node.name}: {describe(node.value)}"
        case Several():
            return f"{'set' if node.is_set else 'list'} of " + " | ".join(map(describe, node.items))
        case Tuple():
            return f"{node.left} {' | '.join(map(describe, node.items))} {node.right}"
        case Union():
            return "union of " + " | ".join(map(describe, node.items))
        case Relation():
            return "relation " + " ".join(a + b for a, b in zip(node.sides, [*node.signs, ""], strict=True))
        case Table():
            return "matrix " + "; ".join(" | ".join(map(describe, row)) for row in node.rows)
        case Compound():
            return " and ".join(map(describe, node.items))
        case Words():
            return f"words: {node.text}"


# --- the rules, in order ------------------------------------------------------------------------------------------

_PREFIX = re.compile(
    r"(?:(?:so|thus|hence|therefore|and),? )?(?:the |my |our )?(?:final |correct |right |exact |only )*"
    r"(?:answer|value|result|solution|total|sum|number)s?(?: (?:is|are)(?: equal to)?| ?[:=]) ?", re.I,
)  # fmt: skip
_ONLY_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z' .,-]*[A-Za-z.]")
_LETTERS = re.compile(r"[A-Za-z]{3,}")


def _said(text: str, depth: int, grouped: bool) -> Node | None:
    if whole := _ONLY_TEXT.fullmatch(text):
        inner = re.sub(r"^\(([A-Za-z])\)$", r"\1", _stripped(whole[1]))
        inner = inner[found.end() :] if (found := _PREFIX.match(inner)) else inner
        if re.search(r"\d", inner) or len(inner) == 1:
            return split(inner, depth + 1, grouped=grouped)
        return Words(inner)
    if found := _PREFIX.match(text):
        return split(text[found.end() :], depth + 1, grouped=grouped)
    if _PLAIN.fullmatch(text) and _LETTERS.search(text):
        return Words(text)
    return None


_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.S)


def _matrix(text: str, depth: int, grouped: bool) -> Node | None:
    found = _MATRIX.fullmatch(_outside(text, "(", ")"))
    if not found or "\\begin" in found[2]:
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip()]
    return Table(tuple(tuple(split(cell, depth + 1) for cell in row.split("&")) for row in rows))


_AND = re.compile(
    r" ?(?:\\text\{ ?,? ?(and|or|and also) ?\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])|\\(l)or(?![A-Za-z])) ?"
)
_CONDITION = re.compile(r"\\text\{ ?(?:where|with|for|if)(?![A-Za-z])|(?<![A-Za-z\\])where(?![A-Za-z])")
_GROUP = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,]|\.\d*,)")


def _listed(text: str, depth: int, grouped: bool) -> Node | None:
    kept, joints = [], []

    def cut(at: int) -> int:
        if text[at] == ";" or (text[at] == "," and not any(a <= at < b for a, b in numbers)):
            return 1
        return len(found[0]) if (found := _AND.match(text, at)) and found[0].strip() else 0

    numbers = [found.span() for found in _GROUP.finditer(text)] if grouped else []
    begin = 0
    for at, width in _top(text, cut):
        if at < begin:
            continue
        kept.append(text[begin:at])
        joints.append(text[at : at + width])
        begin = at + width
    if not joints:
        return None
    parts = [part for part in [*kept, text[begin:]] if part.strip(" ,")]
    if any(_CONDITION.search(part) for part in parts):
        return Words(text)
    items = tuple(split(part, depth + 1, grouped=grouped) for part in parts)
    if len(items) == 1:
        return items[0]
    if any("or" in joint for joint in joints) and all(isinstance(_value(one), Tuple | Union) for one in items):
        names = {one.name for one in items if isinstance(one, Named)}
        if len(names) <= 1:
            union = Union(tuple(map(_value, items)))
            return Named(names.pop(), union) if names else union
    return Several(_flat(items))


def _joined(text: str, depth: int, grouped: bool) -> Node | None:
    signs = list(_top(text, lambda at: 4 if re.match(r"\\cup(?![A-Za-z])", text[at : at + 5]) else 0))
    if not signs or any(_sign(text, at) for at, _ in _top(text, lambda at: len(_sign(text, at)))):
        return None
    edges = [0, *(at + width for at, width in signs)]
    ends = [*(at for at, _ in signs), len(text)]
    return Union(tuple(split(text[a:b], depth + 1) for a, b in zip(edges, ends, strict=True)))


def _both_signs(text: str, depth: int, grouped: bool) -> Node | None:
    if not re.search(r"\\(?:pm|mp)(?![A-Za-z])", text):
        return None
    both = (
        re.sub(r"\\pm(?![A-Za-z])", up, re.sub(r"\\mp(?![A-Za-z])", down, text))
        for up, down in (("+", "-"), ("-", "+"))
    )
    return Several(_flat(tuple(split(one, depth + 1, grouped=grouped) for one in both)))


_SIGN = re.compile(r"\\(?:le|ge|ne|in|approx|equiv|to|sim|subset|cong|Rightarrow|iff)(?![A-Za-z])|[=<>]")
_TURNED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


def _sign(text: str, at: int) -> str:
    return found[0] if (found := _SIGN.match(text, at)) else ""


def _related(text: str, depth: int, grouped: bool) -> Node | None:
    found = list(_top(text, lambda at: len(_sign(text, at))))
    if not found:
        return None
    edges = [0, *(at + width for at, width in found)]
    sides = [text[a:b].strip() for a, b in zip(edges, [*(at for at, _ in found), len(text)], strict=True)]
    signs = [text[at : at + width] for at, width in found]
    if any(not side for side in sides):
        return split(sides[-1], depth + 1, grouped=grouped) if len(sides) == 2 and sides[1] else Words(text)

    def inner(side: str) -> Node:
        return split(side, depth + 1, grouped=grouped)

    if set(signs) == {"="} or set(signs) == {"=", "\\approx"} or signs == ["\\approx"]:
        exact = len(sides) - 1 if "\\approx" not in signs else signs.index("\\approx")
        if is_name(sides[0]):
            return Named(squeezed(sides[0]), inner(sides[max(exact, 1)]))
        if len(sides) == 2 and is_name(sides[1]) and not is_name(sides[0]):
            return Named(squeezed(sides[1]), inner(sides[0]))
        if signs == ["\\approx"]:
            return inner(sides[0])
        return Relation(tuple(sides), tuple(signs))
    if signs == ["\\in"] and is_name(sides[0]):
        return Named(squeezed(sides[0]), inner(sides[1]))
    if (interval := _interval(sides, signs, depth)) is not None:
        return interval
    return Relation(tuple(sides), tuple(signs))


def _interval(sides: list[str], signs: list[str], depth: int) -> Node | None:
    if any(sign not in _TURNED for sign in signs) or len(sides) > 3:
        return None
    if sum(map(is_name, sides)) != 1:
        return None
    if len(sides) == 3:
        if not is_name(sides[1]) or (signs[0][-1] in "<e" and signs[1] in (">", "\\ge")):
            return None
        if (signs[0] in ("<", "\\le")) != (signs[1] in ("<", "\\le")):
            return None
        if signs[0] in (">", "\\ge"):
            sides, signs = sides[::-1], [_TURNED[sign] for sign in signs[::-1]]
        name, low, high, opens, closes = sides[1], sides[0], sides[2], signs[0], signs[1]
    else:
        (name, bound), sign = (sides, signs[0]) if is_name(sides[0]) else (sides[::-1], _TURNED[signs[0]])
        below = sign in ("<", "\\le")
        low, high = ("-\\infty", bound) if below else (bound, "\\infty")
        opens, closes = ("<", sign) if below else (_TURNED[sign], "<")
    ends = tuple(split(one, depth + 1) for one in (low, high))
    return Named(squeezed(name), Tuple("[" if opens == "\\le" else "(", "]" if closes == "\\le" else ")", ends))


_PAIRS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "{": "}"}


def _bracketed(text: str, depth: int, grouped: bool) -> Node | None:
    for left in _PAIRS:
        if text.startswith(left):
            break
    else:
        return None
    for right in _PAIRS.values():
        if text.endswith(right) and len(text) >= len(left) + len(right):
            break
    else:
        return None
    inner = text[len(left) : len(text) - len(right)]
    if not _balanced(inner):
        return None
    if left == "\\{":
        if right != "\\}":
            return None
        if re.search(r"\\mid(?![A-Za-z])|[|:]", inner):
            return Words(text)
        found = split(inner, depth + 1, grouped=False)
        return Several(found.items if isinstance(found, Several) else (found,), is_set=True)
    if left == "{":
        return split(inner, depth + 1, grouped=grouped) if right == "}" else None
    if (left == "\\langle") != (right == "\\rangle") or (right == "\\}") or (right == "}"):
        return None
    parts = _commas(inner)
    if len(parts) == 1:
        return split(inner, depth + 1, grouped=False) if _PAIRS.get(left) == right and right != "\\rangle" else None
    if any(not part.strip() for part in parts):
        return None
    left, right = "(" if left == "\\langle" else left, ")" if right == "\\rangle" else right
    return Tuple(left, right, tuple(split(part, depth + 1, grouped=False) for part in parts))


# --- quantities ---------------------------------------------------------------------------------------------------

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
    commas = bool(grouped and _GROUP.search(latex))
    if commas:
        latex = _GROUP.sub(lambda found: found[0].replace(",", ""), latex)
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


# --- names --------------------------------------------------------------------------------------------------------

_NAME = re.compile(
    r"(?:[A-Za-z]|\\text\{[^{}]*\}|\\(?:overline|widehat|hat|vec|bar|tilde|mathbb|mathcal|overrightarrow)\{[^{}]*\}"
    r"|\\(?:angle|triangle|measuredangle|ell|[Gg]amma|[Dd]elta|[Tt]heta|[Ll]ambda|[Ss]igma|[Oo]mega|[Pp]hi|[Pp]si"
    r"|alpha|beta|varphi|varepsilon|epsilon|zeta|eta|iota|kappa|mu|nu|xi|Xi|rho|tau|upsilon|chi)(?![A-Za-z])"
    r"|'|_ ?(?:[A-Za-z\d]|\{[^{}]*(?:\{[^{}]*\})?[^{}]*\})"
    r"|\^ ?(?:\*|\\cdot ?|\{ ?(?:\*|\\cdot|\\prime|\\ast)+ ?\})|\||\[|\]| )+"
    r"(?:\((?:[A-Za-z\d,| ]|_\{?\w+\}?|\\[a-z]+)*\))?"
)
_NAMES = re.compile(r"\(?(?:[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+)(?: ?, ?(?:[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+|\\ldots))+\)?")


def is_name(side: str) -> bool:
    """Whether it only names what stands on the other side of ``=``: a letter, a function of letters, words, a point."""
    side = side.strip()
    return (
        bool(re.search("[A-Za-z]", side))
        and bool(_NAME.fullmatch(side) or _NAMES.fullmatch(side))
        and side not in ("e", "i")
    )


def squeezed(text: str) -> str:
    """Without blanks, and without braces around one character."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"\s+", "", text))


# --- scanning -----------------------------------------------------------------------------------------------------


def _top(text: str, width: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Where, outside all brackets, something begins that is so and so wide."""
    depth = at = 0
    while at < len(text):
        char = text[at]
        if char == "\\" and text[at : at + 6] == "\\text{":
            if depth == 0 and (found := width(at)):
                yield at, found
            at = text.find("}", at) + 1 or len(text)
            continue
        if depth == 0 and (found := width(at)):
            yield at, found
        if char == "\\":
            depth = max(depth + _turn(text, at), 0)
            at += 2
            continue
        depth += (char in "({[") - (char in ")}]")
        depth = max(depth, 0)
        at += 1


def _commas(text: str) -> list[str]:
    edges = [-1, *(at for at, _ in _top(text, lambda at: int(text[at] == ","))), len(text)]
    return [text[a + 1 : b] for a, b in pairwise(edges)]


def _balanced(text: str) -> bool:
    """Whether no bracket in it closes one that stands before it."""
    depth = at = 0
    while at < len(text):
        if text[at] == "\\":
            depth += _turn(text, at)
            at += 2
        else:
            depth += (text[at] in "({[") - (text[at] in ")}]")
            at += 1
        if depth < 0:
            return False
    return depth == 0


def _turn(text: str, at: int) -> int:
    r"""How much deeper the command there leads: ``\{`` and ``\langle`` are brackets."""
    return {"\\{": 1, "\\}": -1}.get(text[at : at + 2], 0) or {"\\langle": 1, "\\rangle": -1}.get(text[at : at + 7], 0)


def _stripped(text: str) -> str:
    text = text.strip().strip(",;").strip()
    while text.startswith("{") and text.endswith("}") and _balanced(text[1:-1]):
        text = text[1:-1].strip()
    return text


def _outside(text: str, left: str, right: str) -> str:
    inner = text[1:-1].strip()
    return inner if text.startswith(left) and text.endswith(right) and inner.startswith("\\begin") else text


def _flat(items: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(
        inner for one in items for inner in (one.items if isinstance(one, Several) and not one.is_set else (one,))
    )


def _value(node: Node) -> Node:
    return node.value if isinstance(node, Named) else node


def renamed(node: Node, value: Node) -> Node:
    """`value` under the name that `node` has."""
    return replace(node, value=value) if isinstance(node, Named) else value
