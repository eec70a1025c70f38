"""The ports of text messages: who takes them, what is never repeated, what production refuses."""

import json
import stat
from pathlib import Path

import pytest
import requests

from services.kernel.settings import PRODUCTION, SettingError, Settings
from services.people import channels
from services.people.channels import Refused
from tests.gateway import Gateway

CHANNEL = "sms"


def test_a_gateway_gets_number_text_and_id_once(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with Gateway() as gateway:
        channels.ports(Settings(sms=gateway.url, sms_token=str(token)))[CHANNEL]("+8613805480001", "您好", "n1")
    [got] = gateway.taken
    assert (got["to"], got["text"], got["id"]) == ("+8613805480001", "您好", "n1")
    assert (got["headers"]["Idempotency-Key"], got["headers"]["Authorization"]) == ("n1", "Bearer secret")


@pytest.mark.parametrize("status", [400, 404, 410, 422])
def test_what_a_gateway_refuses_is_never_sent_again(status: int) -> None:
    with Gateway() as gateway:
        gateway.answers.append(status)
        with pytest.raises(Refused):
            channels.ports(Settings(sms=gateway.url))[CHANNEL]("+8613805480001", "您好", "n1")


@pytest.mark.parametrize("status", [302, 304, 401, 403, 408, 409, 425, 429, 500, 503])
def test_what_a_gateway_cannot_do_now_may_be_tried_again_and_no_redirect_is_followed(status: int) -> None:
    with Gateway() as gateway:
        gateway.answers.append(status)
        with pytest.raises(requests.HTTPError):
            channels.ports(Settings(sms=gateway.url))[CHANNEL]("+8613805480001", "您好", "n1")
    assert len(gateway.taken) == 1


def test_a_gateway_that_is_not_there_may_be_tried_again() -> None:
    with Gateway() as gateway:
        pass
    with pytest.raises(requests.ConnectionError):
        channels.ports(Settings(sms=gateway.url))[CHANNEL]("+8613805480001", "您好", "n1")


def test_the_file_is_a_line_a_message_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "sms.jsonl"
    path.parent.mkdir()
    send = channels.ports(Settings(sms=f"file://{path}".replace(" ", "%20")))[CHANNEL]
    for number in range(2):
        send("+8613805480001", "您好\n再见", f"n{number}")
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["n0", "n1"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_port_nothing_is_sent() -> None:
    with pytest.raises(Refused):
        channels.ports(Settings())[CHANNEL]("+8613805480001", "您好", "n1")


@pytest.mark.parametrize("url", ["file:///tmp/x", "http://127.0.0.1:1/send", "http://sms.example/send", "sms.example"])
def test_production_sends_over_tls_only(url: str) -> None:
    with pytest.raises(SettingError, match="ESTATION_SMS"):
        channels.ports(Settings(sms=url, mode=PRODUCTION))[CHANNEL]


def test_elsewhere_a_gateway_without_tls_must_be_on_this_machine() -> None:
    with pytest.raises(SettingError, match="ESTATION_SMS"):
        channels.ports(Settings(sms="http://sms.example/send"))[CHANNEL]
    with pytest.raises(SettingError, match="ESTATION_SMS_TOKEN"):
        channels.ports(Settings(sms="https://sms.example/send", sms_token="/nowhere"))[CHANNEL]
