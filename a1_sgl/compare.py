"""Naming the fields in which two configurations differ."""

from __future__ import annotations

import json
from typing import Any


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """One line a field that differs, ``name: old before, new now``; both are JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [f"{name}: {_short(old)} before, {_short(new)} now"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
