# mypy: ignore-errors
"""FastAPI in front, one Celery task a check-in behind.

``uvicorn celery_app:app``, ``celery -A celery_app:tasks worker``. The web side answers when the broker has confirmed
every task; a worker stores the document. ``task_acks_late``: a task is redelivered when its worker dies.
"""

from typing import Any

import checkins
from celery import Celery
from celery.signals import worker_process_init
from fastapi import FastAPI, Request, Response
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError
from starlette.concurrency import run_in_threadpool

QUEUE = "bench.celery"

tasks = Celery("celery_app", broker=checkins.AMQP_URL)
tasks.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_default_queue=QUEUE,
    task_serializer="json",
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=20,
    worker_prefetch_multiplier=100,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
)
_stores: dict[str, Any] = {}


@worker_process_init.connect
def _connect(**_kwargs: Any) -> None:
    _stores["checkins"] = MongoClient(checkins.MONGODB_URL, **checkins.OPTIONS)[checkins.DATABASE]["checkins"]


@tasks.task(name="store")
def store(document: dict[str, Any]) -> None:
    """Stores one check-in."""
    for name in ("captured_at", "received_at", "recorded_at"):
        document[name] = checkins.datetime.fromisoformat(document[name])
    try:
        _stores["checkins"].insert_one(document)
    except DuplicateKeyError:
        return


database = MongoClient(checkins.MONGODB_URL, connect=False, **checkins.OPTIONS)[checkins.DATABASE]
devices = checkins.Devices()
app = FastAPI(openapi_url=None)


@app.post("/api/v1/stations/checkins")
async def post_checkins(request: Request) -> Response:
    """1 to 500 check-ins."""
    digest, device = devices.known(request)
    if device is None:
        device = devices.remember(digest, await run_in_threadpool(database["devices"].find_one, {"keys": digest}))
    sent_at, rows = checkins.read(await request.body())
    documents = checkins.documents(device, sent_at, rows)
    await run_in_threadpool(_delay, documents)
    return checkins.answer(rows, documents)


def _delay(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        instants = {name: document[name].isoformat() for name in ("captured_at", "received_at", "recorded_at")}
        store.delay({**document, **instants})
