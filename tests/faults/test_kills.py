"""kill -9, at random and at the worst moments: nothing acknowledged is lost, nothing counts twice, nothing is stuck."""

import pytest

from tests.faults.conftest import Scale
from tests.faults.rig import Rig

TARGETS = ("stations", "relay-stations", "aggregator", "mongod", "rabbitmq")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("hangs", "dies"),
    [
        ("mongod", "aggregator"),  # between receiving a batch and committing it
        ("mongod", "relay-stations"),  # between the confirm and the mark
        ("rabbitmq", "relay-stations"),  # between publishing and the confirm
        ("rabbitmq", "rabbitmq"),  # with messages in its socket that it never read
        ("rabbitmq", "aggregator"),  # between the commit and the ack
        ("mongod", "stations"),  # with requests in hand
        ("mongod", "mongod"),
    ],
)
def test_kill_9_while_a_store_hangs_loses_nothing_and_counts_nothing_twice(
    rig: Rig, scale: Scale, hangs: str, dies: str
) -> None:
    rig.start_fleet()
    for _ in range(scale.hangs):
        rig.await_traffic(20)
        with rig.hung(hangs):
            rig.pause(rig.dice.uniform(0.3, 1.5))
            pid = rig.kill(dies)
        rig.await_healed(dies, pid)
    rig.settle()


@pytest.mark.timeout(1800)
def test_kill_9_at_random_loses_nothing_and_counts_nothing_twice(rig: Rig, scale: Scale) -> None:
    victims = list(TARGETS) * scale.kills
    rig.dice.shuffle(victims)
    rig.start_fleet()
    for victim in victims:
        rig.await_traffic(rig.dice.randint(5, 60))
        rig.await_healed(victim, rig.kill(victim))
    rig.settle()
