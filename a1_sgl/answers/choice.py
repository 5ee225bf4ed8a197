r"""Which option of a multiple-choice question an answer names."""

from __future__ import annotations

import re

from a1_sgl.answers.normalise import normalise

_OPENING = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:i|we) (?:choose|pick|select) )?(?:the )?"
    r"(?:(?:final|correct|right|best) )*"
    r"(?:(?:option|choice|answer)(?: (?:is|would be|must be))?:? ?)*(?:(?:option|choice|letter) )?",
    re.I,
)
_BRACKETED = re.compile(r"[(\[{]+ ?([A-J]) ?[)\]}]+(?=$|[\s.,:;\d-]|\\)", re.I)
_BARE = re.compile(
    r"([A-J])(?=$|[).:,](?=\s|$)|[).:](?=[A-Z0-9\\(])| (?:-(?! ?[A-J](?![A-Za-z]))|= ?[\d\\]|:|is\b|\(|\d)|, )"
)
_SMALL = re.compile(r"([a-j])(?=$|[).:]|, )")
_ANOTHER = re.compile(r"[).:]? ?(?:and|or|&|/|,|\\lor)[^A-Za-z]*[A-J](?![A-Za-z])|, ?[A-J](?![A-Za-z ])")
_DENIED = re.compile(
    r" ?(?:is|are|was|must be|would be) (?:not|false|wrong|incorrect|impossible|excluded)\b|n't\b", re.I
)


def option(answer: str) -> str | None:
    r"""Its letter: of ``B``, ``(b)``, ``B. 12 m``, ``\textbf{(B)}``, ``B - a metre``, ``The answer is (B)``; else None.

    Two options are none, and neither is a letter that is part of a name or a formula: ``C-14``, ``B-cells``, ``A(x)``.
    """
    text = normalise(answer.replace("**", " ").replace("\n", " : "))
    text = re.sub(r" +", " ", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)).strip()
    text = re.sub(r"^\{ ?([A-Ja-j]) ?\}", r"\1", text)
    opening = _OPENING.match(text)
    begin = opening.end() if opening else 0
    # A small letter that stands alone at the begin may be an article; after "the answer is" it is none.
    for form in (_BRACKETED, _BARE, *((_SMALL,) if begin or len(text) < 3 or text[1:2] in ").:" else ())):
        if found := form.match(text, begin):
            rest = text[found.end() :]
            return None if _ANOTHER.match(rest) or _DENIED.match(rest) else found[1].upper()
    return None
