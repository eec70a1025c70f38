"""The frame of every page: plain HTML without scripts, Chinese first, readable on a phone; one style, hashed."""

import hashlib
from html import escape
from typing import Any, Final

from services.kernel import openapi
from services.kernel.http import Answer

HTML: Final = "text/html"

STYLE: Final = b"""\
:root { color-scheme: light dark; --line: #8884; --dim: #767676 }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 0 1rem 3rem; max-width: 60rem; line-height: 1.6;
  font-family: system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif }
h1 { font-size: 1.5rem; margin: 1.2rem 0 0 } h2 { font-size: 1.2rem; margin: 1.6rem 0 .4rem } h3 { font-size: 1rem }
p { margin: .4rem 0 } a { color: inherit }
small, .dim { color: var(--dim) } .warn { border-left: .3rem solid #c80; padding-left: .6rem }
.row { border-top: 1px solid var(--line); padding: .6rem 0 }
.row h3 { margin: 0; font-weight: 600 } .value { font-size: 1.4rem; font-variant-numeric: tabular-nums }
progress { width: 100%; height: .6rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td, th { border-top: 1px solid var(--line); padding: .2rem .4rem; text-align: left; overflow-wrap: anywhere }
td:last-child { text-align: right } .fields td:last-child { text-align: left }
code { overflow-wrap: anywhere } nav a { margin-right: 1rem; white-space: nowrap }
@media (min-width: 44rem) { .rows { display: grid; grid-template-columns: 1fr 1fr; column-gap: 2rem } }
"""
ICON: Final = b"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#b3261e"/>\
<path d="M23 17H9a7 7 0 1 1 13.6-2.4M22.5 20.5A7 7 0 0 1 9.5 19" fill="none" stroke="#fff" stroke-width="3"/></svg>
"""
ICON_PATH: Final = f"/assets/{hashlib.sha256(ICON).hexdigest()[:16]}.svg"
STYLE_PATH: Final = f"/assets/{hashlib.sha256(STYLE).hexdigest()[:16]}.css"


def home() -> str:
    """The way back."""
    return '<nav><a href="/">泰安e站</a><a href="/docs">接口文档</a><a href="/docs/events">事件目录</a></nav>'


def page(title: str, body: str) -> bytes:
    """A whole page around ``body`` (HTML)."""
    return f"""\
<!doctype html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="stylesheet" href="{STYLE_PATH}">
<link rel="icon" type="image/svg+xml" href="{ICON_PATH}">
</head>
<body>
{body}
</body>
</html>
""".encode()


def api_page(title: str, document: dict[str, Any]) -> bytes:
    """A service's OpenAPI document for people to read."""
    head = f'<h1>{escape(title)} <small lang="en">HTTP API</small></h1>'
    return page(f"泰安e站 · {title}", f'{head}<div lang="en">{openapi.page([document])}</div>{home()}')


def html(page: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """A page as an answer."""
    return Answer(page, status, headers or {}, f"{HTML}; charset=utf-8")


def asset(content: bytes, content_type: str) -> Answer:
    """A file whose name carries its hash: kept by browsers for a year."""
    return Answer(content, 200, {"Cache-Control": "public, max-age=31536000, immutable"}, content_type)
