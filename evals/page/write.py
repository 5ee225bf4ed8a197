"""Pages: one file, no network, light and dark, any width."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from a1_sgl.errors import ConfigError
from a1_sgl.evals.page.figures import Draw

HERE = Path(__file__).parent
# Whatever a model wrote goes through autoescape or, as data for the script, through `as_json`.
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def as_json(value: Any) -> Markup:
    """JSON that cannot end the ``<script>`` element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _cell(text: str) -> Markup:
    """Lines break before an interval and after an underscore, and in no interval."""
    text = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    return escape(text).replace("_", Markup("_<wbr>"))


_ENVIRONMENT.filters["cell"] = _cell


def save(
    page: Path, title: str, about: str, tables: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Draw | Mapping[str, Draw]], note: str = "", **more: Any,
) -> list[Path]:  # fmt: skip
    """Writes a page, and each of its figures as a PNG beside it.

    Args:
        tables: each with ``title``, ``head`` and ``rows``; the first opens the page.
        figures: by what they show, of which the PNGs' names are made, after the page's; of several under one the
            reader chooses.
        more: ``sentences``, ``pairs``, ``details`` and what the chain browser needs, of a report of runs.

    Raises:
        ConfigError: the page cannot be written.
    """
    groups, written = [], [page]
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for name, one in figures.items():
            pictures = []
            for choice, draw in (one if isinstance(one, Mapping) else {"": one}).items():
                wide = _png(draw(False), 130)
                written.append(page.with_name(f"{page.stem}-{_plain(f'{name} {choice}')}.png"))
                written[-1].write_bytes(wide)
                pictures.append({"choice": choice, "wide": _url(wide), "narrow": _url(_png(draw(True), 200))})
            groups.append({"name": name, "pictures": pictures})
        parts = {"style": Markup((HERE / "style.css").read_text()), "script": Markup((HERE / "script.js").read_text())}
        page.write_text(
            _ENVIRONMENT.get_template("page.html").render(
                title=title, about=about, tables=tables, figures=groups, note=note, as_json=as_json, **parts, **more
            )
        )
    except OSError as error:
        raise ConfigError(f"{page} cannot be written: {error.strerror}") from error
    return written


def _plain(name: str) -> str:
    return "-".join(re.findall(r"\w+", name, re.ASCII))[:100]


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi)
    return buffer.getvalue()


def _url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
