"""Every event in words, for a page."""

import pytest
from marshmallow import fields, validate

from contracts.catalogue import CATALOGUE, Catalogue, Entry
from contracts.describe import describe
from contracts.events import EventData, Number, Part
from contracts.events.stations import StationClosedV1


class _Seat(Part):
    number = Number(1, 20)


class _SeatTaken(EventData):
    """A seat was taken."""

    type = "childcare.seat_taken.v1"
    restricted = True
    seat = fields.Nested(_Seat)
    hash = fields.String(validate=[validate.Length(equal=4), validate.Regexp("^[0-9a-f]+$")])
    rows = fields.List(fields.String(), validate=[validate.Length(max=3), validate.ContainsNoneOf("x")])


class _Unheard(EventData):
    """A field of a kind that no event has had."""

    type = "childcare.unheard_of.v1"
    amount = fields.Decimal()


def test_every_event_is_described_in_the_catalogues_order() -> None:
    assert [event["type"] for event in describe()] == [entry.type for entry in CATALOGUE]
    for event in describe():
        assert event["meaning"]
        assert event["owner"] == event["type"].split(".")[0]
        assert ("metrics" in event["consumers"]) != event["restricted"]
        assert "day" in [field["name"] for field in event["fields"]]


def test_fields_are_told_with_type_constraint_and_need() -> None:
    [event] = describe(Catalogue([Entry(StationClosedV1, ("metrics", "care"))]))
    assert event["meaning"].startswith("A station closed for good")
    assert event["consumers"] == ["care", "metrics"]
    assert event["fields"] == [
        {"name": "day", "type": "string", "constraint": "date", "required": True},
        {"name": "was_suspended", "type": "boolean", "constraint": "", "required": True},
        {"name": "facilities", "type": "list of object", "constraint": "[0 … 7]", "required": True},
        {
            "name": "facilities[].kind",
            "type": "string",
            "constraint": "water | microwave | first_aid | charging | mother_room | rest | toilet",
            "required": True,
        },
        {"name": "facilities[].since", "type": "string", "constraint": "date", "required": True},
    ]


def test_nested_objects_patterns_and_lengths_are_told() -> None:
    [event] = describe(Catalogue([Entry(_SeatTaken, ("care",))]))
    assert event["restricted"]
    assert event["fields"] == [
        {"name": "seat", "type": "object", "constraint": "", "required": False},
        {"name": "seat.number", "type": "integer", "constraint": "1 … 20", "required": True},
        {"name": "hash", "type": "string", "constraint": "[4] ^[0-9a-f]+$", "required": False},
        {"name": "rows", "type": "list of string", "constraint": "[0 … 3]", "required": False},
    ]


def test_list_of_codes_tells_the_codes() -> None:
    reasons = next(
        field
        for event in describe()
        if event["type"] == "stations.checkin_quarantined.v1"
        for field in event["fields"]
        if field["name"] == "reasons"
    )
    assert reasons["type"] == "list of string"
    assert reasons["constraint"].startswith("[1 … 6] (captured_in_future | ")


def test_field_of_an_unknown_kind_is_not_passed_over() -> None:
    with pytest.raises(TypeError, match="Decimal"):
        describe(Catalogue([Entry(_Unheard, ())]))
