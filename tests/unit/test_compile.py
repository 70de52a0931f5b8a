# SPDX-License-Identifier: Apache-2.0
"""What a manifest makes of state."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from restorer.compile import plain


@dataclass(frozen=True)
class Inner:
    flags: frozenset[str]
    raw: bytes


@dataclass(frozen=True)
class Outer:
    name: str
    parts: tuple[Inner, ...]


def test_state_becomes_json() -> None:
    state = Outer("a", (Inner(frozenset({"wr", "rd"}), b"\1\xff"), Inner(frozenset(), bytes(1000))))
    assert json.loads(json.dumps(state, default=plain)) == {
        "name": "a",
        "parts": [{"flags": ["rd", "wr"], "raw": "01ff"}, {"flags": [], "raw": "1000 bytes"}],
    }


def test_what_has_no_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="object has no place"):
        json.dumps({"x": object()}, default=plain)
