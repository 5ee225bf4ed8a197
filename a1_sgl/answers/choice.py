r"""Which option of a multiple-choice question an answer names."""

from __future__ import annotations

import re

from a1_sgl.answers.normalise import normalise

_OPENING = (
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:i|we) (?:choose|pick|select) )?(?:the )?"
    r"(?:(?:final|correct|right|best) )*"
    r"(?:(?:option|choice|answer)(?: is| would be| must be)?:? ?)*(?:(?:option|choice|letter) )?"
)
_BRACKETED = r"[(\[{]+ ?([A-J]) ?[)\]}]+(?=$|[\s.,:;-])"
_BARE = r"([A-J])(?=$|[).:,](?=\s|$)|[).:](?=[A-Z0-9\\(])| (?:-|is\b|\()|, )"
_CHOICE = re.compile(rf"{_OPENING}(?:{_BRACKETED}|{_BARE})", re.I)
_ANOTHER = re.compile(r"[^A-Za-z]*(?:and|or|&|/|,|\\lor)[^A-Za-z]*[A-J](?![A-Za-z])|[ ,]+[A-J](?![A-Za-z ])")


def option(answer: str) -> str | None:
    r"""Its letter: of ``B``, ``(b)``, ``B. 12 m``, ``\textbf{(B)}``, ``B - a metre``, ``The answer is (B)``; else None.

    Two options are none, and neither is a letter that is part of a name or a formula: ``C-14``, ``B-cells``, ``A(x)``.
    """
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", normalise(answer))
    text = re.sub(r"^[{ ]+|[} ]+$", "", text)
    text = re.sub(r" +", " ", text.replace("**", "").replace("\\cdot ", "")).strip()
    found = _CHOICE.match(text)
    if not found:
        return None
    letter, rest = (found[1] or found[2]).upper(), text[found.end() :]
    if (found[1] or found[2]) in "abcdefghij" and found[2] and len(text) > 1 and not re.match(r"[).:]", rest):
        return None  # "a metre" begins with an article
    return None if _ANOTHER.match(rest) else letter
