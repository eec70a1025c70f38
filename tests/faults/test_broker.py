"""Without a broker the front line works on: whatever is acknowledged is delivered when the broker is back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest

from deploy.commands.simulate import LOST
from services.kernel.topology import Management
from tests.faults.conftest import Scale
from tests.faults.rig import HABITS, Rig
from tests.parts import until


@contextmanager
def _gone(rig: Rig) -> Iterator[None]:
    with rig.away("rabbitmq"):
        yield


@contextmanager
def _alarm(rig: Rig, name: str, set_: tuple[str, ...], reset: tuple[str, ...]) -> Iterator[None]:
    management = Management(rig.parts.broker.api)
    rig.broker_command(*set_)
    try:
        until(lambda: management.call("GET", "/nodes")[0][name], f"{name} is on")
        rig.say(name)
        yield
    finally:
        rig.broker_command(*reset)
        rig.say(f"{name} over")


def _memory_alarm(rig: Rig) -> AbstractContextManager[None]:
    command = "set_vm_memory_high_watermark"
    return _alarm(rig, "mem_alarm", (command, "absolute", "1MB"), (command, "0.4"))


def _disk_alarm(rig: Rig) -> AbstractContextManager[None]:
    command = "set_disk_free_limit"
    return _alarm(rig, "disk_free_alarm", (command, "1000000GB"), (command, "50MB"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", [_gone, _memory_alarm, _disk_alarm])
def test_every_post_is_acknowledged_while_the_broker_cannot_be_used_and_all_is_delivered_after(
    rig: Rig, scale: Scale, fault: Callable[[Rig], AbstractContextManager[None]]
) -> None:
    faults_before = {what: count for what, count in rig.ledger.faults.items() if what != LOST}
    with fault(rig):
        rig.start_fleet(replace(HABITS, offline_share=0.0))
        rig.await_traffic(scale.posts, seconds=300)
        rig.pause(scale.alarm_seconds)
        rig.stop_fleet()
        pending = rig.samples("relay-stations")['estation_outbox_pending{service="stations"}']
    rig.await_well()
    rig.settle()
    assert {what: count for what, count in rig.ledger.faults.items() if what != LOST} == faults_before
    assert pending >= scale.posts, "the relay says what waits"
