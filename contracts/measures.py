"""The measures that counting events add to: the vocabulary between events and the metrics service."""

from dataclasses import dataclass
from typing import NamedTuple


class Count(NamedTuple):
    """One signed addition to a measure on one day: ``day`` is the Asia/Shanghai date of the fact, YYYY-MM-DD."""

    measure: str
    programme: str
    county: str
    day: str
    delta: int


@dataclass(frozen=True, slots=True)
class Measure:
    """What is counted, in which unit; ``stock`` measures are a level (the sum over all days so far)."""

    key: str
    zh: str
    unit: str
    stock: bool = False


MEASURES: dict[str, Measure] = {
    measure.key: measure
    for measure in (
        Measure("stations.checkins", "工会驿站服务人次", "人次"),
        Measure("stations.checkin_records", "工会驿站签到条数", "条"),
        Measure("stations.quarantined", "待核签到", "条", stock=True),
        Measure("stations.stations", "工会驿站", "家", stock=True),
        Measure("stations.suspended", "暂停服务的驿站", "家", stock=True),
        Measure("stations.mother_rooms", "新建工会妈妈小屋", "家"),
        Measure("stations.devices", "签到设备", "台", stock=True),
        Measure("stations.faults", "未排除故障", "起", stock=True),
        Measure("stations.silences", "失联次数", "次"),
        Measure("people.accounts", "实名账号", "个", stock=True),
        Measure("people.revocations", "提前终止的登录", "次"),
        Measure("people.erasures_confirmed", "各服务确认的资料删除", "次"),
        Measure("people.notices", "已送出的通知", "条"),
        Measure("people.notices_failed", "未送达的通知", "条"),
    )
}
