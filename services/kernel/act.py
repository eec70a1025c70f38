"""An act: who does it, when, and in whose trace. What use cases carry from the entry point to the write."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.kernel import audit, clock
from services.kernel.auth import Actor
from services.kernel.outbox import Emit, Write


@dataclass(frozen=True, slots=True)
class Act:
    """Who does it, when, and in whose trace."""

    actor: Actor
    now: datetime
    trace: str

    def write(
        self,
        action: str,
        *emit: Emit,
        reason: str = "",
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        personal: Collection[str] = (),
    ) -> Write:
        """A write with its audit row and events; of fields that are ``personal`` the row keeps the names only."""
        row = audit.row(self.actor, action, at=self.now, reason=reason, before=before, after=after, personal=personal)
        return Write(self.now, self.trace, row, emit)

    @property
    def today(self) -> str:
        """The Asia/Shanghai date."""
        return clock.day(self.now)
