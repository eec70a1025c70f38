"""A CloudEvents SDK that knows nothing of us reads what we put on the wire."""

from datetime import datetime

import pytest
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.v1.event import CloudEvent

from contracts.catalogue import CATALOGUE
from contracts.envelope import BATCH_CONTENT_TYPE, CONTENT_TYPE, Event, dump, dump_batch
from tests.contract import outsiders
from tests.contract.builders import build

EVENTS = [build(entry.type) for entry in CATALOGUE]


def assert_same(read: CloudEvent, event: Event) -> None:
    attributes = {name: value for name, value in event.items() if name not in ("data", "time")}
    assert {name: value for name, value in read.get_attributes().items() if name != "time"} == attributes
    assert read.get_time() == datetime.fromisoformat(event["time"])
    assert read.get_data() == event["data"]


@pytest.mark.parametrize("event", EVENTS, ids=[event["type"] for event in EVENTS])
def test_sdk_reads_a_single_event(event: Event) -> None:
    [read] = outsiders.read(dump(event), CONTENT_TYPE)
    assert_same(read, event)


def test_sdk_reads_a_batch() -> None:
    for read, event in zip(outsiders.read(dump_batch(EVENTS), BATCH_CONTENT_TYPE), EVENTS, strict=True):
        assert_same(read, event)


def test_sdk_refuses_an_event_without_source() -> None:
    event = build("stations.checkin_recorded.v1")
    del event["source"]
    with pytest.raises(CloudEventValidationError):
        outsiders.read(dump(event), CONTENT_TYPE)
    with pytest.raises(CloudEventValidationError):
        outsiders.read(dump_batch([EVENTS[0], event]), BATCH_CONTENT_TYPE)


def test_message_of_another_content_type_is_no_event() -> None:
    with pytest.raises(ValueError, match="application/json"):
        outsiders.read(dump(EVENTS[0]), "application/json")
