"""What the childcare service says."""

from typing import ClassVar, Final

from contracts.codes import NoticeReason, NoticeTemplate
from contracts.events import Code
from contracts.events.notices import NoticeRequested, Params

NEEDS: Final[dict[str, tuple[str, ...]]] = {
    NoticeTemplate.CHILDCARE_CONFIRMED: ("day",),
    NoticeTemplate.CHILDCARE_INELIGIBLE: ("reason",),
    NoticeTemplate.CHILDCARE_WAITLISTED: ("position",),
    NoticeTemplate.CHILDCARE_OFFERED: ("count",),
    NoticeTemplate.CHILDCARE_OFFER_EXPIRED: (),
    NoticeTemplate.CHILDCARE_PRIORITY_CHANGED: ("position", "reason"),
    NoticeTemplate.CHILDCARE_DRAW_COMMITTED: ("moment",),
    NoticeTemplate.CHILDCARE_DRAWN: ("position",),
    NoticeTemplate.CHILDCARE_REMOVED: ("reason",),
    NoticeTemplate.CHILDCARE_CLASS_CANCELLED: ("day",),
}
"""What the words of each notice need."""
REASONS: Final = (
    NoticeReason.AGE,
    NoticeReason.COUNTY,
    NoticeReason.OVERLAP,
    NoticeReason.ENTERED_TWICE,
    NoticeReason.WRONG_CHILD,
    NoticeReason.WRONG_CLASS,
    NoticeReason.NOT_ENTITLED,
    NoticeReason.ROSTER,
    NoticeReason.OFFICER,
    NoticeReason.ERROR,
)


class NoticeRequestedV1(NoticeRequested):
    """Childcare asks that somebody be told of an application or offer (``about``).

    Of ``account`` and ``ref`` one says who. ``params`` holds what the words of the template need.
    """

    type: ClassVar[str] = "childcare.notice_requested.v1"
    needs = NEEDS
    template = Code(NEEDS)
    params = Params(REASONS)
