"""Time: instants are UTC with millisecond precision (what BSON keeps), days are Asia/Shanghai's."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

Clock = Callable[[], datetime]
SHANGHAI = ZoneInfo("Asia/Shanghai")


def now() -> datetime:
    """This instant."""
    return milliseconds(datetime.now(UTC))


def milliseconds(instant: datetime) -> datetime:
    """The instant as MongoDB will give it back."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def day(instant: datetime) -> str:
    """The Asia/Shanghai date of an instant, YYYY-MM-DD."""
    return instant.astimezone(SHANGHAI).date().isoformat()


def rfc3339(instant: datetime) -> str:
    """UTC with milliseconds: ``2025-08-13T01:02:03.004Z``."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"
