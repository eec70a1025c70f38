"""Pages without a browser: a call as a handler gets it, and what a page says and links."""

from datetime import UTC, datetime
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

from services.kernel.http import Answer, Call

NOW = datetime(2025, 7, 16, 4, 0, tzinfo=UTC)
VOID = {"meta", "link", "br", "img", "input"}


def call(service: str = "metrics", language: str = "zh", **more: Any) -> Call:
    """A call of a page of a service."""
    known: dict[str, Any] = {
        "app": SimpleNamespace(name=service),
        "actor": None,
        "path": {},
        "query": {},
        "body": None,
        "idempotency": None,
        "if_match": None,
        "language": language,
        "trace": "",
        "now": NOW,
        "url": "/",
    }
    return Call(**{**known, **more})


class Outline(HTMLParser):
    """A page's tags in order, its text and links; fails where a tag is not closed or the policy would refuse it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(answer.body.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = dict(attrs)
        self.attributes.append((tag, names))
        assert len(names) == len(attrs), f"an attribute twice: {attrs}"
        assert not [name for name in names if name.startswith("on") or name == "style"]
        assert tag != "style"
        assert tag != "script" or names.get("src")
        if names.get("href"):
            self.links.append(str(names["href"]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """The attributes of every such element."""
        return [names for kind, names in self.attributes if kind == tag and wanted.items() <= names.items()]
