"""Exchanges, queues, bindings, policies and users: derived from the catalogue, declared by ``estation migrate``.

Every consumer has one quorum queue, ``<consumer>.inbox``; a direct exchange ``<consumer>.retry`` leads to its wait
queues (which return only to the inbox) and to ``<consumer>.dead``. Behaviour is in policies, so that it can change
without declaring a queue anew. No inbox has a maximum length: one full queue would make the broker refuse every
event for its neighbours too; depth and disk are alerted instead.
"""

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from contracts import catalogue
from contracts.catalogue import Catalogue

HANDLER_DELIVERY_LIMIT: Final = 20
BATCH_DELIVERY_LIMIT: Final = 1000
"""High: a crash counts a delivery for everything prefetched, and the batch consumer parks poison itself."""
PARKED_DELIVERY_LIMIT: Final = 1_000_000
"""Looking at what is parked gives it back, which counts: from RabbitMQ 4 on, twenty looks would throw it away."""

_AT_LEAST_ONCE: Final = {"dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}


def sender(exchange: str, consumer: str) -> str | None:
    """The source that events must name which came by an exchange; None for the consumer's own retries.

    Each service may publish on its own exchange alone, so there it can speak for nobody else.
    """
    return None if exchange == retry_exchange(consumer) else "/services/" + exchange.removesuffix(".events")


def retry_exchange(consumer: str) -> str:
    """Where a consumer puts what it could not apply: routing keys are its pauses, ``dead`` and ``inbox``."""
    return f"{consumer}.retry"


def definitions(
    events: Catalogue,
    vhost: str,
    passwords: Mapping[str, str],
    *,
    single_active: tuple[str, ...] = (catalogue.METRICS,),
) -> dict[str, Any]:
    """A RabbitMQ definitions document for the whole topology in one vhost."""
    exchanges, queues, bindings, policies, permissions = [], [], [], [], []

    def exchange(name: str, kind: str, **arguments: object) -> None:
        exchanges.append(
            {
                "name": name,
                "vhost": vhost,
                "type": kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": arguments,
            }
        )

    def queue(name: str, **arguments: object) -> None:
        queues.append(
            {
                "name": name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-queue-type": "quorum", **arguments},
            }
        )

    def bind(source: str, destination: str, key: str) -> None:
        bindings.append(
            {
                "source": source,
                "vhost": vhost,
                "destination": destination,
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
            }
        )

    def policy(queue_name: str, **definition: object) -> None:
        policies.append(
            {
                "name": queue_name,
                "vhost": vhost,
                "pattern": "^" + queue_name.replace(".", r"\.") + "$",
                "apply-to": "queues",
                "priority": 10,
                "definition": definition,
            }
        )

    exchange(catalogue.UNROUTED, "fanout")
    queue(catalogue.UNROUTED)
    policy(catalogue.UNROUTED, **{"delivery-limit": PARKED_DELIVERY_LIMIT})
    bind(catalogue.UNROUTED, catalogue.UNROUTED, "")
    for owner in events.owners:
        exchange(catalogue.exchange(owner), "topic", **{"alternate-exchange": catalogue.UNROUTED})
    for consumer in events.consumers:
        inbox, retry = catalogue.inbox(consumer), retry_exchange(consumer)
        single = consumer in single_active
        exchange(retry, "direct")
        queue(inbox, **({"x-single-active-consumer": True} if single else {}))
        policy(
            inbox,
            **{
                "delivery-limit": BATCH_DELIVERY_LIMIT if single else HANDLER_DELIVERY_LIMIT,
                "dead-letter-exchange": retry,
                "dead-letter-routing-key": "dead",
                **_AT_LEAST_ONCE,
            },
        )
        bind(retry, inbox, "inbox")
        for pause, seconds in catalogue.WAITS.items():
            name = catalogue.wait(consumer, pause)
            queue(name)
            policy(
                name,
                **{
                    "message-ttl": seconds * 1000,
                    "dead-letter-exchange": retry,
                    "dead-letter-routing-key": "inbox",
                    **_AT_LEAST_ONCE,
                },
            )
            bind(retry, name, pause)
        queue(catalogue.dead(consumer))
        policy(catalogue.dead(consumer), **{"delivery-limit": PARKED_DELIVERY_LIMIT})
        bind(retry, catalogue.dead(consumer), "dead")
        for entry in events.consumed_by(consumer):
            bind(catalogue.exchange(entry.owner), inbox, entry.type)
    for user in sorted({*events.owners, *events.consumers}):
        own = user.replace(".", r"\.")
        permissions.append(
            {
                "user": user,
                "vhost": vhost,
                "configure": "^$",
                "write": rf"^{own}\.(events|retry)$",
                "read": rf"^{own}\.inbox$",
            }
        )
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(name, password) for name, password in sorted(passwords.items())],
        "permissions": [permission for permission in permissions if permission["user"] in passwords],
        "policies": policies,
        "exchanges": exchanges,
        "queues": queues,
        "bindings": bindings,
    }


def _user(name: str, password: str) -> dict[str, Any]:
    salt = hashlib.sha256(f"{name}:{password}".encode()).digest()[:4]  # the same each time: migrate changes nothing
    digest = hashlib.sha256(salt + password.encode()).digest()
    return {
        "name": name,
        "password_hash": base64.b64encode(salt + digest).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
    }


class Management:
    """The broker's management API: what ``estation migrate`` and ``estation dlq`` need of it."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        """``url`` carries user and password."""
        parts = urlsplit(url)
        credentials = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}".encode()
        self._base = f"{parts.scheme}://{parts.hostname}:{parts.port or 15672}/api"
        self._headers = {
            "Authorization": "Basic " + base64.b64encode(credentials).decode(),
            "Content-Type": "application/json",
        }
        self._timeout = timeout

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One call; ``path`` is below ``/api``.

        Raises:
            OSError: the broker is away or refused (urllib.error.HTTPError).
        """
        request = urllib.request.Request(  # noqa: S310 (an operator's setting)
            self._base + path,
            method=method,
            headers=self._headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
            raw = answer.read()
        return json.loads(raw) if raw else None

    def apply(self, wanted: Mapping[str, Any]) -> list[str]:
        """Declares the topology and takes away bindings of ours that it no longer has; says what it removed."""
        vhost = wanted["vhosts"][0]["name"]
        self.call("POST", "/definitions", wanted)
        kept = {(b["source"], b["destination"], b["routing_key"]) for b in wanted["bindings"]}
        ours = {e["name"] for e in wanted["exchanges"]}
        removed = []
        for binding in self.call("GET", f"/bindings/{quote(vhost, safe='')}"):
            key = (binding["source"], binding["destination"], binding["routing_key"])
            if binding["source"] in ours and binding["destination_type"] == "queue" and key not in kept:
                self.call(
                    "DELETE",
                    f"/bindings/{quote(vhost, safe='')}/e/{quote(key[0], safe='')}/q/{quote(key[1], safe='')}"
                    f"/{quote(binding['properties_key'], safe='')}",
                )
                removed.append(f"{key[0]} -> {key[1]} ({key[2]})")
        return removed

    def depths(self, vhost: str) -> dict[str, int]:
        """Messages in every queue of a vhost, ready and unacknowledged."""
        queues = self.call("GET", f"/queues/{quote(vhost, safe='')}?columns=name,messages")
        return {queue["name"]: int(queue.get("messages", 0)) for queue in queues}

    def delete_vhost(self, vhost: str) -> None:
        """Takes a vhost away with all it holds (tests)."""
        try:
            self.call("DELETE", f"/vhosts/{quote(vhost, safe='')}")
        except urllib.error.HTTPError as error:
            if error.code != 404:  # noqa: PLR2004 (already gone)
                raise
