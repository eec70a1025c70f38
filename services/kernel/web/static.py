"""Static files: what browsers keep for a year, under an address that changes with their content."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.kernel.errors import NotFound
from services.kernel.http import Answer

FOLDER: Final = Path(__file__).parent / "static"
TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES: Final[Mapping[str, bytes]] = {
    path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES
}
TAG: Final = hashlib.sha256(b"".join(name.encode() + b"\0" + body + b"\0" for name, body in FILES.items())).hexdigest()[
    :16
]
"""One digest over all files: a style sheet may name its icons by their plain names beside it."""
IMMUTABLE: Final = "public, max-age=31536000, immutable"


def url(name: str) -> str:
    """The address of a static file.

    Raises:
        KeyError: there is no such file.
    """
    FILES[name]
    return f"/static/{TAG}/{name}"


def answer(tag: str, name: str) -> Answer:
    """A static file; under another release's tag the present one, which nobody keeps.

    While processes are replaced one by one, a page of one release meets the files of the other.

    Raises:
        NotFound: there is no such file.
    """
    if name not in FILES:
        raise NotFound
    headers = {"Cache-Control": IMMUTABLE if tag == TAG else "no-store"}
    return Answer(FILES[name], 200, headers, TYPES[Path(name).suffix])
