"""Words and tags of a page: text that is escaped, tables, numbers and spans of time as people write them."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from daskmeans.job.charts import short
from daskmeans.job.style import CHOOSER, STYLE


def page(title: str, body: str) -> str:
    """Return a whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style><script>{CHOOSER}</script></head>"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """Return a part of the page under a heading."""
    return f"<section><h2>{escaped(title)}</h2>{body}</section>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] | None = None) -> str:
    """Return a table of cells that are HTML already; columns of numbers, all but those of `words`, end at the right."""
    is_number = [words is not None and i not in words for i in range(len(heads))]
    kinds = [' class="n"' if right else "" for right in is_number]
    head = "".join(f"<th{kind}>{escaped(name)}</th>" for kind, name in zip(kinds, heads, strict=True))
    # On a phone, rows become cards in which each value says what it is.
    tags = [f'{kind} data-name="{escaped(name)}"' for kind, name in zip(kinds, heads, strict=True)]
    body = "".join(
        f"<tr>{''.join(f'<td{tag}>{cell}</td>' for tag, cell in zip(tags or [''] * len(row), row, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if heads else ""}{body}</table></div>'


def escaped(value: str) -> str:
    """Return text in which nothing is a tag."""
    return html.escape(value)


def in_words(value: Any) -> str:
    """Return a value of the configuration as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {in_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(in_words, value))
    return str(value)


def number(value: float) -> str:
    """Return a number for people.

    >>> number(12), number(0.12345678), number(123456.7)
    ('12', '0.1235', '123,457')
    """
    if abs(value) >= 1e9:
        return short(value)
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else short(value)


def duration(seconds: float) -> str:
    """Return a time span for people.

    >>> duration(0.5), duration(75), duration(7300)
    ('0.5 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
