"""The table of roles: complete, in both languages, and nobody grants beyond the own district or role."""

import itertools

import pytest

from contracts import roles
from contracts.codes import CITY, PLACES, within
from contracts.roles import OWN, ROLES, Role


def test_every_role_stands_in_the_table_in_both_languages() -> None:
    assert set(ROLES) == set(Role)
    assert all(about.zh and about.en.isascii() for about in ROLES.values())
    assert len({about.zh for about in ROLES.values()}) == len(ROLES)


def test_what_is_declared_is_never_granted_and_reaches_no_district() -> None:
    for role in roles.DECLARED:
        assert ROLES[role].over == OWN
        assert not any(roles.may_grant(roles.EVERYBODY, CITY, role, place) for place in ["", *PLACES])


@pytest.mark.parametrize(
    ("granter", "scope", "role", "over", "may"),
    [
        ("city_officer", CITY, "city_officer", CITY, True),
        ("city_officer", CITY, "county_officer", "370982", True),
        ("city_officer", CITY, "ops", CITY, True),
        ("city_officer", CITY, "ops", "370902", False),
        ("city_officer", CITY, "county_officer", CITY, False),
        ("county_officer", "370902", "county_officer", "370902", True),
        ("county_officer", "370902", "station_staff", "370902-js", True),
        ("county_officer", "370902", "station_staff", "370982", False),
        ("county_officer", "370902", "city_officer", CITY, False),
        ("county_officer", "370902", "finance", "370902", False),
        ("county_officer", "", "station_staff", "370902", False),
        ("unit_officer", "370902", "volunteer", "370902", True),
        ("unit_officer", "370902", "station_staff", "370902", False),
        ("unit_officer", "370902", "unit_officer", "370902", False),
        ("station_staff", "370902", "volunteer", "370902", False),
        ("ops", CITY, "ops", CITY, False),
        ("worker", "", "worker", "", False),
    ],
)
def test_who_may_grant_what(granter: str, scope: str, role: str, over: str, may: bool) -> None:
    assert roles.may_grant([granter], scope, role, over) is may


def test_nobody_reaches_beyond_the_own_district_by_granting() -> None:
    for granter, scope, role, over in itertools.product(Role, PLACES, Role, PLACES):
        if roles.may_grant([granter], scope, role, over):
            assert over == scope or over in within(scope)
            assert set(within(over)) <= set(within(scope))
