# SPDX-License-Identifier: GPL-2.0-only
"""Frozen, slotted value classes that cost nothing to import.

`dataclasses` does the same and more, but pulls in `inspect`, `re` and `ast`: 10 ms, a third of what a whole restore may
take. A type checker sees `record` as a frozen dataclass. No default factories (defaults are immutable values), no
`__post_init__`, no inheritance of fields.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def record(cls: type[T]) -> type[T]: ...

    def replace(value: T, **changes: object) -> T: ...

else:

    def record(cls):
        """Class decorator: the annotated names become slots, in order; assigned values become defaults."""
        fields = tuple(getattr(cls, "__annotations__", ()))
        body = {key: value for key, value in cls.__dict__.items() if key not in ("__dict__", "__weakref__", *fields)}
        body.update(
            __slots__=fields,
            __match_args__=fields,
            _defaults={name: cls.__dict__[name] for name in fields if name in cls.__dict__},
        )
        for name, method in _METHODS.items():
            body.setdefault(name, method)
        made = type(cls)(cls.__name__, cls.__bases__, body)
        made._setters = tuple(made.__dict__[name].__set__ for name in fields)
        return made

    def replace(value, **changes):
        """A copy of a record with some fields changed."""
        return type(value)(**{name: getattr(value, name) for name in value.__slots__} | changes)

    def _init(self, *args, **kwargs):  # some hundred records are made while a tree stands still
        if kwargs or len(args) != len(self.__slots__):
            args = _in_order(self, args, kwargs)
        for set_field, value in zip(self._setters, args, strict=True):
            set_field(self, value)

    def _in_order(self, args, kwargs):
        """The value of every field, from what was given by place and by name, and the defaults."""
        fields = self.__slots__
        values = {**self._defaults, **kwargs}
        given = fields[: len(args)]
        values.update(zip(given, args, strict=False))
        if len(args) > len(fields) or len(values) != len(fields) or not kwargs.keys().isdisjoint(given):
            wrong = [n for n in given if n in kwargs] or [n for n in values if n not in fields]
            wrong = wrong or [n for n in fields if n not in values] or args
            raise TypeError(f"{type(self).__name__}: missing, repeated, unknown or too many arguments: {wrong}")
        try:
            return tuple(map(values.__getitem__, fields))
        except KeyError as missing:
            raise TypeError(f"{type(self).__name__}: no value for {missing}") from None

    def _refuse(self, name, *_):
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: a record is frozen")

    def _values(self):
        return tuple(getattr(self, name) for name in self.__slots__)

    def _repr(self):
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in self.__slots__)})"

    _METHODS = {
        "__init__": _init,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__eq__": lambda self, other: _values(self) == _values(other) if type(other) is type(self) else NotImplemented,
        "__hash__": lambda self: hash(_values(self)),
        "__repr__": _repr,
    }
