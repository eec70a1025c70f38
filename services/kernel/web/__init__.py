"""What people see: pages in one frame, Chinese first, English by a switch, complete without JavaScript.

    page(call, "name.html", ...)   a page of the calling service, as an answer
    form(call, ...)                what a page's form needs; form_errors(error) says what was wrong
    problem(error, ...)            an error as a page
    api(call, ...)                 an OpenAPI document for people
    static_file(call)              entry points of the one service that serves the frame's files
    choose_language(call)          and the language switch

Templates extend ``frame/layout.html`` and take their parts from ``frame/ui.html`` and ``frame/forms.html``; the design
page shows each of them.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from marshmallow import fields

from services.kernel.auth import Actor
from services.kernel.errors import EStationError
from services.kernel.http import HTML, LANGUAGE_COOKIE, Answer, Call, ReadQuery
from services.kernel.web import design, navigation, static
from services.kernel.web.design import DesignForm
from services.kernel.web.environment import environment
from services.kernel.web.forms import Form, form_errors
from services.kernel.web.translation import EN, TAGS, ZH

__all__ = [
    "HTML",
    "DesignForm",
    "Form",
    "LanguageQuery",
    "api",
    "choose_language",
    "design_page",
    "form",
    "form_errors",
    "page",
    "problem",
    "static_file",
]

COOKIE_SECONDS: Final = 365 * 24 * 3600


def page(
    call: Call, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **shown: Any
) -> Answer:
    """A page from a template of the calling service; ``shown`` are its variables.

    Raises:
        jinja2.UndefinedError: the template names what it was not given.
    """
    # what a form's address answered is no place to come back to in another language
    here = "" if call.typed or call.invalid else call.url
    body = _render(call.app.name, call.language, template, actor=call.actor, csrf=call.csrf, here=here, **shown)
    return _answer(body, call.language, status, headers or {})


def form(call: Call, values: Mapping[str, str] | None = None, error: EStationError | None = None) -> Form:
    """A form to show: with ``values`` known already, else with what was typed; ``error`` or what made it invalid."""
    wrong = error or call.invalid
    return Form(values or call.typed, form_errors(wrong) if wrong else {}, call.csrf)


def problem(error: EStationError, language: str, *, service: str = "", here: str = "") -> Answer:
    """An error as a page: what happened and what one can do; never the input."""
    body = _render(service, language, "frame/problem.html", actor=None, csrf=None, here=here, error=error)
    return _answer(body, language, error.status, error.headers)


def api(call: Call, title: Mapping[str, str], document: Mapping[str, Any]) -> Answer:
    """A service's OpenAPI document for people to read; ``title`` in both languages."""
    return page(call, "frame/api.html", title=title, document=document)


def design_page(call: Call, part: str = "parts") -> Answer:
    """The design page, or one of its further pages: form, refused, confirm, problem."""
    template = {"parts": "design", "confirm": "design_confirm", "problem": "problem"}.get(part, "design_form")
    filled = form(call, *design.content(part))
    status = design.REFUSED.status if filled.errors else 200
    return page(
        call, f"frame/{template}.html", status=status, form=filled, accepted=call.body is not None, **design.SHOWN
    )


def static_file(call: Call) -> Answer:
    """``GET /static/<tag>/<name>``."""
    return static.answer(call.path["tag"], call.path["name"])


class LanguageQuery(ReadQuery):
    """Where to go on in the chosen language."""

    to = fields.String(load_default="/")


def choose_language(call: Call) -> Answer:
    """``GET /language/<any(zh,en):language>``: keeps the choice for a year and goes on to ``to``."""
    chosen = call.path["language"]
    cookie = f"{LANGUAGE_COOKIE}={chosen}; Path=/; Max-Age={COOKIE_SECONDS}; SameSite=Lax; HttpOnly"
    return Answer(b"", 303, {"Location": local_path(call.query["to"])}, HTML, cookies=(cookie,))


def local_path(asked: str) -> str:
    """``asked`` where it is a place on this site, else the start: a link of ours sends nobody elsewhere."""
    is_ours = asked.startswith("/") and not asked.startswith(("//", "/\\")) and asked.isprintable()
    return quote(asked, safe="/?&=%:,;@!$'()*+~-._") if is_ours else "/"


def _render(
    service: str, language: str, template: str, *, actor: Actor | None, csrf: str | None, here: str, **shown: Any
) -> bytes:
    places = navigation.visible(navigation.places(), actor.roles if actor else ())
    frame = {
        "csrf": csrf,
        "here": here,
        "places": places,
        "place": navigation.current(places, here.partition("?")[0]),
        "switch": f"/language/{ZH if language == EN else EN}?to={quote(local_path(here), safe='')}",
    }
    return environment(service, language).get_template(template).render(**frame, **shown).encode()


def _answer(body: bytes, language: str, status: int, headers: Mapping[str, str]) -> Answer:
    said = {"Content-Language": TAGS[language], "Vary": "Accept-Language, Cookie", **headers}
    return Answer(body, status, said, f"{HTML}; charset=utf-8")
