"""Every benchmark's reference answers, rewritings that keep their value and mutations that do not."""

import json
import random
import re
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared/data/benchmarks"
COLUMNS = {"math500": "answer", "olympiadbench": "final_answer", "amc23": "answer", "aime24": "answer", "aime25": "answer",
           "gsm8k": "answer"}  # fmt: skip
EACH = 20
"""Changes of each gold that are tried."""


def golds() -> list[str]:
    """Distinct ones, in order."""
    found = {}
    for name, column in COLUMNS.items():
        for line in (DATA / f"{name}.jsonl").read_text().splitlines():
            value = json.loads(line)[column]
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            found[text.rpartition("####")[2].strip()] = None
    return list(found)


NUMBER = re.compile(r"-?\d+(\.\d+)?")
SIMPLE = re.compile(r"-?\d+")


def _grouped(between):
    def rewrite(gold):
        if not re.fullmatch(r"-?\d{4,}", gold):
            return None
        return f"{int(gold):,}".replace(",", between)

    return rewrite


def _bare(gold):
    return gold[1:-1] if re.fullmatch(r"\$[^$]*\$", gold) else gold


def _inner(change):
    """On what stands between dollar signs, where it is one formula."""

    def rewrite(gold):
        return None if "$" in _bare(gold).replace("\\$", "") else change(_bare(gold))

    return rewrite


def _shuffled(gold):
    items = gold.split(",")
    if len(items) < 2 or re.search(r"[()\[\]{}$]|\\!|where|=", gold) or _grouped(",")(gold.replace(",", "")) == gold:
        return None
    return ", ".join(one.strip() for one in items[1:] + items[:1])


def _where(pattern, change):
    return lambda gold: change(gold) if re.search(pattern, gold) else None


def _number(change):
    return lambda gold: change(gold) if NUMBER.fullmatch(gold) else None


def _integer(change):
    return lambda gold: change(gold) if SIMPLE.fullmatch(gold) else None


REWRITINGS = {
    "dollars": _inner(lambda g: f"${g}$"), "two dollars": _inner(lambda g: f"$${g}$$"),
    "parentheses of LaTeX": _inner(lambda g: rf"\({g}\)"), "brackets of LaTeX": _inner(lambda g: rf"\[ {g} \]"),
    "full stop": lambda g: g + ".", "blanks": lambda g: f"  {g} ", "bold": lambda g: f"**{g}**",
    "thin space": _inner(lambda g: g + r"\,"), "tie": _inner(lambda g: "~" + g), "backslash space": _inner(lambda g: g + r"\ "),
    "display": _inner(lambda g: r"\displaystyle " + g), "braces": _inner(lambda g: "{" + g + "}"),
    "boldsymbol": _inner(lambda g: rf"\boldsymbol{{{g}}}"), "mathbf": _inner(lambda g: rf"\mathbf{{{g}}}"),
    "box": _inner(lambda g: rf"\boxed{{{g}}}"), "quad": _inner(lambda g: g + r" \quad "),
    "said": _inner(lambda g: "The answer is " + g),
    "dfrac": _where(r"\\frac", lambda g: re.sub(r"\\d?frac", r"\\dfrac", g)),
    "tfrac": _where(r"\\frac", lambda g: re.sub(r"\\d?frac", r"\\tfrac", g)),
    "frac spaced": _where(r"\\frac\{", lambda g: g.replace(r"\frac{", r"\frac {").replace("}{", "} {")),
    "left right": _where(r"^[^\\]*\(.*\)", lambda g: g.replace("(", r"\left(").replace(")", r"\right)")),
    "unicode minus": _where("-", lambda g: g.replace("-", "\u2212")), "en dash": _where("-", lambda g: g.replace("-", "\u2013")),
    "unicode pi": _where(r"\\pi", lambda g: re.sub(r"\\pi(?![a-z])", "π", g)),
    "unicode root": _where(r"\\sqrt\{\d+\}", lambda g: re.sub(r"\\sqrt\{(\d+)\}", r"√\1", g)),
    "unicode root and brackets": _where(r"\\sqrt\{\d+\}", lambda g: re.sub(r"\\sqrt\{(\d+)\}", r"√(\1)", g)),
    "root without braces": _where(r"\\sqrt\{\d\}", lambda g: re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", g)),
    "unicode infinity": _where(r"\\infty", lambda g: re.sub(r"\\infty(?![a-z])", "∞", g)),
    "unicode union": _where(r"\\cup", lambda g: re.sub(r"\\cup(?![a-z])", "∪", g)),
    "unicode degree": _where(r"\\circ", lambda g: re.sub(r"\^\{?\\circ\}?", "°", g)),
    "degrees in words": _where(r"^\d+\^\\circ$", lambda g: re.sub(r"\^\\circ", r" \\text{ degrees}", g)),
    "no degrees": _where(r"^\d+\^\\circ$", lambda g: re.sub(r"\^\\circ", "", g)),
    "unicode power": _where(r"\^2(?!\d)", lambda g: g.replace("^2", "²")),
    "power in braces": _where(r"\^\d(?!\d)", lambda g: re.sub(r"\^(\d)", r"^{\1}", g)),
    "commas": _grouped(","), "commas in braces": _grouped("{,}"), "thin commas": _grouped(r",\!"),
    "thin spaces": _grouped(r"\,"), "space of Unicode": _grouped("\u2009"), "spaced thousands": _grouped(" "),
    "point zero": _integer(lambda g: g + ".0"), "over one": _integer(lambda g: rf"\frac{{{g}}}{{1}}"),
    "doubled": _integer(lambda g: rf"\frac{{{2 * int(g)}}}{{2}}"), "leading zeros": _integer(lambda g: re.sub(r"(\d+)", r"00\1", g)),
    "plus": _integer(lambda g: g if g.startswith("-") else "+" + g), "sum": _integer(lambda g: f"{int(g) - 1} + 1"),
    "text": _number(lambda g: rf"\text{{{g}}}"), "mbox": _number(lambda g: rf"\mbox{{{g}}}"),
    "named": _number(lambda g: "x = " + g), "named with an index": _number(lambda g: r"m_{\max} = " + g),
    "area": _number(lambda g: rf"\text{{Area}} = {g}"), "function": _number(lambda g: f"f(3) = {g}"),
    "unit": _number(lambda g: g + r" \text{ cm}"), "unit with a power": _number(lambda g: g + " m^2"),
    "unit in words": _number(lambda g: g + r"~\mathrm{square\ units}"), "tied unit": _number(lambda g: g + r"\,\text{km/h}"),
    "things": _number(lambda g: g + " apples"), "percent": _number(lambda g: g + r"\%"), "money": _number(lambda g: r"\$" + g),
    "other order": _shuffled, "a set": _where(r"^-?\d+(, ?-?\d+)+$", lambda g: rf"\{{{g}\}}" if len(set(re.split(", ?", g))) == g.count(",") + 1 else None),
    "and": _where(r"^-?\d+, ?-?\d+$", lambda g: r" \text{ and } ".join(re.split(", ?", g))),
    "semicolons": _where(r"^-?\d{1,2}(, ?-?\d{1,2})+$", lambda g: g.replace(",", ";")),
    "fraction with a slash": _where(r"^-?\\frac\{\d+\}\{\d+\}$", lambda g: re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", g)),
    "fraction tripled": _where(r"^-?\\frac\{\d+\}\{\d+\}$", lambda g: re.sub(
        r"\d+", lambda found: str(3 * int(found[0])), g)),
    "words alone": _where(r"^\\text\{[A-Za-z]+\}$", lambda g: g[6:-1]), "bold words": _where(
        r"^\\text\{[A-Za-z]+\}$", lambda g: rf"\textbf{{{g[6:-1]}}}"),
    "capitals": _where(r"^\\text\{[a-z]{4,}\}$", lambda g: rf"\text{{{g[6:-1].capitalize()}}}"),
    "name left out": _where(r"^\$?[a-z](\([a-z]\))? ?= ?[^,=]*$", lambda g: g.strip("$").partition("=")[2]),
    "base in braces": _where(r"^\d+_\d$", lambda g: g[:-1] + "{" + g[-1] + "}"),
    "base after brackets": _where(r"^\d+_\d$", lambda g: f"({g[:-2]}){g[-2:]}"),
}  # fmt: skip


def _digit(position, shift):
    def mutate(gold):
        places = [m.start() for m in re.finditer(r"\d", gold)]
        if position >= len(places):
            return None
        at = places[-1 - position]
        digit = str((int(gold[at]) + shift) % 10)
        return gold[:at] + digit + gold[at + 1 :]

    return mutate


def _unless(ends, change):
    """Where no number that ends or begins it is one of `ends`, of which the change would make the same."""

    def mutate(gold):
        text = _bare(gold)
        whole = re.fullmatch(r"-?(\d+(?:\.\d+)?)", text)
        edge = (
            whole or re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[)$]*$", text),
            whole or re.match(r"[$(]*(\d+(?:\.\d+)?)(?!\d)", text),
        )
        return None if any(found and float(found[1]) in ends for found in edge) else change(text)

    return mutate


def _swapped(gold):
    text = _bare(gold)
    found = re.fullmatch(r"(\\left)?([(\[])\s*([^,()\[\]]+),([^()\[\]]*[^,()\[\]]+)(\\right)?\s*([)\]])", text)
    if not found:
        return None
    items = [found[3].strip(), *(one.strip() for one in found[4].split(","))]
    turned = items[::-1]
    return None if turned == items else f"{found[2]}{', '.join(turned)}{found[6]}".replace(r"\right", "")


def _items(change):
    def mutate(gold):
        text = _bare(gold)
        items = [one.strip() for one in text.split(",")]
        if (
            len(items) < 2
            or re.search(r"[()\[\]{}$]|\\!|where|=|\\text", text)
            or re.fullmatch(r"\d{1,3}(,\d{3})+", text)
        ):
            return None
        return change(items)

    return mutate


MUTATIONS = {
    "!": _unless((1.0, 2.0), lambda g: g + "!"), "xy": _unless((0.0,), lambda g: g + "xy"), "x": _unless((0.0,), lambda g: g + "x"),
    " n": _unless((0.0,), lambda g: g + " n"), "a letter in front": _unless((0.0,), lambda g: "k" + g), "a digit": lambda g: _bare(g) + "7",
    "a digit in front": lambda g: "7" + _bare(g), "a factor": _unless((0.0,), lambda g: g + r" \cdot 3"),
    "a factor in front": _unless((0.0,), lambda g: rf"2 \cdot {g}"), "pi": _unless((0.0,), lambda g: g + r"\pi"),
    "a sum": lambda g: _bare(g) + "+1", "a difference": lambda g: _bare(g) + " - 1",
    "a power": _unless((0.0, 1.0), lambda g: (f"({g})" if g.startswith("-") else g) + "^3" if NUMBER.fullmatch(g) else None),
    "a half": _unless((0.0,), lambda g: g + "/2" if NUMBER.fullmatch(g) else None),
    "a root": _unless((0.0, 1.0), lambda g: rf"\sqrt{{{g}}}"), "minus": _unless((0.0,), lambda g: "-" + g if NUMBER.fullmatch(g) and not g.startswith("-") else None),
    "reciprocal": _unless((1.0, -1.0), lambda g: None if "pm" in g else rf"\frac{{1}}{{{g}}}"), "million": _unless((0.0,), lambda g: g + r" \text{ million}"),
    "tenths": _unless((0.0,), lambda g: g + r" \text{ tenths}"), "less than": lambda g: _bare(g) + r"\text{ less than }x",
    "two quantities": lambda g: _bare(g) + r"\text{ hours } 30 \text{ minutes}" if NUMBER.fullmatch(g) else None,
    "i": _unless((0.0,), lambda g: g + "i" if NUMBER.fullmatch(g) else None),
    "last digit": _digit(0, 1), "last digit by 5": _digit(0, 5), "digit before": _digit(1, 3), "third digit": _digit(2, 1),
    "fourth digit": _digit(3, 7), "a decimal": lambda g: g + ".5" if SIMPLE.fullmatch(g) else None,
    "shifted": _unless((0.0,), lambda g: g + "0" if SIMPLE.fullmatch(g) else None), "turned round": _swapped,
    "open for closed": lambda g: re.sub(r"\]$", ")", _bare(g)) if re.search(r"\]$", _bare(g)) else None,
    "closed for open": lambda g: re.sub(r"\)$", "]", _bare(g)) if re.match(r"^(\\left)?[(\[].*,.*\)$", _bare(g)) else None,
    "one item less": _items(lambda items: ", ".join(items[1:])), "one item more": _items(lambda items: ", ".join([*items, "77"])),
    "an item twice": _items(lambda items: ", ".join([*items, items[0]])),
    "tiny": _number(lambda g: g + r" + \frac{1}{2^{200}}"), "one in 10^30": _number(lambda g: g + r" - 10^{-30}"),
    "a list": _number(lambda g: g + ", 7"), "a point": _number(lambda g: f"({g}, 7)"), "an unknown": _number(lambda g: g + " + x"),
    "huge": _number(lambda g: "2^{20000}"), "not": lambda g: r"\text{not }" + _bare(g),
    "or": _number(lambda g: g + r" \text{ or } 77"), "other letters": lambda g: re.sub(r"(?<![\\A-Za-z{])([a-z])(?![a-z}])", "w", _bare(g)) if re.search(
        r"(?<![\\A-Za-z{])(?!w)([a-z])(?![a-z}])", _bare(g)) and not re.search(r"^[a-z] ?(=|\\in)", _bare(g)) else None,
}  # fmt: skip


def some(changes, gold, count=EACH):
    """So many that there are for a gold, by name; the choice depends on the gold alone."""
    found = {name: text for name, change in changes.items() if (text := change(gold)) is not None and text != gold}
    names = sorted(found)
    random.Random(gold).shuffle(names)
    return {name: found[name] for name in names[:count]}
