"""Counties, reporting units and who sees which."""

import pytest

from contracts.codes import CITY, COUNTIES, PLACES, REPORTING_UNITS, UNITS, within


@pytest.mark.parametrize(
    ("scope", "seen"),
    [
        (CITY, REPORTING_UNITS),
        ("370902", ("370902", "370902-js")),
        ("370911", ("370911", "370911-gx")),
        ("370911-gx", ("370911-gx",)),
        ("370982", ("370982",)),
        ("370999", ()),
        ("", ()),
        ("3709", ()),
    ],
)
def test_officer_sees_the_own_unit_and_its_zones(scope: str, seen: tuple[str, ...]) -> None:
    assert within(scope) == seen


def test_six_divisions_and_two_zones_report() -> None:
    assert COUNTIES == ("370902", "370911", "370921", "370923", "370982", "370983")
    assert set(REPORTING_UNITS) - set(COUNTIES) == {"370911-gx", "370902-js"}
    assert (CITY, *REPORTING_UNITS) == PLACES


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_unit_lies_in_the_city_and_begins_with_its_parents_code(unit: object) -> None:
    found = UNITS[getattr(unit, "code", "")]
    assert found is unit
    assert found.parent == CITY or (found.parent in COUNTIES and found.code.startswith(f"{found.parent}-"))
    assert found.zh
    assert found.en
