"""Settings: what is wrong is named, production demands more, secrets stay out of what is printed."""

import subprocess
import sys

import pytest

from services.kernel.settings import SettingError, Settings, read

PRODUCTION = {
    "ESTATION_MODE": "production",
    "ESTATION_MONGODB_URL": "mongodb://db.example/?replicaSet=estation",
    "ESTATION_RABBITMQ_URL": "amqps://stations:hush-hush@broker.example/estation",
    "ESTATION_JWKS": "https://issuer.example/jwks.json",
    "ESTATION_TOKEN_ISSUER": "https://issuer.example",
    "ESTATION_TOKEN_AUDIENCE": "estation",
    "ESTATION_ORIGIN": "https://e.example",
}
GIVEN = {
    "ESTATION_MODE": ("mode", "production", "production"),
    "ESTATION_MONGODB_URL": ("mongodb_url", "mongodb://db:27018/?replicaSet=x", "mongodb://db:27018/?replicaSet=x"),
    "ESTATION_MONGODB_PREFIX": ("mongodb_prefix", "other_", "other_"),
    "ESTATION_RABBITMQ_URL": ("rabbitmq_url", "amqp://u:p@broker/v", "amqp://u:p@broker/v"),
    "ESTATION_RABBITMQ_API": ("rabbitmq_api", "https://admin:p@broker", "https://admin:p@broker"),
    "ESTATION_RABBITMQ_PASSWORDS": ("rabbitmq_passwords", "/run/secrets/passwords", "/run/secrets/passwords"),
    "ESTATION_HTTP_HOST": ("http_host", "10.0.0.1", "10.0.0.1"),
    "ESTATION_HTTP_PORT": ("http_port", "65535", 65535),
    "ESTATION_ORIGIN": ("origin", "https://e.example/", "https://e.example"),
    "ESTATION_OPS_HOST": ("ops_host", "10.0.0.2", "10.0.0.2"),
    "ESTATION_OPS_PORT": ("ops_port", " 1 ", 1),
    "ESTATION_JWKS": ("jwks", "/etc/jwks.json", "/etc/jwks.json"),
    "ESTATION_TOKEN_ISSUER": ("token_issuer", "https://i.example", "https://i.example"),
    "ESTATION_TOKEN_AUDIENCE": ("token_audience", "other", "other"),
    "ESTATION_SIGNING_KEYS": ("signing_keys", "/run/secrets/signing.json", "/run/secrets/signing.json"),
    "ESTATION_KEYS": ("keys", "/run/secrets/keys", "/run/secrets/keys"),
    "ESTATION_ERASURES": ("erasures", "/var/lib/estation/erasures", "/var/lib/estation/erasures"),
    "ESTATION_DATA_BACKUPS": ("data_backups", "/srv/backups/data", "/srv/backups/data"),
    "ESTATION_KEY_BACKUPS": ("key_backups", "/srv/backups/keys", "/srv/backups/keys"),
    "ESTATION_BACKUP_KEY": ("backup_key", "/run/secrets/backup.key", "/run/secrets/backup.key"),
    "ESTATION_SMS": ("sms", "https://sms.example/send", "https://sms.example/send"),
    "ESTATION_SMS_TOKEN": ("sms_token", "/run/secrets/sms", "/run/secrets/sms"),
    "ESTATION_CHAT": ("chat", "https://chat.example/send", "https://chat.example/send"),
    "ESTATION_CHAT_TOKEN": ("chat_token", "/run/secrets/chat", "/run/secrets/chat"),
    "ESTATION_IDENTITY_PROVIDERS": ("identity_providers", "/etc/providers.json", "/etc/providers.json"),
    "ESTATION_DEMO_ISSUER": ("demo_issuer", "on", True),
    "ESTATION_DEVICE_REQUESTS_PER_MINUTE": ("device_requests_per_minute", "7", 7),
    "ESTATION_REQUESTS_PER_MINUTE": ("requests_per_minute", "1000000", 1_000_000),
    "ESTATION_LOOKS_PER_MINUTE": ("looks_per_minute", "7", 7),
    "ESTATION_AUDIT_HEADS": ("audit_heads", "/srv/heads", "/srv/heads"),
    "ESTATION_LOG_LEVEL": ("log_level", "DEBUG", "DEBUG"),
}


def test_an_empty_environment_is_a_local_process() -> None:
    assert read({}) == Settings()
    assert not read({}).production


@pytest.mark.parametrize(
    ("variable", "expected"), [(name, case) for name, case in GIVEN.items() if name != "ESTATION_MODE"]
)
def test_every_variable_is_heard(variable: str, expected: tuple[str, str, object]) -> None:
    field, text, value = expected
    assert getattr(read({variable: text}), field) == value
    assert getattr(Settings(), field) != value


def test_a_replica_set_may_name_several_hosts() -> None:
    url = "mongodb://u:p@one:27017,two:27018,three/?replicaSet=estation"
    assert read({"ESTATION_MONGODB_URL": url}).mongodb_url == url


def test_no_setting_is_without_a_variable() -> None:
    assert {field for field, _text, _value in GIVEN.values()} == set(Settings.__dataclass_fields__)


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert read(dict.fromkeys(GIVEN, " ")) == Settings()


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("ESTATION_MODE", "staging"),
        ("ESTATION_LOG_LEVEL", "debug"),
        ("ESTATION_MONGODB_URL", "http://db"),
        ("ESTATION_MONGODB_URL", "mongodb://"),
        ("ESTATION_MONGODB_URL", "db.example:27017"),
        ("ESTATION_RABBITMQ_URL", "https://broker"),
        ("ESTATION_RABBITMQ_URL", "amqp:///estation"),
        ("ESTATION_RABBITMQ_URL", "amqp://[broker"),
        ("ESTATION_RABBITMQ_URL", "amqp://broker:many/estation"),
        ("ESTATION_RABBITMQ_API", "amqp://broker"),
        ("ESTATION_HTTP_PORT", "0"),
        ("ESTATION_HTTP_PORT", "65536"),
        ("ESTATION_HTTP_PORT", "-1"),
        ("ESTATION_HTTP_PORT", "8100.0"),
        ("ESTATION_HTTP_PORT", "eighty"),
        ("ESTATION_HTTP_PORT", "\uff18\uff11"),
        ("ESTATION_OPS_PORT", "9" * 5000),
        ("ESTATION_DEVICE_REQUESTS_PER_MINUTE", "0"),
        ("ESTATION_REQUESTS_PER_MINUTE", "1000001"),
        ("ESTATION_ORIGIN", "e.example"),
        ("ESTATION_ORIGIN", "https://e.example/path"),
        ("ESTATION_ORIGIN", "https://E.example"),
        ("ESTATION_ORIGIN", "https://user@e.example"),
        ("ESTATION_DEMO_ISSUER", "yes"),
    ],
)
def test_a_wrong_variable_is_named_in_one_line(variable: str, wrong: str) -> None:
    with pytest.raises(SettingError) as refused:
        read({variable: wrong})
    message = str(refused.value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert len(wrong) < 4 or wrong not in message, "a wrong value may be a secret in the wrong place"


@pytest.mark.parametrize("missing", sorted(PRODUCTION.keys() - {"ESTATION_MODE"}))
def test_production_demands_what_local_presumes(missing: str) -> None:
    with pytest.raises(SettingError, match=rf"^{missing}: must be given in production"):
        read({name: text for name, text in PRODUCTION.items() if name != missing})


def test_production_has_no_demo_issuer() -> None:
    with pytest.raises(SettingError, match=r"^ESTATION_DEMO_ISSUER: "):
        read({**PRODUCTION, "ESTATION_DEMO_ISSUER": "on"})


def test_production_with_everything_is_production() -> None:
    assert read(PRODUCTION).production


def test_passwords_are_not_shown() -> None:
    shown = repr(read({**PRODUCTION, "ESTATION_RABBITMQ_API": "http://admin:hush-hush@broker"}))
    assert "hush-hush" not in shown
    assert "issuer.example" in shown


def test_each_service_has_a_database_of_its_own() -> None:
    assert read({"ESTATION_MONGODB_PREFIX": "x_"}).database("stations") == "x_stations"


def test_a_process_with_a_wrong_variable_ends_with_that_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from services.kernel import settings; settings.read()"],
        env={"ESTATION_HTTP_PORT": "none", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert ended.stderr == "ESTATION_HTTP_PORT: a number from 1 to 65535 is needed (see .env.example)\n"
