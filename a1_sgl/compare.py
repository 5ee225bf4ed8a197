"""Naming the fields in which two configurations differ."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A field that differs, with both its values as short JSON."""

    field: str
    old: str
    new: str


def changes(old: Any, new: Any, name: str = "") -> list[Change]:
    """The fields that differ, by name; both are JSON values, and a field that is missing is null."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in sorted(old.keys() | new.keys())
            for change in changes(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [Change(name, _short(old), _short(new))]


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """One line a field that differs, ``name: old before, new now``; both are JSON values."""
    return [f"{one.field}: {one.old} before, {one.new} now" for one in changes(old, new, name)]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
