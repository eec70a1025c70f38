"""Two languages: templates are written in Chinese, the catalogues say it in English; figures and dates follow.

Every service brings ``services/<service>/locale/en.po``, the frame its own beside this file; both are read as text,
so that no compiled catalogue is committed.
"""

from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

from babel import Locale
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

import services

ZH, EN = "zh", "en"
TAGS: Final = {ZH: "zh-CN", EN: "en"}
"""What ``<html lang>`` and Content-Language say."""
LOCALES: Final = {ZH: Locale.parse("zh_Hans_CN"), EN: Locale.parse("en_GB")}
SERVICES: Final = Path(services.__file__).parent
FRAME: Final = Path(__file__).parent


def catalogues(service: str) -> list[Path]:
    """The English catalogues that a service's pages are said with: the frame's, and its own where it has one."""
    own = SERVICES / service / "locale" / "en.po"
    return [FRAME / "locale" / "en.po", *([own] if own.exists() else [])]


@cache
def translations(service: str, language: str) -> NullTranslations:
    """What turns a service's templates into a language."""
    return Translations(_compiled(catalogues(service))) if language == EN else NullTranslations()


def merged(paths: Iterable[Path]) -> Catalog:
    """Several catalogues as one.

    Raises:
        ValueError: two of them translate the same text differently; give one a context (``pgettext``).
    """
    whole = Catalog(locale=EN)
    for path in paths:
        with path.open("rb") as file:
            for message in read_po(file, locale=EN, abort_invalid=True):
                if not message.id:
                    continue
                known = whole.get(message.id, message.context)
                if known is not None and known.string != message.string:
                    raise ValueError(f"{path}: {message.id!r} is translated otherwise in another catalogue")
                whole.add(message.id, message.string, context=message.context)
    return whole


def _compiled(paths: Iterable[Path]) -> BytesIO:
    compiled = BytesIO()
    write_mo(compiled, merged(paths))
    compiled.seek(0)
    return compiled
