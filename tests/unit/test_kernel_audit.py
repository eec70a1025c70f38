"""Rows of audit as they are sealed: their place, their canonical text, a document as it was inserted."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from services.kernel import audit, audit_verifier
from services.kernel.audit import Source
from services.kernel.mongo import Document
from tests.builders import NOON

NOTES, CHECKINS = Source("notes"), Source("checkins", own=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def change(id_: str, **changed: list[Any] | None) -> Document:
    """A row that rides in a document."""
    return {"id": id_, "at": NOON, "action": "x", "changed": changed}


def checkin(*rows: Document, **fields: Any) -> Document:
    """A check-in with what the kernel writes into it."""
    technical = {"_id": "c", "rev": 3, "seq": 2, "open": True, "out": [1], "sent": 1, "recorded_at": NOON}
    return {**technical, "unsealed": True, "sealed": [1], "people": 3, "status": "a", **fields, "audit": list(rows)}


def born(document: Document) -> Document:
    """The content of a document that is its own row."""
    return audit.rows(CHECKINS, document)[0].content


def test_rows_stand_where_they_ride_behind_the_document_that_is_one_itself() -> None:
    riding = [change("r1"), change("r2")]
    document = {"_id": "n", "audit": riding}
    assert audit.rows(NOTES, document) == [(0, "r1", riding[0]), (1, "r2", riding[1])]
    assert [(row.k, row.id) for row in audit.rows(CHECKINS, document)] == [(0, "n"), (1, "r1"), (2, "r2")]
    assert audit.rows(NOTES, {"_id": "n"}) == []


def test_a_document_that_is_its_own_row_counts_as_it_was_inserted() -> None:
    inserted = checkin()
    assert born(inserted) == {"people": 3, "status": "a"}
    later = checkin(
        change("r1", status=["a", "b"], at=[None, NOON]), change("r2", status=["b", "c"]), status="c", at=NOON
    )
    assert born(later) == born(inserted)


@pytest.mark.parametrize(
    "fields",
    [{"status": "a"}, {"status": "b"}, {"status": "z"}, {"at": NOON - timedelta(1)}, {"people": 4}, {"more": 1}],
)
def test_a_field_that_is_not_what_its_last_row_says_shows(fields: dict[str, Any]) -> None:
    rows = [change("r1", status=["a", "b"], at=[None, NOON]), change("r2", status=["b", "c"])]
    known = {"status": "c", "at": NOON}
    assert born(checkin(*rows, **{**known, **fields})) != born(checkin())


def test_a_personal_field_is_left_as_it_is() -> None:
    assert born(checkin(change("r1", phone=None), phone="x")) == {"people": 3, "status": "a", "phone": "x"}


@pytest.mark.parametrize(
    "broken",
    [{"audit": 3}, {"audit": [1, None]}, {"audit": [{"changed": 3}]}, {"audit": [{"changed": {"people": [1]}}]}],
)
def test_a_document_that_somebody_spoiled_still_has_rows(broken: Document) -> None:
    for source in (NOTES, CHECKINS):
        for row in audit.rows(source, {**checkin(), **broken}):
            assert len(audit.digest(row.content)) == 64


def test_links_that_are_none_count_as_no_link() -> None:
    assert audit.sealed({}) == audit.sealed({"sealed": "x"}) == []
    assert audit.sealed({"sealed": [1, "x", 3]}) == [1, 0, 3]


def test_the_canonical_text_is_this_one() -> None:
    value = {"b": [1, None, True, 36.19, 'é\u2028\x00"'], "a": NOON, "": {}}
    assert (
        audit_verifier.canonical(value, audit.plain)
        == '{"":{},"a":"2025-07-16T04:00:00.000Z","b":[1,null,true,36.19,"é\u2028\\u0000\\""]}'
    )
    assert audit.digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_an_instant_is_the_same_in_every_zone() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=8)))
    assert audit.digest({"at": NOON}) == audit.digest({"at": there})
    assert audit.digest({"at": NOON}) != audit.digest({"at": datetime(2025, 7, 16, 4, 0, 0, 1000, tzinfo=UTC)})


def test_whatever_a_database_may_hold_has_a_digest() -> None:
    for value in (ObjectId(), Binary(b"x"), Decimal128("1"), Int64(2**60), float("nan"), b"y"):
        assert len(audit.digest({"x": value})) == 64


@given(JSON)
def test_what_was_exported_and_read_again_has_the_same_digest(value: object) -> None:
    exported = audit_verifier.canonical({"row": value}, audit.plain)
    assert audit_verifier.digest(json.loads(exported)["row"]) == audit_verifier.digest(value)


def test_a_head_of_a_link_that_is_not_there_is_a_chain_that_was_cut() -> None:
    walk = audit_verifier.Walk([{"n": 1, "hash": "h"}, {"n": 9, "hash": "i", "rows": [["notes", "n", 0, "r", "x"]]}])
    link = {"n": 1, "prev": audit_verifier.NOTHING, "at": "t", "rows": []}
    assert [text.split(":")[1] for text in walk.step({**link, "hash": audit_verifier.link_hash(link)})] == [
        " rewritten"
    ]
    assert list(walk.end()) == [
        "link 9: cut off: it left the house, but the chain ends at link 1",
        "notes/n row r: cut off",
    ]


def test_an_empty_chain_agrees_with_no_head_only() -> None:
    assert list(audit_verifier.Walk().end()) == []
    assert len(list(audit_verifier.Walk([{"n": 1, "hash": "h"}]).end())) == 1
