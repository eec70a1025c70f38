"""Jinja2 as every page uses it: escaped, strict, in one language; figures and dates as Tai'an writes them."""

from datetime import date, datetime
from functools import cache
from typing import Any, Final

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined

from services.kernel import clock, messages
from services.kernel.web import static
from services.kernel.web.translation import FRAME, LOCALES, SERVICES, TAGS, translations

FRAME_PREFIX: Final = "frame"


@cache
def environment(service: str, language: str) -> Environment:
    """A service's templates (``services/<service>/templates``) and the frame's (``frame/...``) in one language."""
    made = Environment(
        loader=ChoiceLoader(
            [
                PrefixLoader({FRAME_PREFIX: FileSystemLoader(FRAME / "templates")}),
                FileSystemLoader(SERVICES / service / "templates"),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n", "jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.install_gettext_translations(translations(service, language), newstyle=True)  # type: ignore[attr-defined]  # i18n adds it
    made.globals.update(static=static.url, language=language, tag=TAGS[language])
    made.filters.update(filters(language))
    return made


def filters(language: str) -> dict[str, Any]:
    """The filters of a language; instants are shown in Asia/Shanghai."""
    locale = LOCALES[language]

    def number(value: float) -> str:
        """1,234.5"""
        return format_decimal(value, locale=locale)

    def percent(value: float) -> str:
        """One decimal at most; ``value`` is in percent already."""
        return format_decimal(value, "#,##0.#", locale=locale) + "%"

    def day(value: date | datetime | str) -> str:
        """A date; an instant is the day it is in Shanghai; text is YYYY-MM-DD."""
        if isinstance(value, datetime):
            value = value.astimezone(clock.SHANGHAI).date()
        elif isinstance(value, str):
            value = date.fromisoformat(value)
        return format_date(value, "long", locale=locale)

    def moment(value: datetime) -> str:
        """Date and time to the second."""
        return format_datetime(value, "medium", tzinfo=clock.SHANGHAI, locale=locale)

    def said(thing: Any) -> str:
        """The wording of something that has one in each language (``zh``, ``en``)."""
        return str(thing[language] if isinstance(thing, dict) else getattr(thing, language))

    def message(code: str, **params: object) -> str:
        """What people read for a code."""
        return messages.text(code, language, **params)

    return {one.__name__: one for one in (number, percent, day, moment, said, message)}
