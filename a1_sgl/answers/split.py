r"""What a normalised answer is made of: a quantity, words, a name and its value, a list, a tuple or an interval, ...

The parts that only algebra can read stay LaTeX. ``x = 1,200 \text{ cm}`` is the name ``x`` with a quantity, whose
number is ``1200`` and whose unit is cm.
"""

from __future__ import annotations

import re

from a1_sgl.answers.nodes import Named, Node, Quantity, Relation, Several, Table, Tuple, Union, Words
from a1_sgl.answers.quantity import GROUP, quantity
from a1_sgl.answers.scan import balanced, commas, outside, squeezed, stripped, top

DEEPEST = 12
"""Brackets within brackets that are looked into."""


def split(text: str, depth: int = 0, *, grouped: bool = True) -> Node:
    r"""Reads a normalised answer.

    Args:
        text: from `normalise`.
        depth: how deep in another answer it stands.
        grouped: whether ``1,200`` is a number. Within brackets it never is.
    """
    text = stripped(text)
    if depth > DEEPEST or not text:
        return Words(text)
    for rule in (_said, _matrix, _outward, _listed, _joined, _related, _bracketed, _both_signs):
        if (found := rule(text, depth, grouped)) is not None:
            return found
    return quantity(text, grouped)


# --- the rules, in order ------------------------------------------------------------------------------------------

_ONLY_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z' .,-]*[A-Za-z.]")
_LETTERS = re.compile(r"[A-Za-z]{3,}")
_LEAD = re.compile(r"(?:\\text\{([^{}\d]*)\}|([A-Za-z]{2,}(?:[ ,]+[A-Za-z']+)*)) ?([:,]?) ?(?=[\d\\(\[{.$+-])")
_IS = re.compile(r"([A-Za-z]{2,}(?: [A-Za-z']+)*? (?:is|are|equals)) (?=\S)")
_CONCLUDES = re.compile(r"(?:^|\s)(?:is|are|be|equals|equal to|get|have|gives)$")
_OPENING = re.compile(
    r"the|a|an|my|our|final|correct|right|exact|only|so|thus|hence|therefore|and|answer|value"
    r"|result|solution|total|sum|number|exactly|there|are|is|it|we|get|have|answers"
)
_AGAINST = re.compile(r"\b(?:not|no|never|least|most|more|less|fewer|than|half|twice|double|about|around|approximately"
                      r"|between|except|under|over|below|above|nearly|almost|or|of)\b")  # fmt: skip
_TAIL = re.compile(
    r" ?(?:\\text\{ ?)?is (?:the|my|our) (?:final |correct |right )?(?:answer|result|value|solution) ?\}?$"
)


def _said(text: str, depth: int, grouped: bool) -> Node | None:
    if whole := _ONLY_TEXT.fullmatch(text):
        inner = re.sub(r"^\(([A-Za-z])\)$", r"\1", stripped(whole[1]))
        if re.search(r"\d", inner) or len(inner) == 1:
            return split(inner.rstrip("."), depth + 1, grouped=grouped)
        return Words(inner)
    if (bare := _TAIL.sub("", text)) != text and bare:
        return split(bare, depth + 1, grouped=grouped)
    if (lead := _IS.match(text)) and not _AGAINST.search(lead[1].replace(" of ", " ").lower()):
        return split(text[lead.end() :], depth + 1, grouped=grouped)
    if (lead := _LEAD.match(text)) and _leads(lead):
        return split(text[lead.end() :], depth + 1, grouped=grouped)
    if (label := re.match(r"([^:=]{1,40}?) ?: ?(?=\S)", text)) and is_name(label[1]):
        return Named(squeezed(label[1]), split(text[label.end() :], depth + 1, grouped=grouped))
    if _PLAIN.fullmatch(text) and _LETTERS.search(text):
        return Words(text)
    return None


def _leads(lead: re.Match[str]) -> bool:
    """Whether words only lead up to what follows: ``The area is``, ``Answer:``, ``Therefore,``."""
    said = (lead[1] or lead[2]).strip().lower()
    words = re.findall("[a-z']+", said)
    if not words or _AGAINST.search(said.replace(" of ", " ")):  # the value of x, but not half of
        return False
    told = bool(_CONCLUDES.search(said.rstrip(":,"))) or all(_OPENING.fullmatch(word) for word in words)
    return told or (bool(lead[1]) and (said.endswith(":") or lead[3] == ":") and len(words) < 5)


_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.S)


def _matrix(text: str, depth: int, grouped: bool) -> Node | None:
    found = _MATRIX.fullmatch(outside(text, "(", ")"))
    if not found or "\\begin" in found[2]:
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip()]
    return Table(tuple(tuple(split(cell, depth + 1) for cell in row.split("&")) for row in rows))


def _outward(text: str, depth: int, grouped: bool) -> Node | None:
    """An interval whose brackets turn away from an end that it has not, as in ]1, 2] (ISO 80000-2)."""
    if not re.fullmatch(r"\].*[\[\]]|\[.*\[", text, re.S) or not balanced(inner := text[1:-1]):
        return None
    if len(ends := commas(inner)) != 2 or not all(end.strip() for end in ends):
        return None
    left, right = "(" if text[0] == "]" else "[", ")" if text[-1] == "[" else "]"
    return Tuple(left, right, tuple(split(end, depth + 1, grouped=False) for end in ends))


_AND = re.compile(
    r" ?(?:\\text\{ ?,? ?(and|or|and also) ?\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])|\\(l)or(?![A-Za-z])) ?"
)
_CONDITION = re.compile(r"\\text\{ ?(?:where|with|for|if)(?![A-Za-z])|(?<![A-Za-z\\])where(?![A-Za-z])")


def _listed(text: str, depth: int, grouped: bool) -> Node | None:
    kept, joints = [], []

    def cut(at: int) -> int:
        if text[at] == ";" or (text[at] == "," and not any(a <= at < b for a, b in numbers)):
            return 1
        return len(found[0]) if (found := _AND.match(text, at)) and found[0].strip() else 0

    numbers = [found.span() for found in GROUP.finditer(text)] if grouped else []
    begin = 0
    for at, width in top(text, cut):
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
    ranges = all(isinstance(one, Named) and is_letter(one.name) and isinstance(one.value, Tuple) for one in items)
    if any("or" in joint for joint in joints) and ranges:
        names = {one.name for one in items if isinstance(one, Named)}
        if len(names) <= 1:
            union = Union(tuple(map(_value, items)))
            return Named(names.pop(), union) if names else union
    joined = [joint.strip() for joint in joints] in (["and"], ["\\text{ and }"])
    if joined and ranges and (both := _both(items)) is not None:
        return both
    return Several(_flat(items))


def _both(items: tuple[Node, ...]) -> Node | None:
    r"""Where a name is above one end *and* below another, it is between them: ``x > 0 and x < 1``."""
    one, other = items
    if not isinstance(one, Named) or not isinstance(other, Named) or one.name != other.name:
        return None
    for low, high in ((one.value, other.value), (other.value, one.value)):
        if isinstance(low, Tuple) and isinstance(high, Tuple) and (low.items[-1], high.items[0]) == (_MOST, _LEAST):
            return Named(one.name, Tuple(low.left, high.right, (low.items[0], high.items[-1])))
    return None


_LEAST, _MOST = quantity("-\\infty"), quantity("\\infty")


def _joined(text: str, depth: int, grouped: bool) -> Node | None:
    signs = list(top(text, lambda at: 4 if re.match(r"\\cup(?![A-Za-z])", text[at : at + 5]) else 0))
    if not signs or any(_sign(text, at) for at, _ in top(text, lambda at: len(_sign(text, at)))):
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
    found = list(top(text, lambda at: len(_sign(text, at))))
    if not found:
        return None
    edges = [0, *(at + width for at, width in found)]
    sides = [text[a:b].strip() for a, b in zip(edges, [*(at for at, _ in found), len(text)], strict=True)]
    signs = [text[at : at + width] for at, width in found]
    if any(not side for side in sides):
        equal = len(sides) == 2 and sides[1] and signs[0] in ("=", "\\approx")
        return split(sides[1], depth + 1, grouped=grouped) if equal else Words(text)

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
        if not is_name(sides[1]) or (signs[0] in ("<", "\\le")) != (signs[1] in ("<", "\\le")):
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


_RATIO = re.compile(r"[\d.]+(?: ?: ?[\d.]+)+")


def _bracketed(text: str, depth: int, grouped: bool) -> Node | None:
    if _RATIO.fullmatch(text):  # of a clock, or of quantities
        return Tuple(":", ":", tuple(split(part, depth + 1) for part in text.split(":")))
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
    if not balanced(inner):
        return None
    if left == "\\{":
        if right != "\\}":
            return None
        if re.search(r"\\mid(?![A-Za-z])|[|:]", inner):
            return Words(text)
        found = split(inner, depth + 1, grouped=False)
        if found == Quantity("\\emptyset"):
            return Words(text)
        return Several(found.items if isinstance(found, Several) else (found,), is_set=True)
    if left == "{":
        return split(inner, depth + 1, grouped=grouped) if right == "}" else None
    if (left == "\\langle") != (right == "\\rangle") or (right == "\\}") or (right == "}"):
        return None
    parts = commas(inner)
    if len(parts) == 1:
        return split(inner, depth + 1, grouped=False) if _PAIRS.get(left) == right and right != "\\rangle" else None
    if any(not part.strip() for part in parts):
        return None
    left, right = "(" if left == "\\langle" else left, ")" if right == "\\rangle" else right
    return Tuple(left, right, tuple(split(part, depth + 1, grouped=False) for part in parts))


# --- names --------------------------------------------------------------------------------------------------------

_NAME = re.compile(
    r"(?:[A-Za-z]|\\text\{[^{}]*\}|\\(?:overline|widehat|hat|vec|bar|tilde|mathbb|mathcal|overrightarrow)\{[^{}]*\}"
    r"|\\(?:angle|triangle|measuredangle|ell|[Gg]amma|[Dd]elta|[Tt]heta|[Ll]ambda|[Ss]igma|[Oo]mega|[Pp]hi|[Pp]si"
    r"|alpha|beta|varphi|varepsilon|epsilon|zeta|eta|iota|kappa|mu|nu|xi|Xi|rho|tau|upsilon|chi)(?![A-Za-z])"
    r"|'|_ ?(?:[A-Za-z\d]|\{[^{}]*(?:\{[^{}]*\})?[^{}]*\})"
    r"|\^ ?(?:\*|\\cdot ?|\{ ?(?:\*|\\cdot|\\prime|\\ast)+ ?\})|\||\[|\]| )+"
    r"(?:\((?:[A-Za-z\d,|=<> ]|_\{?\w+\}?|\\[a-z]+)*\))?"
)
_QUESTIONED = re.compile(
    r"\\(?:max|min|gcd|lcm|det|sin|cos|tan|cot|sec|csc|log|ln|dim|deg|arg|operatorname)(?![A-Za-z])"
)
_NAMES = re.compile(r"\(?(?:[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+)(?: ?, ?(?:[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+|\\ldots))+\)?")


def is_letter(name: str) -> bool:
    """Whether a name is one letter, with an index or without."""
    return bool(re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+", name))


def asks(side: str) -> bool:
    r"""Whether a question may ask for it, of more than one letter: ``m + n``, ``\cos\theta``, ``\gcd(a,b)``."""
    letters = re.findall(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", side)
    return bool(_QUESTIONED.match(side)) or len(set(letters)) > 1


def is_name(side: str) -> bool:
    """Whether it only names what stands on the other side of ``=``: a letter, a function of letters, words, a point."""
    side = side.strip()
    return (
        bool(re.search("[A-Za-z]", side))
        and bool(_NAME.fullmatch(side) or _NAMES.fullmatch(side))
        and side not in ("e", "i")
    )


def _flat(items: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(
        inner for one in items for inner in (one.items if isinstance(one, Several) and not one.is_set else (one,))
    )


def _value(node: Node) -> Node:
    return node.value if isinstance(node, Named) else node
