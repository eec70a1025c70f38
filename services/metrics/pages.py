"""What people see: plain HTML without scripts, Chinese first, readable on a phone."""

from collections.abc import Iterable
from html import escape
from typing import Final

from contracts.catalogue import METRICS
from contracts.codes import UNITS
from contracts.describe import EventDescription
from services.kernel import clock
from services.kernel.web import home, page
from services.metrics.figures import NO_SOURCE, STALE, Figure, Knowledge, county_name
from services.metrics.plan import Plan

_STATUS: Final = {STALE: "数据可能过时", NO_SOURCE: "尚无数据来源"}


def board(known: Knowledge, plan: Plan | None, figures: Iterable[Figure]) -> bytes:
    """The landing page: the year's plan today, what runs here, where to read on."""
    year = known.this_year
    if plan is None:
        return page("泰安e站", f"<h1>泰安e站</h1><p>{year} 年及以前没有已公布的工作计划。</p>{_links(year)}")
    carried = (
        f'<p class="warn">{year} 年计划尚未公布,目标取自 {plan.targets_of} 年计划。 '
        f"<small>Targets of {plan.targets_of}.</small></p>"
        if plan.targets_of != year
        else ""
    )
    body = f"""\
<h1>泰安e站 · {year} 年工作计划</h1>
<p class="dim">{escape(plan.federation["zh"])} · {escape(plan.federation["en"])}</p>
{carried}{_currency(known)}
<div class="rows">
{"".join(_row(figure, known) for figure in figures)}
</div>
{_links(year)}"""
    return page(f"泰安e站 · {year} 年工作计划", body)


def unavailable() -> bytes:
    """The landing page without its database: no figures rather than old ones."""
    return page(
        "泰安e站",
        '<h1>泰安e站</h1><p class="warn">统计数据暂时无法读取,请稍后再试。 '
        "<small>Figures cannot be read just now; please try again.</small></p>",
    )


def api(services: Iterable[str]) -> bytes:
    """Where each service's API is described: its own page, but that of metrics stands under /docs."""
    places = {name: "/docs/metrics" if name == METRICS else f"/{name}/docs" for name in services}
    links = "".join(
        f'<li><a href="{escape(place)}">{escape(name)}</a> · '
        f'<a href="/api/v1/{escape(name)}/openapi.json">openapi.json</a></li>'
        for name, place in places.items()
    )
    return page(
        "泰安e站 · 接口",
        f'<h1>接口 <small lang="en">HTTP API</small></h1><p>OpenAPI 3.1</p><ul>{links}</ul>{home()}',
    )


def events(descriptions: Iterable[EventDescription]) -> bytes:
    """Every event that the services publish, with its fields."""
    return page(
        "泰安e站 · 事件",
        '<h1>事件 <small lang="en">Events</small></h1><p>CloudEvents 1.0 · AsyncAPI 3.0</p><div lang="en">'
        + "".join(_event(one) for one in descriptions)
        + f"</div>{home()}",
    )


def _event(one: EventDescription) -> str:
    restricted = " · <strong>restricted</strong>" if one["restricted"] else ""
    fields = "".join(
        f"<tr><td><code>{escape(field['name'])}</code></td><td>{escape(field['type'])}"
        f"{'' if field['required'] else ' (optional)'}</td><td>{escape(field['constraint'])}</td></tr>"
        for field in one["fields"]
    )
    name = escape(one["type"])
    return (
        f'<section id="{name}"><h2><code>{name}</code></h2><p>{escape(one["meaning"])}</p>'
        f"<p><small>{escape(one['owner'])} → {escape(', '.join(one['consumers']))}{restricted}</small></p>"
        f'<table class="fields">{fields}</table></section>'
    )


def _row(figure: Figure, known: Knowledge) -> str:
    row, unit = figure.row, escape(figure.row.unit)
    head = f'<h3>{escape(row.zh)}</h3><small lang="en">{escape(row.en)}</small>'
    status = f' <small class="warn">{_STATUS[figure.status]}</small>' if figure.status in _STATUS else ""
    target = "计划未定数量目标" if row.target is None else f"目标 {row.target:,} {unit}"
    if figure.actual is None:
        return f'<div class="row">{head}<p><span class="value">—</span>{status}</p><p class="dim">{target}</p></div>\n'
    bar = percent = ""
    if figure.percent is not None:
        percent = f" · {figure.percent:,.1f}%".replace(".0%", "%")
        done = min(max(figure.percent, 0), 100)
        bar = f'<progress max="100" value="{done}" aria-label="{escape(row.zh)}"></progress>'
    counties = "".join(
        f"<tr><td>{escape(county_name(county))}</td><td>{value:,}</td></tr>"
        for county, value in (figure.by_county or {}).items()
    )
    last = clock.day(known.heard[row.service])
    return f"""\
<div class="row">{head}
<p><span class="value">{figure.actual:,}</span> {unit}{status}</p>{bar}
<p class="dim">{target}{percent} · 最近数据 {last}</p>
<details><summary>各县市区</summary><table>{counties}</table></details></div>
"""


def _currency(known: Knowledge) -> str:
    if known.current_at is None:
        return '<p class="warn">统计尚未开始。 <small>Nothing has been counted yet.</small></p>'
    at = known.current_at.astimezone(clock.SHANGHAI).strftime("%Y-%m-%d %H:%M:%S")
    if known.is_behind:
        return f'<p class="warn">数据截至 {at}(北京时间),统计可能滞后。 <small>Figures may be behind.</small></p>'
    return f'<p class="dim">数据截至 {at}(北京时间),由各服务事件自动统计,不含人工填报。</p>'


def _links(year: int) -> str:
    return f"""\
<h2>这里运行着什么 <small lang="en">What runs here</small></h2>
<p>工会驿站服务记录签到等事件,统计服务汇总并与 {len(UNITS)} 个县市区、功能区的年度计划对照。</p>
<nav>
<a href="/api/v1/metrics/plan/{year}">计划数据 JSON</a>
<a href="/api/v1/metrics/freshness">数据新鲜度 JSON</a>
<a href="/api/v1/stations/open">开放中的驿站 JSON</a>
<a href="/docs">接口文档</a>
<a href="/docs/events">事件目录</a>
</nav>"""
