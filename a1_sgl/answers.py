r"""Finding ``\boxed{...}`` answers in a chain's text."""

from __future__ import annotations

_OPEN = "\\boxed{"


def boxes(text: str) -> list[str]:
    r"""Contents of every complete ``\boxed{...}`` in order; braces inside may nest, an unclosed box does not count."""
    found, at = [], 0
    while (start := text.find(_OPEN, at)) >= 0:
        depth, at = 1, start + len(_OPEN)
        end = at
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if not depth:
            found.append(text[at : end - 1].strip())
            at = end
    return found


def final_answer(text: str) -> str | None:
    """The last complete box, or None."""
    found = boxes(text)
    return found[-1] if found else None
