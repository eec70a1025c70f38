"""Who changed what, when and why: a row that rides in the changed document's own write.

Fields that may hold personal data are named, their values are not kept. Sealing the rows into a chain is the work
of one later process; until then ``sealed`` is absent.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from services.kernel import ids
from services.kernel.auth import Actor


def row(
    actor: Actor,
    action: str,
    *,
    at: datetime,
    reason: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    personal: Collection[str] = (),
) -> dict[str, Any]:
    """One audit row: actor, action (``station.suspend``), time, reason, and the fields that differ."""
    before, after = before or {}, after or {}
    changed = {
        name: None if name in personal else [before.get(name), after.get(name)]
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }
    return {
        "id": ids.new(),
        "at": at,
        "actor": actor.id,
        "kind": actor.kind,
        "scope": actor.scope,
        "action": action,
        "reason": reason,
        "changed": changed,
    }
