"""Two languages: nothing untranslated, nothing left over; figures, dates and messages in each."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir

from services.kernel import web
from services.kernel.web.environment import filters
from services.kernel.web.translation import FRAME, SERVICES, merged
from tests.pages import Outline, call

ROOTS = [FRAME, *(path.parent for path in sorted(SERVICES.glob("*/templates")))]
HAN = re.compile(r"[一-鿿]")


def _catalogue(root: Path) -> Catalog:
    path = root / "locale" / "en.po"
    return merged([path] if path.exists() else [])


def _used(root: Path) -> set[str]:
    texts = extract_from_dir(
        str(root / "templates"),
        method_map=[("**.html", "jinja2.ext:babel_extract")],
        options_map={"**.html": {"extensions": "jinja2.ext.do", "silent": "false"}},
    )
    return {
        text
        for _file, _line, message, _comments, _context in texts
        for text in ([message] if isinstance(message, str) else message)
    }


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name)
def test_every_text_is_translated_and_every_translation_used(root: Path) -> None:
    own, frame = {str(one.id): one for one in _catalogue(root) if one.id}, _catalogue(FRAME)
    used = _used(root)
    assert {text for text in used if text not in own and frame.get(text) is None} == set(), "add to locale/en.po"
    assert set(own) - used == set(), "no template says that any more"
    for text, message in own.items():
        assert message.string, text
        assert not message.fuzzy
        assert not HAN.search(str(message.string)), text
        assert set(re.findall(r"%\(\w+\)s", str(message.string))) == set(re.findall(r"%\(\w+\)s", text)), text
    if root != FRAME:
        assert [text for text in own if frame.get(text) is not None] == [], "the frame has said it already"


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name)
def test_no_chinese_stands_in_a_template_outside_its_marks(root: Path) -> None:
    for path in sorted((root / "templates").glob("**/*.html")):
        bare = re.sub(r"\{#.*?#\}|_\(\".*?\"|_\('.*?'", "", path.read_text("utf-8"), flags=re.DOTALL)
        bare = bare.replace('{{ "中文" if language == "en" else "English" }}', "")
        bare = re.sub(r"\{% (trans|pluralize).*?\{% endtrans %\}", "", bare, flags=re.DOTALL)
        assert not HAN.search(bare), (path.name, HAN.findall(bare))


@pytest.mark.parametrize("part", ["parts", "form", "confirm", "problem"])
def test_an_english_page_is_english(part: str) -> None:
    page = Outline(web.design_page(call(language="en"), part))
    assert set(HAN.findall(page.text)) <= set("中文")


def test_two_catalogues_that_disagree_are_refused(tmp_path: Path) -> None:
    for name, english in (("a", "Home"), ("b", "House")):
        (tmp_path / name).write_text(
            f'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\nmsgid "家"\nmsgstr "{english}"\n',
            "utf-8",
        )
    with pytest.raises(ValueError, match="家"):
        merged([tmp_path / "a", tmp_path / "b"])
    assert len(merged([tmp_path / "a", tmp_path / "a"])) == 1


@pytest.mark.parametrize(
    ("name", "value", "zh", "en"),
    [
        ("number", 1234567, "1,234,567", "1,234,567"),
        ("number", 1234.5, "1,234.5", "1,234.5"),
        ("percent", 40.0, "40%", "40%"),
        ("percent", 71.25, "71.2%", "71.2%"),
        ("day", date(2025, 7, 16), "2025年7月16日", "16 July 2025"),
        ("day", "2025-07-16", "2025年7月16日", "16 July 2025"),
        ("day", datetime(2025, 7, 15, 16, 0, tzinfo=UTC), "2025年7月16日", "16 July 2025"),
        ("moment", datetime(2025, 7, 15, 16, 0, 9, tzinfo=UTC), "2025年7月16日 00:00:09", "16 Jul 2025, 00:00:09"),
        ("said", {"zh": "驿站", "en": "Station"}, "驿站", "Station"),
        ("message", "required", "必填。", "Required."),
    ],
)
def test_figures_days_and_words_in_each_language(name: str, value: object, zh: str, en: str) -> None:
    assert filters("zh")[name](value) == zh
    assert filters("en")[name](value) == en
