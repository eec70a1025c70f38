"""Roles: what a person can be here, over which district, and who makes somebody so. The one table of them.

What a role may do stands where it is done: each service's ``rules`` name the roles of its entry points. A person has
the roles that were declared or granted, all of them over one and the same district.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from contracts.codes import CITY, PLACES, REPORTING_UNITS, within


class Role(StrEnum):
    """What somebody is here."""

    WORKER = "worker"
    PARENT = "parent"
    STATION_STAFF = "station_staff"
    VOLUNTEER = "volunteer"
    UNIT_OFFICER = "unit_officer"
    COUNTY_OFFICER = "county_officer"
    CITY_OFFICER = "city_officer"
    FINANCE = "finance"
    OPS = "ops"


@dataclass(frozen=True, slots=True)
class About:
    """A role in both languages, the districts it can be held over, and the roles that may grant it."""

    zh: str
    en: str
    over: tuple[str, ...]
    granted_by: frozenset[Role]


OWN: Final[tuple[str, ...]] = ()
"""Held over no district: such a person sees what is the person's own."""
_CITY: Final = frozenset({Role.CITY_OFFICER})
_COUNTY: Final = _CITY | {Role.COUNTY_OFFICER}
_UNIT: Final = _COUNTY | {Role.UNIT_OFFICER}

ROLES: Final[dict[Role, About]] = {
    Role.WORKER: About("职工", "Worker", OWN, frozenset()),
    Role.PARENT: About("家长", "Parent", OWN, frozenset()),
    Role.STATION_STAFF: About("驿站工作人员", "Station staff", REPORTING_UNITS, _COUNTY),
    Role.VOLUNTEER: About("志愿者", "Volunteer", REPORTING_UNITS, _UNIT),
    Role.UNIT_OFFICER: About("基层工会经办人", "Officer of a grass-roots union", REPORTING_UNITS, _COUNTY),
    Role.COUNTY_OFFICER: About("县级工会经办人", "Officer of a county federation", REPORTING_UNITS, _COUNTY),
    Role.CITY_OFFICER: About("市总工会经办人", "Officer of the city federation", (CITY,), _CITY),
    Role.FINANCE: About("财务", "Finance", PLACES, _CITY),
    Role.OPS: About("运维", "Operations", (CITY,), _CITY),
}
EVERYBODY: Final = frozenset(map(str, Role))
DECLARED: Final = (Role.WORKER, Role.PARENT)
"""What people say of themselves; the services that depend on it look further."""
GRANTED: Final = tuple(role for role, about in ROLES.items() if about.granted_by)
OFFICERS: Final = frozenset(map(str, _UNIT))


def may_grant(roles: Collection[str], scope: str, role: str, over: str) -> bool:
    """Whether somebody with ``roles`` over ``scope`` may make another a ``role`` over a district, or end that.

    At or below the own district, and only what the table leaves to the own roles.
    """
    about = ROLES[Role(role)]
    inside = over == scope or over in within(scope)
    return inside and over in about.over and not about.granted_by.isdisjoint(roles)
