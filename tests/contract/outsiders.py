"""How somebody who has none of our code reads a message: with the CloudEvents project's own SDK.

Imports nothing of ours, so that agreeing with it means something. The SDK reads single events; a batch is by the
CloudEvents JSON format (section 4) an array of them, taken apart here by the standard library.
"""

import json

from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event
from cloudevents.core.v1.event import CloudEvent

SINGLE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


def read(body: bytes, content_type: str) -> list[CloudEvent]:
    """The events of a captured AMQP message, by the SDK.

    Raises:
        ValueError: the content type is neither a single event's nor a batch's.
        cloudevents.core.exceptions.CloudEventValidationError: an event is not a CloudEvent.
    """
    if content_type == SINGLE:
        return [_single(body)]
    if content_type == BATCH:
        return [_single(json.dumps(item).encode()) for item in json.loads(body)]
    raise ValueError(content_type)


def _single(body: bytes) -> CloudEvent:
    read_event = from_rabbitmq_event(RabbitMQMessage(headers={}, content_type=SINGLE, body=body))
    if not isinstance(read_event, CloudEvent):
        raise TypeError(type(read_event))
    return read_event
