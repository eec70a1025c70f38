"""What a process is told from outside: one frozen dataclass, read once from the environment, failing loudly."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

LOCAL, PRODUCTION = "local", "production"
MODES = (LOCAL, PRODUCTION)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
PORT_MAX = 65535


class SettingError(SystemExit):
    """A variable is missing or wrong; ends the process with one line that names it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem} (see .env.example)")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of every process; each is described in ``.env.example``. Secrets stay out of ``repr``."""

    mode: str = LOCAL
    mongodb_url: str = field(default="mongodb://127.0.0.1:27117/?replicaSet=estation", repr=False)
    mongodb_prefix: str = "estation_"
    rabbitmq_url: str = field(default="amqp://127.0.0.1:5772/estation", repr=False)
    rabbitmq_api: str = field(default="http://127.0.0.1:15772", repr=False)
    rabbitmq_passwords: str = ""
    http_host: str = "127.0.0.1"
    http_port: int = 8100
    origin: str = "http://127.0.0.1:8080"
    ops_host: str = "127.0.0.1"
    ops_port: int = 9100
    jwks: str = ""
    token_issuer: str = "https://estation.example/local-issuer"
    token_audience: str = "estation"
    signing_keys: str = ""
    keys: str = ""
    identity_providers: str = ""
    demo_issuer: bool = False
    device_requests_per_minute: int = 600
    requests_per_minute: int = 600
    looks_per_minute: int = 30
    audit_heads: str = ""
    erasures: str = ""
    data_backups: str = ""
    key_backups: str = ""
    backup_key: str = ""
    sms: str = field(default="", repr=False)
    sms_token: str = ""
    chat: str = field(default="", repr=False)
    chat_token: str = ""
    log_level: str = "INFO"

    @property
    def production(self) -> bool:
        """Whether demo keys and other conveniences must be refused."""
        return self.mode == PRODUCTION

    def key_file(self, service: str) -> Path:
        """The keys of a service's personal data.

        Raises:
            SettingError: ESTATION_KEYS does not say where they are.
        """
        return self._inside("KEYS", self.keys) / f"{service}.json"

    def erasure_ledger(self, service: str) -> Path:
        """Who was erased from a service; outside all databases and their backups.

        Raises:
            SettingError: ESTATION_ERASURES does not say where it is.
        """
        return self._inside("ERASURES", self.erasures) / f"{service}.jsonl"

    @staticmethod
    def _inside(name: str, folder: str) -> Path:
        if not folder:
            raise SettingError(f"ESTATION_{name}", "a service with personal data needs this folder")
        return Path(folder)

    def database(self, service: str) -> str:
        """The name of a service's own database."""
        return self.mongodb_prefix + service


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads ``ESTATION_*``.

    Raises:
        SettingError: naming the variable that is wrong.
    """
    known, given = Settings(), _Environment(environ)
    mode = given.choice("MODE", known.mode, MODES)
    if mode == PRODUCTION:
        given.demand("MONGODB_URL", "RABBITMQ_URL", "JWKS", "TOKEN_ISSUER", "TOKEN_AUDIENCE", "ORIGIN")
    demo_issuer = given.choice("DEMO_ISSUER", "off", ("on", "off")) == "on"
    if mode == PRODUCTION and demo_issuer:
        raise SettingError("ESTATION_DEMO_ISSUER", "anybody can be anyone with it, which production mode refuses")
    return Settings(
        mode=mode,
        mongodb_url=given.url("MONGODB_URL", known.mongodb_url, "mongodb", "mongodb+srv"),
        mongodb_prefix=given.text("MONGODB_PREFIX", known.mongodb_prefix),
        rabbitmq_url=given.url("RABBITMQ_URL", known.rabbitmq_url, "amqp", "amqps"),
        rabbitmq_api=given.url("RABBITMQ_API", known.rabbitmq_api, "http", "https"),
        rabbitmq_passwords=given.text("RABBITMQ_PASSWORDS", known.rabbitmq_passwords),
        http_host=given.text("HTTP_HOST", known.http_host),
        http_port=given.number("HTTP_PORT", known.http_port, PORT_MAX),
        origin=given.origin("ORIGIN", known.origin),
        ops_host=given.text("OPS_HOST", known.ops_host),
        ops_port=given.number("OPS_PORT", known.ops_port, PORT_MAX),
        jwks=given.text("JWKS", known.jwks),
        token_issuer=given.text("TOKEN_ISSUER", known.token_issuer),
        token_audience=given.text("TOKEN_AUDIENCE", known.token_audience),
        signing_keys=given.text("SIGNING_KEYS", known.signing_keys),
        keys=given.text("KEYS", known.keys),
        identity_providers=given.text("IDENTITY_PROVIDERS", known.identity_providers),
        demo_issuer=demo_issuer,
        device_requests_per_minute=given.number("DEVICE_REQUESTS_PER_MINUTE", known.device_requests_per_minute, 10**6),
        requests_per_minute=given.number("REQUESTS_PER_MINUTE", known.requests_per_minute, 10**6),
        looks_per_minute=given.number("LOOKS_PER_MINUTE", known.looks_per_minute, 10**6),
        audit_heads=given.text("AUDIT_HEADS", known.audit_heads),
        erasures=given.text("ERASURES", known.erasures),
        data_backups=given.text("DATA_BACKUPS", known.data_backups),
        key_backups=given.text("KEY_BACKUPS", known.key_backups),
        backup_key=given.text("BACKUP_KEY", known.backup_key),
        sms=given.text("SMS", known.sms),
        sms_token=given.text("SMS_TOKEN", known.sms_token),
        chat=given.text("CHAT", known.chat),
        chat_token=given.text("CHAT_TOKEN", known.chat_token),
        log_level=given.choice("LOG_LEVEL", known.log_level, LEVELS),
    )


class _Environment:
    """The variables whose names begin with ``ESTATION_``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str) -> str:
        return self._environ.get(f"ESTATION_{name}", "").strip() or default

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise SettingError(f"ESTATION_{name}", f"one of {', '.join(choices)} is needed")
        return value

    def number(self, name: str, default: int, most: int) -> int:
        value = self.text(name, str(default))
        if not (value.isascii() and value.isdecimal() and len(value) <= len(str(most)) and 0 < int(value) <= most):
            raise SettingError(f"ESTATION_{name}", f"a number from 1 to {most} is needed")
        return int(value)

    def url(self, name: str, default: str, *schemes: str) -> str:
        value = self.text(name, default)
        if not _is_url(value, schemes):
            raise SettingError(f"ESTATION_{name}", f"{' or '.join(schemes)}://<host>... is needed")
        return value

    def origin(self, name: str, default: str) -> str:
        value = self.url(name, default, "http", "https").rstrip("/")
        parts = urlsplit(value)
        if value != f"{parts.scheme}://{parts.netloc}".lower() or "@" in value:
            raise SettingError(f"ESTATION_{name}", "https://<host> is needed, without a path")
        return value

    def demand(self, *names: str) -> None:
        for name in names:
            if not self.text(name, ""):
                raise SettingError(f"ESTATION_{name}", "must be given in production mode")


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        several_hosts = "," in parts.netloc  # MongoDB's own way, with a port each
        return parts.scheme in schemes and bool(parts.hostname) and (several_hosts or parts.port != 0)
    except ValueError:  # an unclosed bracket, a port that is none
        return False
