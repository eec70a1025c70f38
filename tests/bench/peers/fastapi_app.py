# mypy: ignore-errors
"""FastAPI, asynchronous pymongo and FastStream on RabbitMQ: ``uvicorn fastapi_app:app``.

``BENCH_VARIANT``: ``insert`` stores; ``dual`` stores, then publishes each event and awaits the broker's confirm (of a
batch all at once); ``outbox`` stores documents and outbox rows in one transaction. ``python fastapi_app.py`` is the
outbox's relay: publishes up to a thousand at once, deletes what is confirmed.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import checkins
from fastapi import FastAPI, Request, Response
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.errors import BulkWriteError, DuplicateKeyError

VARIANT = os.environ["BENCH_VARIANT"]
RELAY_MAX = 1000
DUPLICATE_KEY = 11000

client = AsyncMongoClient(checkins.MONGODB_URL, **checkins.OPTIONS)
database = client[checkins.DATABASE]
broker = RabbitBroker(checkins.AMQP_URL, logger=None)
exchange = RabbitExchange(checkins.EXCHANGE, type=ExchangeType.TOPIC, durable=True, declare=False)
devices = checkins.Devices()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connects the broker where something is published."""
    if VARIANT == "dual":
        await broker.connect()
    yield
    await broker.stop()
    await client.close()


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.post("/api/v1/stations/checkins")
async def post_checkins(request: Request) -> Response:
    """1 to 500 check-ins."""
    digest, device = devices.known(request)
    if device is None:
        device = devices.remember(digest, await database["devices"].find_one({"keys": digest}))
    sent_at, rows = checkins.read(await request.body())
    documents = checkins.documents(device, sent_at, rows)
    if documents:
        await STORE[VARIANT](documents)
    return checkins.answer(rows, documents)


async def insert(documents: list[dict[str, Any]]) -> None:
    """Stores; what is there already stays."""
    try:
        if len(documents) == 1:
            await database["checkins"].insert_one(documents[0])
        else:
            await database["checkins"].insert_many(documents, ordered=False)
    except DuplicateKeyError:
        pass
    except BulkWriteError as error:
        if any(one["code"] != DUPLICATE_KEY for one in error.details["writeErrors"]):
            raise


async def dual(documents: list[dict[str, Any]]) -> None:
    """Stores, then publishes: what dies in between is lost to everybody else."""
    await insert(documents)
    if len(documents) == 1:
        await publish(documents[0]["_id"], checkins.event(documents[0]))
    else:
        await asyncio.gather(*(publish(one["_id"], checkins.event(one)) for one in documents))


async def publish(id_: str, body: bytes) -> None:
    """Publishes one event, persistent, and awaits the confirm."""
    await broker.publish(
        body,
        exchange=exchange,
        routing_key=checkins.TYPE,
        persist=True,
        message_id=id_,
        content_type="application/cloudevents+json",
    )


async def outbox(documents: list[dict[str, Any]]) -> None:
    """Stores documents and their events in one transaction."""

    async def both(session: Any) -> None:
        rows = [{"_id": one["_id"], "at": one["received_at"], "body": checkins.event(one)} for one in documents]
        await database["checkins"].insert_many(documents, session=session)
        await database["outbox"].insert_many(rows, session=session)

    try:
        async with client.start_session() as session:
            await session.with_transaction(both, write_concern=WriteConcern("majority", j=True))
    except BulkWriteError:
        fresh = [one for one in documents if not await database["checkins"].find_one({"_id": one["_id"]}, {"_id": 1})]
        if len(fresh) == len(documents):
            raise
        if fresh:
            await outbox(fresh)


STORE = {"insert": insert, "dual": dual, "outbox": outbox}


async def relay() -> None:
    """Publishes the outbox until killed."""
    await broker.connect()
    while True:
        rows = await database["outbox"].find().sort("at", 1).limit(RELAY_MAX).to_list()
        if not rows:
            await asyncio.sleep(0.02)
            continue
        await asyncio.gather(*(publish(row["_id"], row["body"]) for row in rows))
        await database["outbox"].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})


if __name__ == "__main__":
    import uvloop

    uvloop.run(relay())
