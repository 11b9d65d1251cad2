"""A report as one HTML file: no script, nothing from outside, light and dark, narrow and printed.

What a helper here returns is finished HTML; what it is given is text, and is escaped.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

Cell = str | int | float | None

# The first four stay far apart (CIE76 distance 30 or more) for red-, green- and blue-blind eyes; all have a contrast
# of 3.5 or more on their background. Charts vary dashes and markers as well.
LIGHT = ("#0072b2", "#d55e00", "#8a2be2", "#2f4416", "#d6569b", "#0b7a64", "#66003f", "#94713a")
DARK = ("#56b4e9", "#e8793a", "#a266ff", "#f0e442", "#e0447f", "#b5e3b5", "#3f7fd6", "#f4c6d8")
LIGHT_PAPER, DARK_PAPER = "#ffffff", "#14171a"

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RESERVED = "main"
_DRAWING = re.compile(r'<svg\b[^>]*aria-labelledby="(chart-[0-9a-f]+)-t [^>]*>.*?</svg>', re.DOTALL)
# What XML 1.0 has no place for; HTML has none for them either.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def page(title: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """One HTML page that needs nothing but itself.

    Args:
        title: heading of the page.
        sections: (id, heading, HTML made by the helpers here and in `plot`) of each section. Ids are letters, digits,
            "-" and "_", begin with a letter, and differ.

    Returns:
        The whole file. Charts that occur twice get ids of their own.
    """
    names = [name for name, _, _ in sections]
    for name, count in Counter(names).items():
        if not _IDENTIFIER.fullmatch(name) or name == _RESERVED or count > 1:
            raise ValueError(
                f"section id {name!r}: expected letters, digits, '-' and '_' after a letter, used once, not {_RESERVED!r}"
            )
    contents = ""
    if len(sections) > 2:
        items = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
        contents = f'<nav aria-label="Contents"><ul>{items}</ul></nav>\n'
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-h">\n<h2 id="{name}-h">{escape(heading)}</h2>\n{content}\n</section>'
        for name, heading, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#{_RESERVED}">Skip to the content</a>\n<header>\n<h1>{escape(title)}</h1>\n'
        f'{contents}</header>\n<main id="{_RESERVED}" tabindex="-1">\n{_with_own_ids(body)}\n</main>\n</body>\n</html>\n'
    )


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str,
    *,
    numeric: Collection[int] | None = None,
    best: Collection[tuple[int, int]] = (),
) -> str:
    """A table in a box that scrolls by itself where the window is narrow.

    Args:
        headers: column names.
        rows: cells; numbers are formatted by `aligned`, text is taken as it is.
        caption: what the table shows; also the name of the box.
        numeric: columns that are aligned right; None: those without text (dashes apart).
        best: (row, column) of the cells that win; they get a star, bold type and the word "best" for screen readers.

    Returns:
        HTML. A first column of text becomes row headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row has {len(row)} cells, the table has {len(headers)} columns")
    right = _number_columns(rows, len(headers)) if numeric is None else set(numeric)
    best = set(best)
    head = "".join(
        f'<th scope="col"{_align(column in right)}>{escape(name)}</th>' for column, name in enumerate(headers)
    )
    columns = [aligned([row[column] for row in rows]) for column in range(len(headers))]
    lines = []
    for index, row in enumerate(rows):
        cells = []
        for column in range(len(row)):
            text = escape(columns[column][index])
            if (index, column) in best:
                text = f'<span aria-hidden="true">★ </span><strong>{text}</strong><span class="unseen"> (best)</span>'
            kind = 'th scope="row"' if column == 0 and 0 not in right else "td"
            cells.append(f"<{kind}{_align(column in right)}>{text}</{kind[:2]}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    key = ' <span class="key" aria-hidden="true">· ★ best</span>' if best else ""
    body = "\n".join(lines)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">\n<table>\n'
        f"<caption><span>{escape(caption)}{key}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def facts(pairs: Iterable[tuple[str, Cell]]) -> str:
    """Names with their values, side by side where there is room.

    Args:
        pairs: (name, value); numbers are formatted by `number`.

    Returns:
        HTML.
    """
    items = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(number(value))}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">\n{items}\n</dl>' if items else ""


def code(text: str, label: str = "Code") -> str:
    """Commands or code, as they are.

    Args:
        text: the lines.
        label: name of the box for screen readers.

    Returns:
        HTML; long lines scroll inside their box and wrap on paper.
    """
    return f'<pre role="region" tabindex="0" aria-label="{escape(label)}"><code>{escape(text)}</code></pre>'


def paragraph(text: str) -> str:
    """A paragraph of plain text.

    Args:
        text: what it says.

    Returns:
        HTML.
    """
    return f"<p>{escape(text)}</p>"


def escape(text: str) -> str:
    """Text made safe for HTML and XML, in elements and in quoted attributes.

    Args:
        text: anything; characters that neither format has a place for (control characters, lone surrogates) become "\ufffd".

    Returns:
        The text with `& < > " '` as references.
    """
    return html.escape(_FORBIDDEN.sub("\ufffd", text), quote=True)


def number(value: Cell, digits: int = 6) -> str:
    """A number for people: "1,234", "0.0713", "2.5e-7", "NaN", "–" for None.

    Args:
        value: a number; text is returned unchanged.
        digits: significant digits of what is not whole.

    Returns:
        Text, the same everywhere.
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    short = f"{value:.{digits}g}"
    if "e" in short:
        mantissa, exponent = short.split("e")
        return f"{mantissa}e{int(exponent)}"
    return short


def aligned(values: Sequence[Cell], digits: int = 4) -> list[str]:
    """Numbers that stand together, with the same decimals where that loses nothing.

    Args:
        values: numbers; text is returned unchanged.
        digits: significant digits of the largest; the smallest keeps at least two.

    Returns:
        A text for each.
    """
    sizes = [
        abs(value)
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value
    ]
    top, least = max(sizes, default=0.0), min(sizes, default=0.0)
    if all(isinstance(size, int) or size == int(size) for size in sizes) or not 1e-4 <= least <= top < 1e9:
        return [number(value, digits) for value in values]
    decimals = max(digits - 1 - math.floor(math.log10(top)), 1 - math.floor(math.log10(least)), 0)
    while decimals and all(round(size, decimals) == round(size, decimals - 1) for size in sizes):
        decimals -= 1
    return [
        f"{value:,.{decimals}f}" if isinstance(value, float) and math.isfinite(value) else number(value)
        for value in values
    ]


def _with_own_ids(body: str) -> str:
    seen: Counter[str] = Counter()

    def once(found: re.Match[str]) -> str:
        key = found[1]
        seen[key] += 1
        drawing = found[0]
        return drawing if seen[key] == 1 else drawing.replace(key, f"{key}-{seen[key]}")

    return _DRAWING.sub(once, body)


def _number_columns(rows: Sequence[Sequence[Cell]], columns: int) -> set[int]:
    return {
        column
        for column in range(columns)
        if rows and all(not isinstance(row[column], str) or row[column] in ("", "-", "–") for row in rows)
    }


def _align(right: bool) -> str:
    return ' class="number"' if right else ""


def _style() -> str:
    def inks(colours: Sequence[str]) -> str:
        return "".join(f"--series-{place}:{colour};" for place, colour in enumerate(colours, 1))

    return _STYLE.replace("LIGHT", f"--paper:{LIGHT_PAPER};{inks(LIGHT)}").replace(
        "DARK", f"--paper:{DARK_PAPER};{inks(DARK)}"
    )


_STYLE = """\
:root{color-scheme:light;--ink:#1b1f24;--quiet:#57606a;--soft:#f3f5f7;--line:#c9d0d8;--link:#0a56a3;LIGHT}
@media screen and (prefers-color-scheme:dark){
:root{color-scheme:dark;--ink:#e6e9ed;--quiet:#a3adb8;--soft:#1e2328;--line:#434b54;--link:#82bcff;DARK}
}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:48rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:1.75rem;line-height:1.25;margin:0 0 .75rem}
h2{font-size:1.3rem;line-height:1.3;margin:2.5rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.75rem 0 .5rem}
p,ul,ol{max-width:42rem}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:2px}
main:focus{outline:none}
.skip{position:absolute;left:1rem;top:-10rem;padding:.5rem 1rem;background:var(--paper);z-index:1}
.skip:focus{top:.5rem}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:0;padding:0;list-style:none;max-width:none}
nav a{display:inline-block;padding:.2rem 0}
.scroll{overflow-x:auto;margin:1rem 0;position:relative}
table{border-collapse:collapse;min-width:min(20rem,100%);font-variant-numeric:tabular-nums;line-height:1.35}
caption{text-align:left;font-weight:600;padding:0 0 .5rem}
caption>span{display:inline-block;position:sticky;left:0;max-width:min(46rem,100vw - 2rem)}
.key{font-weight:400;color:var(--quiet);white-space:nowrap}
th,td{padding:.4rem .75rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;overflow-wrap:normal}
thead th{border-bottom:2px solid var(--quiet);vertical-align:bottom}
tbody th{font-weight:400;min-width:7rem}
.number{text-align:right;white-space:nowrap}
thead .number{white-space:normal}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(13rem,100%),1fr));gap:.75rem 1.5rem;margin:1rem 0}
.facts dt{font-size:.875rem;color:var(--quiet)}
.facts dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
pre{background:var(--soft);border:1px solid var(--line);border-radius:4px;padding:.75rem 1rem;overflow-x:auto;line-height:1.4}
code{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.875rem}
figure{margin:1.5rem 0}
svg{display:block;max-width:100%;height:auto}
.narrow{display:none}
.narrow svg{width:100%;max-width:27rem}
summary{cursor:pointer;color:var(--link);padding:.35rem 0;width:fit-content}
details .scroll{max-height:24rem;overflow-y:auto;margin:.25rem 0 1rem}
details thead th{position:sticky;top:0;background:var(--paper)}
@media (max-width:40rem){
body{padding-top:1rem}
h1{font-size:1.4rem}
.wide{display:none}
.narrow{display:block}
th,td{padding:.35rem .5rem}
}
@media print{
body{max-width:none;padding:0;font-size:10pt}
nav,.skip,details:not([open]){display:none}
.wide{display:block}
.narrow{display:none}
.scroll,details .scroll{overflow:visible;max-height:none}
details thead th,caption>span{position:static}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
figure,tr,pre{break-inside:avoid}
h2,h3,caption{break-after:avoid}
}
"""
