# SPDX-License-Identifier: Apache-2.0
"""restorer.record.dataclass does what the standard one does, for what restorer uses of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, astuple, field, fields, replace
from typing import Any

import pytest

from restorer import record

Maker = Callable[..., Any]


@pytest.fixture(params=[record.dataclass, dataclasses.dataclass], ids=["ours", "standard"])
def made(request: pytest.FixtureRequest) -> Any:
    """One class by each: what holds of the standard one holds of ours."""

    class Place:
        """A place."""

        number: int
        name: str = "none"
        seen: list[int] = field(default_factory=list, hash=False)
        note: str = field(default="", compare=False, repr=False)

    return request.param(frozen=True)(Place)


def test_values(made: Maker) -> None:
    place = made(1, note="x")
    assert (place.number, place.name, place.seen, place.note) == (1, "none", [], "x")
    assert astuple(made(1, "a", [2], "b")) == (1, "a", [2], "b")
    assert asdict(place) == {"number": 1, "name": "none", "seen": [], "note": "x"}
    assert made(1).seen is not made(1).seen
    assert [one.name for one in fields(place)] == ["number", "name", "seen", "note"]
    changed = replace(place, name="c")
    assert (changed.number, changed.name, changed.note) == (1, "c", "x")


@pytest.mark.parametrize(
    ("args", "given"), [((), {}), ((1, "a", [], "b", 5), {}), ((1,), {"number": 2}), ((1,), {"other": 2})]
)
def test_wrong_values(made: Maker, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Place"):
        made(*args, **given)


def test_equality_and_hash(made: Maker) -> None:
    assert made(1, note="a") == made(1, note="b")
    assert made(1) != made(2) and made(1, seen=[1]) != made(1) and made(1) != (1, "none", [])
    assert hash(made(1, seen=[1], note="a")) == hash(made(1, seen=[2], note="b"))
    assert len({made(1), made(1), made(2)}) == 2


def test_frozen(made: Maker) -> None:
    place = made(1)
    with pytest.raises(FrozenInstanceError):
        place.number = 2
    with pytest.raises(FrozenInstanceError):
        del place.number
    assert place.number == 1


def test_words(made: Maker) -> None:
    assert repr(made(1, note="x")).endswith("Place(number=1, name='none', seen=[])")


def test_others_are_the_standard_ones() -> None:
    @record.dataclass
    class Open:
        value: int = 0

    @record.dataclass(frozen=True, slots=True)
    class Small:
        value: int = 0

    @record.dataclass(frozen=True)
    class Careful:
        value: int = 0

        def __post_init__(self) -> None:
            if self.value < 0:
                raise ValueError("negative")

    opened = Open()
    opened.value = 3
    assert opened == Open(3)
    assert not hasattr(Small(), "__dict__") and Small(2) == Small(value=2)
    with pytest.raises(ValueError, match="negative"):
        Careful(-1)


def test_no_field() -> None:
    @record.dataclass(frozen=True)
    class Nothing:
        pass

    assert Nothing() == Nothing() and len({Nothing(), Nothing()}) == 1
