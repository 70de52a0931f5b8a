# SPDX-License-Identifier: Apache-2.0
"""`dataclass`, made in a fraction of the time.

The standard one compiles six functions for each frozen class; for those of a checkpoint this takes longer
than to checkpoint a small process (docs/decisions.md). Here they are closures over the names of the fields.
`fields`, `replace`, `asdict` and `astuple` of the standard module work on the result. Classes that are not
frozen, have slots, or bring one of these functions themselves, are left to the standard one.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_OWN = frozenset({"__post_init__", "__eq__", "__hash__", "__repr__"})

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False):
        """As dataclasses.dataclass, with these of its options."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen, slots=slots)
        if slots or not frozen or not _OWN.isdisjoint(vars(cls)):
            return dataclasses.dataclass(cls, frozen=frozen, slots=slots)
        return _frozen(dataclasses.dataclass(cls, init=False, repr=False, eq=False))


def _frozen(cls: Any) -> Any:
    fields = dataclasses.fields(cls)
    cls.__init__ = _init_of(cls.__qualname__, fields)
    cls.__setattr__ = cls.__delattr__ = _refuse
    cls.__repr__ = _repr_of([field.name for field in fields if field.repr])
    cls.__eq__ = _eq_of([field.name for field in fields if field.compare])
    cls.__hash__ = _hash_of(
        [field.name for field in fields if (field.compare if field.hash is None else field.hash)]
    )
    return cls


def _init_of(title: str, fields: tuple[dataclasses.Field[Any], ...]) -> Any:
    names = tuple(field.name for field in fields)

    def __init__(self: Any, /, *args: Any, **given: Any) -> None:
        if given or len(args) != len(names):
            args = _bind(title, fields, args, given)
        self.__dict__.update(zip(names, args, strict=True))

    return __init__


def _bind(
    title: str, fields: tuple[dataclasses.Field[Any], ...], args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[Any, ...]:
    """The value of every field. Raises TypeError as a function with these parameters would."""
    if len(args) > len(fields):
        raise TypeError(f"{title}() takes {len(fields)} values, but {len(args)} were given")
    values = list(args)
    for field in fields[len(args) :]:
        if field.name in given:
            values.append(given.pop(field.name))
        elif field.default is not dataclasses.MISSING:
            values.append(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            values.append(field.default_factory())
        else:
            raise TypeError(f"{title}() misses {field.name!r}")
    if given:
        raise TypeError(f"{title}() has no {min(given)!r}, or got it twice")
    return tuple(values)


def _refuse(self: Any, name: str, _value: Any = None) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change field {name!r} of {type(self).__qualname__}")


def _key_of(names: list[str]) -> Any:
    return attrgetter(*names) if names else lambda _record: ()


def _eq_of(names: list[str]) -> Any:
    key = _key_of(names)

    def __eq__(self: Any, other: Any) -> Any:
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash_of(names: list[str]) -> Any:
    key = _key_of(names)
    return lambda self: hash(key(self))


def _repr_of(names: list[str]) -> Any:
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__
