# SPDX-License-Identifier: Apache-2.0
"""Builds restorer._native: the tracer's C and the structures of wire.h, as one cffi module.

Used by setup.py (`cffi_modules=["restorer/native_build.py:ffibuilder"]`), from the project's root.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

_TRACER = Path("native/tracer")
_INCLUDE = Path("native/include")


def headers() -> list[Path]:
    """What the module declares: error.h first, since the other headers of the tracer use it."""
    rest = sorted(path for path in _TRACER.glob("*.h") if path.name != "error.h")
    return [_TRACER / "error.h", *rest, _INCLUDE / "wire.h"]


def declarations(source: str) -> str:
    """A header's text without comments and preprocessor lines, which cffi does not read."""
    source = re.sub(r"/\*.*?\*/", " ", source, flags=re.DOTALL)
    source = re.sub(r"//[^\n]*", "", source)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*\n", "", source, flags=re.MULTILINE)


def _make() -> FFI:
    ffi = FFI()
    for header in headers():
        ffi.cdef(declarations(header.read_text()))
    ffi.set_source(
        "restorer._native",
        "".join(f'#include "{header.name}"\n' for header in headers()),
        sources=[str(path) for path in sorted(_TRACER.glob("*.c"))],
        depends=[str(path) for path in headers()],
        include_dirs=[str(_TRACER), str(_INCLUDE)],
        define_macros=[("_GNU_SOURCE", None)],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )
    return ffi


ffibuilder = _make()
