"""No event has room for a person."""

from typing import Any

import pytest
from marshmallow import Schema, fields, validate

from contracts import generate
from contracts.catalogue import CATALOGUE, Catalogue, Entry
from contracts.events import EventData, Identifier
from tests.contract.privacy import rooms_for_persons


@pytest.mark.parametrize("entry", list(CATALOGUE), ids=lambda entry: entry.type)
def test_no_event_has_room_for_a_person(entry: Entry) -> None:
    assert list(rooms_for_persons(generate.schema(entry), restricted=entry.schema.restricted)) == []


def with_field(name: str, field: fields.Field[Any], *, restricted: bool = False) -> Entry:
    """An entry whose event has one field more than it should."""
    data = type(
        "Suspect",
        (EventData,),
        {"type": "care.suspect_seen.v1", "restricted": restricted, "station": Identifier(), name: field},
    )
    return Entry(data, ("stations",))


def digits(count: int) -> fields.String:
    return fields.String(validate=validate.Regexp(rf"^[0-9]{{{count}}}$"))


KEY = "^[0-9a-f]{64}$"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        pytest.param("remedy", fields.String(), id="unconstrained string"),
        pytest.param("remedy", fields.String(validate=validate.Length(max=20)), id="string of a length only"),
        pytest.param("code", fields.String(validate=validate.Regexp("^[A-Za-z0-9-]{1,64}$")), id="any word"),
        pytest.param("code", fields.String(validate=validate.Regexp("^[0-9]+$")), id="any digits"),
        pytest.param("code", digits(11), id="shape of a phone"),
        pytest.param("code", digits(18), id="shape of an ID number"),
        pytest.param("code", fields.String(validate=validate.Regexp("[0-9a-f]{4}")), id="pattern without ends"),
        pytest.param("name", fields.String(validate=validate.OneOf(["a"])), id="name"),
        pytest.param("contact_phone", fields.String(validate=validate.Regexp(KEY)), id="phone"),
        pytest.param("id_number", fields.String(validate=validate.Regexp(KEY)), id="ID number"),
        pytest.param("id_card", fields.Boolean(), id="ID card"),
        pytest.param("home_address", fields.String(validate=validate.OneOf(["a"])), id="address"),
        pytest.param("remarks", fields.String(validate=validate.OneOf(["a"])), id="remarks"),
        pytest.param("amount", fields.Integer(strict=True), id="unbounded number"),
        pytest.param("amount", fields.Integer(validate=validate.Range(min=0)), id="number without maximum"),
        pytest.param("amount", fields.Integer(validate=validate.Range(0, 10**11)), id="number as long as a phone"),
        pytest.param("amount", fields.Float(), id="float"),
        pytest.param("details", fields.Dict(), id="open object"),
        pytest.param("details", fields.Raw(), id="anything"),
        pytest.param("details", fields.List(fields.String()), id="list of strings"),
        pytest.param(
            "details", fields.List(fields.Nested(Schema.from_dict({"note": fields.Boolean()}))), id="name inside a list"
        ),
        pytest.param("remedy", fields.String(validate=validate.OneOf(["a"]), allow_none=True), id="nullable"),
        pytest.param("person_ref", fields.String(validate=validate.Regexp(KEY)), id="person_ref, not restricted"),
    ],
)
def test_event_with_room_for_a_person_is_refused(name: str, field: fields.Field[Any]) -> None:
    schema = generate.schema(with_field(name, field))
    assert [place for place in rooms_for_persons(schema, restricted=False) if name in place]


def test_person_ref_may_travel_in_a_restricted_event_only() -> None:
    entry = with_field("person_ref", fields.String(validate=validate.Regexp(KEY)), restricted=True)
    assert list(rooms_for_persons(generate.schema(entry), restricted=True)) == []


def test_restricted_event_never_reaches_metrics() -> None:
    entry = with_field("person_ref", fields.String(validate=validate.Regexp(KEY)), restricted=True)
    Catalogue([entry])
    with pytest.raises(ValueError, match="restricted"):
        Catalogue([Entry(entry.schema, ("stations", "metrics"))])
