"""The whole system as `estation up` starts it, and the commands as the README names them."""

import json
import re
import subprocess
import sys

import pika
import requests

from contracts import envelope
from services.kernel import ids
from services.kernel.topology import retry_exchange
from tests.contract.builders import build
from tests.e2e.conftest import System
from tests.parts import PROJECT, until


def test_status_says_that_all_is_well(system: System) -> None:
    told = json.loads(system.run("status", "--json"))
    assert told["ok"] is True


def test_every_acknowledged_checkin_is_in_the_plan_and_in_prometheus(system: System) -> None:
    told = system.run("simulate", "--devices", "20", "--minutes", "0.2", "--rate", "240", "--seed", "7")
    assert "every acknowledged check-in is in both" in told
    accepted = re.search(r"'accepted': (\d+)", told)
    assert accepted, told
    assert int(accepted[1]) > 50


def test_rebuild_from_the_log_agrees_with_the_live_figures(system: System) -> None:
    told = system.run("rebuild", "--check")
    assert " 0 differences" in told
    assert not told.startswith("0 events")


def test_migrate_and_seed_change_nothing_the_second_time(system: System) -> None:
    before = requests.get(f"{system.edge}/api/v1/stations/open?limit=200", timeout=10).json()["items"]
    assert "removed" not in system.run("migrate")
    assert "nothing to do" in system.run("seed")
    after = requests.get(f"{system.edge}/api/v1/stations/open?limit=200", timeout=10).json()["items"]
    assert [one["id"] for one in after] == [one["id"] for one in before] != []


def test_the_readmes_device_by_hand_works_as_written(system: System) -> None:
    readme = (PROJECT / "README.md").read_text("utf-8")
    section = readme.split("## A device by hand", 1)[1]
    script = section.split("```", 2)[1]
    script = script.replace("http://127.0.0.1:8080", system.edge)
    script = script.replace("$(estation ", f"$('{sys.executable}' -m deploy.cli ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=PROJECT,
        env=system.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert (result["status"], result["final"]) == ("accepted", True)


def test_device_commands_enroll_rotate_and_revoke(system: System) -> None:
    station = requests.get(f"{system.edge}/api/v1/stations/open", timeout=10).json()["items"][0]["id"]
    told = system.run("device", "enroll", station, "--label", "网关")
    device, key = re.findall(r"(?:device|key)\s+(\S+)", told)
    beat = {"url": f"{system.edge}/api/v1/stations/heartbeats", "json": {}, "timeout": 10}
    assert requests.post(**beat, headers={"Authorization": f"Bearer {key}"}).status_code == 204  # type: ignore[arg-type]
    second = system.run("device", "rotate", device).split()[-1]
    assert requests.post(**beat, headers={"Authorization": f"Bearer {second}"}).status_code == 204  # type: ignore[arg-type]
    assert device in system.run("device", "list", station)
    system.run("device", "revoke", device, "--reason", "遗失")
    until(
        lambda: requests.post(**beat, headers={"Authorization": f"Bearer {second}"}).status_code == 401,  # type: ignore[arg-type]
        "a revoked key is refused",
        60,
    )


def test_backups_of_a_running_system_need_no_setting_up(system: System) -> None:
    for kind, services in (("data", {"stations", "metrics", "people", "operations"}), ("keys", {"people"})):
        told = system.run("backup", kind)
        assert all(service in told for service in services), told
    listed = system.run("backup", "list").splitlines()
    assert sum("/backups/data/" in line for line in listed) == 4
    assert sum("/backups/keys/" in line for line in listed) == 1


def test_a_parked_event_is_shown_replayed_once_and_discarded(system: System) -> None:
    url = system.settings()["ESTATION_RABBITMQ_URL"]
    good = {**build("stations.heartbeat_missed.v1"), "id": ids.new()}
    broken = {**good, "id": ids.new(), "type": "stations.heartbeat_missed.v9"}
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(content_type=envelope.CONTENT_TYPE, delivery_mode=2)
    for body in (envelope.dump(good), envelope.dump(broken)):
        channel.basic_publish(retry_exchange("metrics"), "dead", body, properties)
    connection.close()
    assert good["id"] in system.run("dlq", "show", "metrics")
    assert "2" in system.run("dlq", "list").split("metrics.dead")[1].split("\n")[0]
    assert "1 given back" in system.run("dlq", "replay", "metrics", "--id", good["id"])
    assert good["id"] not in system.run("dlq", "show", "metrics")
    assert "1 discarded" in system.run("dlq", "discard", "metrics", "--id", broken["id"], "--reason", "未知版本")
    until(lambda: " 0 differences" in system.run("rebuild", "--check"), "the replayed event is applied")
    from pymongo import MongoClient

    with MongoClient[dict[str, object]](system.settings()["ESTATION_MONGODB_URL"]) as client:
        assert client["estation_metrics"]["events"].count_documents({"_id": good["id"]}) == 1
        acts = [str(row["action"]) for row in client["estation_operations"]["audit"].find()]
    assert sorted(act for act in acts if act.startswith("dlq.")) == ["dlq.discard", "dlq.replay"]


def test_a_token_for_production_is_refused(system: System) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "token"],
        cwd=PROJECT,
        env={
            **system.environ,
            **system.settings(),
            "ESTATION_MODE": "production",
            "ESTATION_ORIGIN": "https://e.example",
            "ESTATION_DEMO_ISSUER": "off",
            "ESTATION_TOKEN_ISSUER": "https://issuer.example",
            "ESTATION_TOKEN_AUDIENCE": "estation",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "production has an issuer of its own" in done.stderr
