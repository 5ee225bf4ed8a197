"""Lets SGLang import and serve on a machine without a GPU.

SGLang 0.5.23 imports three packages unconditionally that a CPU machine lacks or does not need:

- ``sgl_kernel``: its CPU build is not on the package index;
- ``triton``: a gigabyte of GPU compiler;
- ``torchvision``: its compiled part does not load beside a CPU build of torch.

With torch-native attention none of their functions is ever *called*. `enable` therefore appends one finder to
``sys.meta_path`` that answers for these names alone. Python asks it last, so wherever the real package is installed
the stand-in does not exist. A stand-in's function raises when it is called: a wrong result is impossible.

Torch itself looks for triton before it compiles anything, and would take the stand-in for a compiler. Some models have
functions that are to be compiled, such as Gemma's rotary embedding; in a server (`serve.py`) they run as written.

Nothing here imports sglang or torch, so that it can run before either. When SGLang's torch-native attention is
imported, `attention` mends what it does in vain.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import shutil
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

MISSING = ("sgl_kernel", "triton", "torchvision")
_AT_IMPORT = {"triton.jit", "triton.autotune", "triton.heuristics", "triton.Config", "triton.language.constexpr"}


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA or AMD GPU that may be used, told without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and any(shutil.which(tool) for tool in ("nvidia-smi", "rocm-smi"))


def enable() -> None:
    """Makes ``import sglang`` work here; does nothing on a machine with a GPU. Call it before importing sglang."""
    if has_gpu():
        return
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
        sys.meta_path.insert(0, _Patcher())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for the missing packages and whatever is below them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        # SGLang installs its kernel-load watch only where triton has knobs.
        if fullname.partition(".")[0] not in MISSING or fullname == "triton.knobs":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Patcher(importlib.abc.MetaPathFinder):
    """Has SGLang's attention patched when it is imported, in whichever process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "sglang.srt.layers.attention.torch_native_backend":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            from a1_sgl.launch.attention import patch

            run(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class _StandIn(types.ModuleType):
    """A module whose every attribute is a `_placeholder`."""

    __version__ = "3.0.0"  # read by version checks at import

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _placeholder(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class _Meta(type):
    """Class attributes of a placeholder are placeholders too (``torchvision.transforms.InterpolationMode.BICUBIC``)."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _placeholder(f"{cls.__qualname__}.{name}")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        # Modules decorate their kernels and build tuning tables while they load; any other call is a use.
        if cls.__qualname__ in _AT_IMPORT:
            if len(args) == 1 and callable(args[0]):
                return args[0] if isinstance(args[0], _Kernel) else _Kernel(args[0])
            return cls
        raise RuntimeError(
            f"{cls.__qualname__} was called, but it is a stand-in on this CPU machine; "
            "serve with --device cpu --attention-backend torch_native, or install the real package"
        )


def _placeholder(name: str) -> Any:
    """A class, so that it serves as a base class, in annotations and in isinstance checks."""
    return _Meta(name.rpartition(".")[2], (), {"__qualname__": name})


class _Kernel:
    """A GPU kernel's stand-in: importable, but ``kernel[grid](...)`` and ``kernel(...)`` raise."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.fn = function
        self.__name__ = getattr(function, "__name__", "kernel")
        self.__module__ = getattr(function, "__module__", __name__)
        self.__doc__ = function.__doc__

    def __getitem__(self, grid: Any) -> _Kernel:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"triton kernel {self.__module__}.{self.__name__} was launched, but this machine has no GPU")
