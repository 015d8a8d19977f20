"""`@dataclass(frozen=True, slots=True)` at half its price, which an agent pays some ninety times before it does anything.

The standard one writes six methods of each class as text and compiles each. Here those whose speed matters are compiled, three
at once, and what prints and refuses is the same for all. Everything else is the standard library's: `field`, `fields`,
`replace`, matching, and every other combination of arguments. To mypy it is the standard one.

    from nodecore.record import dataclass

Pure. Read next: `tests/nodecore/test_record.py`, which holds it to what the standard one does.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field, FrozenInstanceError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(**how: bool) -> Any:
        """The decorator."""
        return _record if how == {"frozen": True, "slots": True} else dataclasses.dataclass(**how)


def _record(cls: type) -> type:
    if any(map(dataclasses.is_dataclass, cls.__bases__)):
        return dataclasses.dataclass(frozen=True, slots=True)(cls)
    own = cls.__dict__.keys()
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    made.__dataclass_params__.frozen = made.__dataclass_params__.eq = True
    for name, method in _methods(made, dataclasses.fields(made)).items():
        if name not in own:
            setattr(made, name, method)
    return cls if TYPE_CHECKING else made


def _methods(made: Any, fields: tuple[Field[Any], ...]) -> dict[str, Any]:
    names: dict[str, Any] = {"MISSING": MISSING}
    parameters, lines = ["self"], []
    for field in fields:
        name = field.name
        names[f"set_{name}"], names[f"default_{name}"], names[f"make_{name}"] = (
            getattr(made, name).__set__, field.default, field.default_factory
        )
        value = name
        if field.default_factory is not MISSING:
            value = f"make_{name}() if {name} is MISSING else {name}"
        optional = field.default is not MISSING or field.default_factory is not MISSING
        parameters.append(f"{name}=default_{name}" if optional else name)
        lines.append(f" set_{name}(self, {value})")
    lines += [" self.__post_init__()"] if hasattr(made, "__post_init__") else []
    own, other = ("".join(f"{which}.{field.name}, " for field in fields if field.compare) for which in ("self", "other"))
    exec(TEXT.format(parameters=", ".join(parameters), lines="\n".join(lines) or " pass", own=own, other=other), names)
    return {
        "__init__": names["__init__"], "__eq__": names["__eq__"], "__hash__": names["__hash__"], "__repr__": _repr(fields),
        "__reduce__": _reduce(fields), "__setattr__": _refuse_change, "__delattr__": _refuse_removal,
    }


TEXT = """
def __init__({parameters}):
{lines}
def __eq__(self, other):
 return ({own}) == ({other}) if other.__class__ is self.__class__ else NotImplemented
def __hash__(self):
 return hash(({own}))
"""


def _repr(fields: tuple[Field[Any], ...]) -> Any:
    shown = [field.name for field in fields if field.repr]

    def __repr__(self: object) -> str:
        return f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    return __repr__


def _reduce(fields: tuple[Field[Any], ...]) -> Any:
    return lambda self: (self.__class__, tuple(getattr(self, field.name) for field in fields))


def _refuse_change(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_removal(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
