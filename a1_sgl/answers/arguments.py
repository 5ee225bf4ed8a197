r"""What commands of LaTeX apply to: ``\frac12``, ``\sqrt\pi``, ``2^10`` and ``\sin 2x \cdot y`` with their braces."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|.", re.DOTALL)
_TAKES = {"\\frac": 2, "\\binom": 2, "\\sqrt": 1}
_FUNCTIONS = re.compile(r"\\(?:arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg|exp)(?![A-Za-z])")
_FACTOR = re.compile(
    r"\s|\d+(?:\.\d+)?|[A-Za-z]|!|\\(?:pi|infty|degree|alpha|beta|gamma|delta|theta|lambda|mu|phi|varphi|omega)(?![A-Za-z])"
)
_DEEPEST = 40


def braced(text: str, depth: int = 0) -> str:
    r"""With braces around the arguments of ``\frac``, ``\binom``, ``\sqrt``, ``^`` and ``_``.

    A number after ``^``, ``_`` and ``\sqrt`` is taken whole, as it is meant, save after ``\log_``.
    """
    if depth > _DEEPEST:
        return text
    out, at = [], 0
    while at < len(text):
        piece, at = _piece(text, at, depth)
        out.append(piece)
    return "".join(out)


def _piece(text: str, at: int, depth: int) -> tuple[str, int]:
    found = _TOKEN.match(text, at)
    assert found is not None
    token, at = found[0], found.end()
    if token == "\\text":
        end = text.find("}", at) + 1 or len(text)
        return token + text[at:end], end
    if token in ("^", "_"):
        digit = token == "_" and text[max(0, at - 8) : at - 1].rstrip().endswith("\\log")
        argument, at = _argument(text, at, depth, digit=digit)
        return token + argument, at
    if token in _TAKES:
        option = ""
        if token == "\\sqrt" and (bracket := re.compile(r"\s*\[[^\[\]]*\]").match(text, at)):
            option, at = bracket[0].strip(), bracket.end()
        arguments = []
        for _ in range(_TAKES[token]):
            argument, at = _argument(text, at, depth, digit=token != "\\sqrt")
            arguments.append(argument)
        return token + option + "".join(arguments), at
    return token, at


def _argument(text: str, at: int, depth: int, digit: bool) -> tuple[str, int]:
    """The next argument in braces, and where it ends; a number is one digit of it, or all."""
    while text[at : at + 1].isspace():
        at += 1
    if at >= len(text) or depth > _DEEPEST:
        return "", at
    if text[at] == "{" or (text[at] == "(" and not digit):
        end = _closing(text, at)
        return "{" + braced(text[at + 1 : end - 1], depth + 1) + "}", end
    if text[at] in "+-" and not digit and at + 1 < len(text):
        argument, end = _argument(text, at + 1, depth + 1, digit)
        return "{" + text[at] + argument[1:], end
    if digit and text[at].isdigit():
        return "{" + text[at] + "}", at + 1
    piece, end = _piece(text, at, depth + 1)
    return "{" + piece + "}", end


def _closing(text: str, at: int) -> int:
    """Where the bracket that opens at `at` has closed; the end of the text where it never does."""
    pair = {"{": "}", "(": ")"}
    left, right, depth = text[at], pair[text[at]], 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += (text[at] == left) - (text[at] == right)
        at += 1
        if not depth:
            return at
    return len(text) + 1


def applied(text: str) -> str:
    r"""With brackets around what functions apply to: up to the next sign, function, bracket or ``\cdot``.

    Args:
        text: from `braced`.
    """
    out, at = [], 0
    while at < len(text):
        if not (found := _FUNCTIONS.match(text, at)):
            token = _TOKEN.match(text, at)
            assert token is not None
            out.append(token[0])
            at = token.end()
            continue
        out.append(found[0])
        at = found.end()
        while at < len(text) and text[at] in "^_ ":  # its power and base
            if text[at] == " ":
                at += 1
                continue
            end = _closing(text, at + 1) if text[at + 1 : at + 2] == "{" else at + 2
            out.append(text[at : at + 1] + applied(text[at + 1 : end]))
            at = end
        begin, at = at, _factors(text, at)
        if at > begin:
            out.append(f"({applied(text[begin:at].strip())})")
            if at < len(text) and re.match(r"\\(?!cdot)[A-Za-z]|\(", text[at:]):
                out.append(" \\cdot ")
    return "".join(out)


def _factors(text: str, at: int) -> int:
    """Where the factors end that follow at once; at a bracket there are none."""
    begin, end = at, at
    while at < len(text):
        if text[at] == "{":
            at = end = _closing(text, at)
        elif text[at] == "^" and at > begin:
            at = end = _closing(text, at + 1) if text[at + 1 : at + 2] == "{" else at + 2
        elif taken := re.compile(r"\\(frac|binom|sqrt)(?![A-Za-z])(\[[^\[\]]*\])?").match(text, at):
            at = taken.end()
            for _ in range(2 if taken[1] != "sqrt" else 1):
                at = _closing(text, at) if text[at : at + 1] == "{" else at
            end = at
        elif factor := _FACTOR.match(text, at):
            at = factor.end()
            end = end if factor[0].isspace() else at
        else:
            break
    return end
