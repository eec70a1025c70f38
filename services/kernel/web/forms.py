"""A form between two requests: what was typed, what is wrong with it, and the hidden members that make it safe.

What a person typed goes back into that person's own form, in the answer to the same request (``no-store``), ID
numbers and phones included: whoever mistyped one digit of eighteen corrects one. It goes nowhere else: never into an
address, a message or a log. Passwords and files are not sent back.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.kernel.errors import EStationError, Invalid


@dataclass(frozen=True, slots=True)
class Field:
    """One field as it is shown; ``error`` is a message code."""

    name: str
    label: str
    value: str = field(repr=False)
    error: str | None

    @property
    def id(self) -> str:
        """The id of its element, which the error summary links to."""
        return "f-" + self.name.replace(".", "-")


@dataclass(frozen=True, slots=True)
class Form:
    """A form; the macros of ``frame/forms.html`` show it."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    errors: Mapping[str, str] = field(default_factory=dict)
    """Message codes by field; those of the form as a whole stand under the empty name."""
    csrf: str | None = field(default=None, repr=False)
    key: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    """The Idempotency-Key: new with every form that is shown, since what was refused has left nothing behind."""
    shown: dict[str, Field] = field(default_factory=dict)
    """The fields in the order of the page, noted while they are rendered: the error summary follows it."""

    def field(self, name: str, label: str) -> Field:
        """The field of a name, noted as shown."""
        return self.shown.setdefault(name, Field(name, label, self.values.get(name, ""), self.errors.get(name)))

    @property
    def wrong(self) -> list[Field]:
        """What the error summary lists: wrong fields in the page's order, then what no field of the page stands for."""
        here = [one for one in self.shown.values() if one.error]
        elsewhere = [Field("", name, "", code) for name, code in self.errors.items() if name not in self.shown]
        return here + elsewhere


def form_errors(error: EStationError) -> dict[str, str]:
    """Message codes by field, the first of each; an error without fields stands under the empty name."""
    found: dict[str, str] = {}
    for one in error.errors if isinstance(error, Invalid) else ():
        found.setdefault(one.field, one.code)
    return found or {"": error.code}
