"""Query parameters of the events port, and the ways a value of one can be wrong.

Decides which spelling of a value is accepted; an unknown name is refused with the nearest one, a value that belongs to a
part not built yet answers 501: a promise is never accepted and ignored.
Never decides what a parameter does. Invariant: a parameter that was given is known, and was given once unless it may repeat.
Source: design page "What a person sees", Publishing and subscribing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from mesh.model.quantity import parse_duration
from mesh.protocols.problem import Problem, unknown_name

ACK_TIMEOUT_S: Final = 30.0
"""A publisher at least once is answered by then, unless its events have a deadline of their own."""
LONGEST_LIFE_S: Final = 86_400.0
"""The longest lifetime an event can be given."""


class Parameters:
    """The parameters of one request, checked against the names the path knows."""

    __slots__ = ("_given",)

    def __init__(
        self, pairs: Sequence[tuple[str, str]], known: Sequence[str], repeated: Collection[str] = ()
    ) -> None:
        """Args: known: every name the path takes. repeated: those of them that may come more than once.

        Raises: Problem MESH-E010 on an unknown name, MESH-E011 on a second value.
        """
        self._given: dict[str, list[str]] = {}
        for name, value in pairs:
            if name not in known:
                raise unknown_name("parameter", name, known)
            values = self._given.setdefault(name, [])
            if values and name not in repeated:
                raise Problem("MESH-E011", f"parameter {name!r} is given twice", where=name)
            values.append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def text(self, name: str, default: str = "") -> str:
        """The value, or `default` where it was not given."""
        values = self._given.get(name)
        return values[0] if values else default

    def texts(self, name: str) -> list[str]:
        """Every value of a parameter that may be repeated."""
        return list(self._given.get(name, ()))

    def choice(self, name: str, allowed: Sequence[str], not_built: Sequence[str] = ()) -> str:
        """One of `allowed`, of which the first is the default. Raises: Problem MESH-E009 (501) for one of `not_built`."""
        value = self.text(name, allowed[0])
        if value in allowed:
            return value
        if value in not_built:
            raise Problem(
                "MESH-E009", f"{name}={value} is not built yet; use {name}={allowed[0]}", where=name
            )
        choices = ", ".join(repr(one) for one in allowed)
        raise Problem("MESH-E011", f"{name}={value[:80]}: use {choices}", where=name)

    def duration_s(self, name: str, default_s: float, longest_s: float) -> float:
        """Seconds of a duration such as "5s" or "200ms", at most `longest_s`."""
        values = self._given.get(name)
        return check_duration_s(name, values[0], longest_s) if values else default_s

    def names(self, name: str) -> list[str]:
        """A list written "a,b"; [] where it was not given."""
        return [one for one in self.text(name).split(",") if one]


def check_choice(name: str, value: str, allowed: Sequence[str], not_built: Sequence[str] = ()) -> str:
    """`value` if it is one of `allowed`. Raises: Problem MESH-E009 (501) for one of `not_built`, MESH-E011 for others."""
    if value in allowed:
        return value
    if value in not_built:
        raise Problem("MESH-E009", f"{name}={value} is not built yet; use {name}={allowed[0]}", where=name)
    choices = ", ".join(repr(one) for one in allowed)
    raise Problem("MESH-E011", f"{name}={value[:80]}: use {choices}", where=name)


def check_duration_s(name: str, value: str | float, longest_s: float) -> float:
    """Seconds of "5s", or of a plain number of seconds where an op carries one. Raises: Problem MESH-E011."""
    try:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
    except ValueError as error:
        raise Problem(
            "MESH-E011", f"{name}: {error}; write a number and a unit, such as 5s or 200ms", where=name
        ) from None
    if not 0 <= seconds <= longest_s:  # also false for NaN
        raise Problem("MESH-E011", f"{name}: {str(value)[:40]} is outside 0s to {longest_s:g}s", where=name)
    return seconds
