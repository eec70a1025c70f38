"""Passwords and keys of one local system: made once, kept under ``var/secrets`` for this user only."""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.layout import Layout
from deploy.run import KEYED, PERSONS, SERVICES


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the launcher hands to the processes."""

    rabbitmq_admin: str = field(repr=False)
    erlang_cookie: str = field(repr=False)
    rabbitmq_users: dict[str, str] = field(repr=False)
    rabbitmq_users_file: Path
    jwks: Path
    signing_keys: Path
    backup_key: Path
    keys: Path


def ensure(layout: Layout) -> Credentials:
    """Reads what is there and makes what is missing; needs ``layout.prepare()`` first."""
    users_file = layout.secrets / "rabbitmq-users.json"
    users: dict[str, str] = json.loads(users_file.read_text()) if users_file.exists() else {}
    missing = set(SERVICES) - set(users)
    if missing:
        users |= {name: secrets.token_urlsafe(24) for name in sorted(missing)}
        _write(users_file, json.dumps(users, indent=2))
    keys = layout.secrets / "keys"
    if not all((keys / f"{name}.json").exists() for name in KEYED):
        from services.kernel import masterkeys

        for name in KEYED:
            masterkeys.create_key_file(keys / f"{name}.json", demo=True, federation=name == PERSONS)
    backup_key = layout.secrets / "backup.key"
    if not backup_key.exists():
        from deploy import archives

        archives.create_key(backup_key, demo=True)
    jwks = _issuer(layout.secrets / "issuer")
    return Credentials(
        rabbitmq_admin=_once(layout.secrets / "rabbitmq-admin"),
        erlang_cookie=_once(layout.secrets / "erlang-cookie"),
        rabbitmq_users=users,
        rabbitmq_users_file=users_file,
        jwks=jwks,
        signing_keys=jwks.with_name("issuer.json"),
        keys=keys,
        backup_key=backup_key,
    )


def _issuer(folder: Path) -> Path:
    """The local token issuer's keys: ``issuer.json`` (private) and ``jwks.json`` (public)."""
    jwks = folder / "jwks.json"
    if not (jwks.exists() and (folder / "issuer.json").exists()):
        from services.kernel import auth

        folder.mkdir(mode=0o700, exist_ok=True)
        auth.create_local_issuer(folder)
        for path in folder.iterdir():
            path.chmod(0o600)
    return jwks


def _once(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(24))
    return path.read_text()


def _write(path: Path, text: str) -> None:
    """Never a moment in which others can read it, or in which it is half there."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
