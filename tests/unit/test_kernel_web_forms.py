"""Forms of pages: each control has its label, hint and error; what was typed stays; the summary follows the page."""

import re

import pytest

from services.kernel import web
from services.kernel.errors import Conflict, FieldError, Invalid
from services.kernel.web.environment import environment
from services.kernel.web.forms import Form
from tests.pages import Outline, call

SECRET = "370902199001011234"
WRONG = Invalid([FieldError("phone", "phone_invalid"), FieldError("phone", "required"), FieldError("ways", "required")])


def _shown(source: str, form: Form, language: str = "zh") -> str:
    head = '{% import "frame/forms.html" as forms %}{% import "frame/ui.html" as ui %}'
    return environment("metrics", language).from_string(head + source).render(form=form)


def _attributes(html: str, tag: str) -> dict[str, str]:
    found = re.search(rf"<{tag}\b([^>]*)>", html)
    assert found
    return dict(re.findall(r'([a-z-]+)(?:="([^"]*)")?', found[1]))


def test_a_form_shows_what_was_typed_and_what_is_wrong_with_it() -> None:
    form = web.form(call(typed={"phone": "138"}, invalid=WRONG))
    assert (form.values, form.errors) == ({"phone": "138"}, {"phone": "phone_invalid", "ways": "required"})
    assert web.form(call()).errors == {}
    assert web.form(call(), {"phone": "1"}).values == {"phone": "1"}
    assert web.form(call(typed={"phone": "1"}), error=Conflict("stale")).errors == {"": "stale"}


def test_every_form_has_a_key_of_its_own() -> None:
    keys = {web.form(call()).key for _form in range(3)}
    assert len(keys) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{8,64}", key) for key in keys), "as kernel/http.py takes it"


@pytest.mark.parametrize(
    ("source", "tag"),
    [
        ('{{ forms.input(form, "phone", "电话", hint="11 位") }}', "input"),
        ('{{ forms.textarea(form, "phone", "电话", hint="11 位") }}', "textarea"),
        ('{{ forms.select(form, "phone", "电话", [("1", "一")], hint="11 位") }}', "select"),
        ('{{ forms.checkbox(form, "phone", "电话", hint="11 位") }}', "input"),
        ('{{ forms.file(form, "phone", "电话", ".pdf", hint="11 位") }}', "input"),
        ('{{ forms.radios(form, "phone", "电话", [("1", "一"), ("2", "二")], hint="11 位") }}', "fieldset"),
    ],
)
def test_each_control_is_tied_to_its_label_hint_and_error(source: str, tag: str) -> None:
    right = _attributes(_shown(source, Form()), tag)
    assert right["aria-describedby"] == "f-phone-hint"
    assert "aria-invalid" not in right
    html = _shown(source, Form({}, {"phone": "phone_invalid"}))
    wrong = _attributes(html, tag)
    assert wrong["aria-describedby"] == "f-phone-hint f-phone-error"
    assert wrong["aria-invalid"] == "true"
    assert 'id="f-phone-hint">11 位<' in html
    assert "电话号码有误，请核对。" in html.split('id="f-phone-error"')[1].split("</p>")[0]
    assert html.count('id="f-phone"') == 1, "the error summary leads there"
    if tag == "fieldset":
        assert "<legend>电话" in html
    assert set(re.findall(r'<label[^>]* for="([^"]+)"', html)) == set(
        re.findall(r'<(?:input|select|textarea)[^>]* id="([^"]+)"', html)
    )


def test_optional_is_said_and_required_is_marked() -> None:
    required = _shown('{{ forms.input(form, "a", "甲") }}', Form())
    assert "required" in _attributes(required, "input")
    optional = _shown('{{ forms.input(form, "a", "甲", optional=true) }}', Form())
    assert "required" not in _attributes(optional, "input")
    assert "（选填）" in optional


@pytest.mark.parametrize(
    ("source", "marked"),
    [
        ('{{ forms.select(form, "way", "方式", [("a", "甲"), ("b", "乙")]) }}', '<option value="b" selected>'),
        ('{{ forms.radios(form, "way", "方式", [("a", "甲"), ("b", "乙")]) }}', 'value="b" checked'),
        ('{{ forms.checkbox(form, "way", "方式") }}', 'value="yes" checked'),
        ('{{ forms.input(form, "way", "方式") }}', 'value="b"'),
        ('{{ forms.textarea(form, "way", "方式") }}', ">b</textarea>"),
    ],
)
def test_what_was_typed_or_chosen_is_there_again(source: str, marked: str) -> None:
    assert marked in _shown(source, Form({"way": "b"}))
    assert marked not in _shown(source, Form())


def test_a_password_is_not_sent_back_and_markup_is_text() -> None:
    assert "hush" not in _shown('{{ forms.input(form, "p", "密码", type="password") }}', Form({"p": "hush"}))
    assert "&lt;b&gt;" in _shown('{{ forms.input(form, "p", "名") }}', Form({"p": "<b>"}))


def test_the_summary_follows_the_page_and_leaves_no_error_out() -> None:
    form = Form({}, {"unknown": "required", "b": "required", "a": "phone_invalid", "": "stale"})
    source = (
        '{% call forms.form(form, "/x", "提交") %}{{ forms.input(form, "a", "甲") }}{{ forms.input(form, "b", "乙") }}'
        "{% endcall %}"
    )
    html = _shown(source, form)
    summary = html[: html.index("<form")]
    assert re.findall(r'href="#([^"]+)"', summary) == ["f-a", "f-b"]
    lines = [re.sub(r"<[^>]+>", "", line) for line in re.findall(r"<li>(.*?)</li>", summary)]
    assert lines == ["甲：电话号码有误，请核对。", "乙：必填。", "unknown：必填。", "内容刚被他人修改，请重试。"]
    assert "autofocus" in summary
    assert 'role="alert"' in summary
    assert "summary-title" not in _shown(source, Form())


def test_hidden_fields_carry_the_key_and_the_logins_token() -> None:
    html = _shown('{% call forms.form(form, "/x", "提交") %}{% endcall %}', Form(csrf="t0ken", key="k" * 24))
    assert '<input type="hidden" name="csrf" value="t0ken">' in html
    assert f'<input type="hidden" name="idempotency_key" value="{"k" * 24}">' in html
    assert 'name="csrf"' not in _shown('{% call forms.form(form, "/x", "提交") %}{% endcall %}', Form())


def test_a_confirmation_repeats_the_values_hidden() -> None:
    html = _shown('{% call forms.confirm(form, "确认？", "/x", "是", "/back") %}{% endcall %}', Form({"id": "A<1"}))
    assert '<input type="hidden" name="id" value="A&lt;1">' in html
    assert '<input type="hidden" name="confirmed" value="yes">' in html
    assert 'href="/back"' in html


def test_what_was_typed_is_in_no_representation() -> None:
    form = Form({"id_number": SECRET}, {}, "t0ken")
    form.field("id_number", "身份证号码")
    assert SECRET not in repr(form)
    assert "t0ken" not in repr(form)


def test_a_state_has_a_sign_beside_its_colour() -> None:
    signs = {_shown(f'{{{{ ui.badge("x", "{tone}") }}}}', Form()).split('aria-hidden="true">')[1][0]
             for tone in ("neutral", "waiting", "good", "bad")}  # fmt: skip
    assert len(signs) == 4


def test_the_refused_sample_is_whole() -> None:
    page = Outline(web.design_page(call(), "refused"))
    linked = [link.removeprefix("#") for link in page.links if link.startswith("#f-")]
    ids = {names.get("id") for _tag, names in page.attributes}
    assert len(linked) == 6
    assert set(linked) <= ids
