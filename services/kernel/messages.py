"""What people read for a code: Chinese first, English on request. Services add their own codes at import."""

from typing import NamedTuple


class Message(NamedTuple):
    """One message in both languages; ``{names}`` are filled from the error's params."""

    zh: str
    en: str


_MESSAGES: dict[str, Message] = {
    "internal_error": Message("系统内部错误，已记录。", "Internal error; it has been recorded."),
    "bad_request": Message("请求无法读取。", "The request cannot be read."),
    "bad_json": Message("请求体不是有效的 JSON。", "The body is not valid JSON."),
    "duplicate_key": Message("请求体中有重复的字段名。", "The body names a field twice."),
    "number_not_finite": Message("请求体中有无效的数值。", "The body holds a number that is not finite."),
    "bad_utf8": Message("请求体不是有效的 UTF-8。", "The body is not valid UTF-8."),
    "too_deep": Message("请求体嵌套过深。", "The body is nested too deeply."),
    "bad_length": Message("请求长度与声明不符。", "The body is shorter than announced."),
    "unauthenticated": Message("请先登录，或检查密钥。", "Credentials are missing or not valid."),
    "csrf": Message(
        "无法确认这次提交来自本站的页面，请刷新页面后再试。",
        "This was not sent from a page of ours; reload the page and try again.",
    ),
    "form_expected": Message("只接受网页表单。", "Only a form of a page is accepted."),
    "forbidden": Message("您没有办理此事项的权限。", "Your role may not do this."),
    "not_found": Message("未找到。", "Not found."),
    "method_not_allowed": Message("不支持此方法。", "This method is not supported here."),
    "conflict": Message("与当前状态冲突。", "This conflicts with the present state."),
    "stale": Message("内容刚被他人修改，请重试。", "Somebody else has just changed this; please try again."),
    "idempotency_key_reused": Message("同一幂等键已用于不同内容。", "This Idempotency-Key was used with another body."),
    "idempotency_key_required": Message("缺少 Idempotency-Key。", "Idempotency-Key is missing."),
    "idempotency_key_invalid": Message("Idempotency-Key 无效。", "Idempotency-Key is not valid."),
    "gone": Message("已失效。", "No longer available."),
    "version_changed": Message("内容已更新，请刷新后再改。", "This has changed meanwhile; reload and try again."),
    "precondition_required": Message("缺少前提条件。", "A precondition is missing."),
    "if_match_required": Message("缺少 If-Match。", "If-Match is missing."),
    "too_large": Message("内容过大，上限 {limit} 字节。", "Too large; the limit is {limit} bytes."),
    "unsupported_media_type": Message("只接受 application/json。", "Only application/json is accepted."),
    "invalid": Message("填写内容有误，请检查。", "Some fields are not valid."),
    "too_many_requests": Message(
        "请求过于频繁，请 {retry_after} 秒后再试。", "Too many requests; retry in {retry_after} s."
    ),
    "unavailable": Message("服务暂时不可用，请稍后再试。", "Temporarily unavailable; please try again."),
    "required": Message("必填。", "Required."),
    "unknown_field": Message("不认识的字段。", "Unknown field."),
    "null": Message("不能为空。", "May not be null."),
    "not_an_integer": Message("应为整数。", "A whole number is needed."),
    "not_a_string": Message("应为文字。", "Text is needed."),
    "not_a_boolean": Message("应为是或否。", "true or false is needed."),
    "not_a_datetime": Message("应为带时区的时间（RFC 3339）。", "A time with offset is needed (RFC 3339)."),
    "not_a_date": Message("应为日期（YYYY-MM-DD）。", "A date is needed (YYYY-MM-DD)."),
    "not_a_list": Message("应为列表。", "A list is needed."),
    "not_an_object": Message("应为对象。", "An object is needed."),
    "out_of_range": Message("超出范围。", "Out of range."),
    "bad_length_of_text": Message("长度不符。", "The length is not allowed."),
    "not_a_choice": Message("不在可选范围内。", "Not one of the choices."),
    "bad_format": Message("格式不符。", "The format is not allowed."),
    "not_a_uuid": Message("应为 UUID。", "A UUID is needed."),
    "given_twice": Message("重复填写。", "Given twice."),
    "bad_cursor": Message("翻页标记无效。", "The cursor is not valid."),
    "id_invalid": Message("身份证号码有误，请核对。", "This ID number is not valid; please check it."),
    "personal_data": Message("此处不能填写身份证号或手机号码。", "No ID number and no mobile number may stand here."),
    "id_15_digit_retired": Message("15 位身份证号码已停用，请填写 18 位号码。", "Please give the 18-digit ID number."),
    "phone_invalid": Message("电话号码有误，请核对。", "This telephone number is not valid; please check it."),
    "phone_not_mobile": Message("请填写手机号码。", "A mobile number is needed."),
    "name_invalid": Message(
        "姓名应为 2 至 40 个文字，可含间隔号“·”。", "A name has 2 to 40 letters and may hold a middle dot."
    ),
    "uscc_invalid": Message("统一社会信用代码有误，请核对。", "This unified social credit code is not valid."),
    "uscc_not_a_union": Message("请填写工会的统一社会信用代码。", "The code of a trade union is needed."),
    "person_erased": Message("此人的资料已按要求删除。", "This person's data has been erased on request."),
}


def add(messages: dict[str, Message]) -> None:
    """Adds a service's own codes.

    Raises:
        ValueError: a code is taken already by another text.
    """
    for code, message in messages.items():
        if _MESSAGES.setdefault(code, message) != message:
            raise ValueError(f"message code {code} is taken")


def text(code: str, language: str = "zh", **params: object) -> str:
    """The message of a code; a code nobody described says so little that it is safe."""
    message = _MESSAGES.get(code, _MESSAGES["invalid"])
    template = message.en if language == "en" else message.zh
    try:
        return template.format_map(params)
    except KeyError:
        return template


def is_known(code: str) -> bool:
    """Whether somebody described the code (a test holds every code in use against it)."""
    return code in _MESSAGES
