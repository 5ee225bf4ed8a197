"""Packages that import a name when it is first asked for: SGLang takes seconds, and a list or a help text has no use
for it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy(package: str, modules: Mapping[str, str]) -> None:
    """Has `package` import the names in `modules`, each from that module of its own, when they are first asked for."""
    here = sys.modules[package]
    here.__dict__["_modules"] = modules
    here.__class__ = _Lazy


class _Lazy(ModuleType):
    _modules: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self._modules:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{self.__name__}.{self._modules[name]}"), name)
        setattr(self, name, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system makes a module an attribute of its package; where what it holds has its name, that is meant.
        if isinstance(value, ModuleType) and self._modules.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._modules})
