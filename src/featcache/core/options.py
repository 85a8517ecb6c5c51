"""Options declared once: a field of a frozen dataclass says all that signatures and help need.

A field made by `option` has its default as a user meets it, what is allowed, and its help. From the
fields come the checks, the signatures of Python functions and the options of the command line.
"""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_type_hints

from featcache.core.checks import (
    check_bool,
    check_choice,
    check_path,
    whole_number,
    word_or_number,
)
from featcache.core.errors import SpecError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """What a field says of itself."""

    name: str
    kind: Any  # its type, as Python users give it
    default: Any  # as a user meets it
    help: str  # for the command line: a few words
    doc: str  # for Python: a sentence
    panel: str | None  # of the command line's help; None is the first one
    typed: Any  # on the command line, its type there; None leaves it out
    flag: str | None  # how it is written there, where that is not --name
    allowed: tuple[str | None, ...] | None  # values; with `least` besides whole numbers
    least: int | None  # of whole numbers, as `most`
    most: int | None
    has_several: bool  # names separated by commas, on the command line

    @property
    def is_path(self) -> bool:
        """Whether its type, or what that is a union of, has paths."""
        return any(hasattr(one, "__fspath__") for one in get_args(self.kind))

    def checked(self, value: Any) -> Any:
        """Return a value, whole numbers as int.

        Raises
        ------
        SpecError
            When it is not allowed.
        """
        if self.allowed is not None and self.least is not None:
            return word_or_number(self.name, value, self.allowed, self.least, self.most)
        if self.allowed is not None and not (value is None and self.default is None):
            check_choice(self.name, value, self.allowed)
        if self.kind is bool:
            return check_bool(self.name, value)
        if self.is_path and not (value is None and self.default is None):
            check_path(self.name, value)
        if self.least is not None and (value is not None or self.default is not None):
            return whole_number(self.name, value, self.least, self.most)
        return value


def declared(
    default: Any,
    help: str,
    doc: str = "",
    *,
    panel: str | None = None,
    kind: Any = MISSING,
    typed: Any = MISSING,
    flag: str | None = None,
    allowed: tuple[str | None, ...] | None = None,
    least: int | None = None,
    most: int | None = None,
    has_several: bool = False,
    is_later: bool = False,
) -> dict[str, Any]:
    """Return the metadata of a dataclass's field that is an option.

    Parameters
    ----------
    default : as a user meets it.
    kind, typed : see `Option`; MISSING is the field's own type.
    is_later : of the spec: it came after the first feature files were written, so at its default it
        is left out of the fingerprint. Every new field of the spec is.
    """
    says = {
        "default": default,
        "help": help,
        "doc": doc or help,
        "panel": panel,
        "kind": kind,
        "typed": typed,
        "flag": flag,
        "allowed": allowed,
        "least": least,
        "most": most,
        "has_several": has_several,
    }
    return {"option": says, "is_later": is_later}


def option(default: Any, help: str, doc: str = "", *, asked: Any = MISSING, **more: Any) -> Any:
    """Return a dataclass's field that is an option; see `declared`.

    Parameters
    ----------
    asked : the default as a user meets it, where that is another one.
    """
    met = default if asked is MISSING else asked
    return field(default=default, metadata=declared(met, help, doc, **more))


def options_of(kind: type) -> dict[str, Option]:
    """Return the options that a dataclass declares, by name."""
    types = get_type_hints(kind)
    found = {}
    for one in fields(kind):
        if says := one.metadata.get("option"):
            says = dict(says)
            for name in ("kind", "typed"):
                if says[name] is MISSING:
                    says[name] = types[one.name]
            found[one.name] = Option(name=one.name, **says)
    return found


def taken(known: Mapping[str, Option], given: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return the value of every known option: what is given, checked, or its default.

    Raises
    ------
    SpecError
        When something is given that is not known, or a value is not allowed.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise SpecError(f"{whose} knows no option '{name}'; it knows {', '.join(known)}.{hint}")
    return {name: one.checked(given.get(name, one.default)) for name, one in known.items()}


def with_options(known: Mapping[str, Option]) -> Callable[[Function], Function]:
    """Give a function that takes `**options` the signature and the documentation of its options.

    In its docstring `{options}` stands for them.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
        more = [
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.kind
            )
            for one in known.values()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        lines = (f"{one.name} : {one.doc}" for one in known.values())
        wrapped = (textwrap.fill(one, 92, subsequent_indent=" " * 8) for one in lines)
        function.__doc__ = (function.__doc__ or "").replace("{options}", "\n    ".join(wrapped))
        return function

    return decorate
