"""Small pictures for a page that opens anywhere: SVG drawn by hand, and PNG as data URIs. Knows no clusters.

Widths are those of a phone, so that text stays legible there; on a wide screen pictures grow.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Color = tuple[int, int, int]

# Okabe & Ito (2008), distinct to colour-blind people; black, which is for text, became grey.
OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#7A7A7A")
# Viridis at equal steps: lightness rises all along, so that it survives any eye and any printer.
VIRIDIS = ("#440154", "#472D7B", "#3B528B", "#2C728E", "#21918C", "#28AE80", "#5EC962", "#ADDC30", "#FDE725")
# From blue over white to orange: one end is told from the other by colour-blind people too.
DIVERGING = ("#08519C", "#4292C6", "#9ECAE1", "#FFFFFF", "#FDBE85", "#E6550D", "#8C2D04")
GONE = "#E4E4E4"

# A palette of PNG has 256.
MOST_COLORS = 254

WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 86, 14, 12, 40


def cluster_colors(n: int) -> list[str]:
    """Return a colour for each of `n` clusters; of very many, neighbours share one."""
    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    known = [_hex(color) for color in _blend(VIRIDIS, np.linspace(0, 1, min(n, MOST_COLORS)))]
    return [known[i * len(known) // n] for i in range(n)]


def diverging_colors(values: npt.NDArray[np.floating]) -> list[str]:
    """Return the colours of values from -1 (blue) over 0 (white) to 1 (orange)."""
    return [_hex(color) for color in _blend(DIVERGING, (np.clip(np.ravel(values), -1, 1) + 1) / 2)]


def ink_on(color: str) -> str:
    """Return black or white, whichever is legible on a colour."""
    r, g, b = _rgb(color)
    return "#000" if 0.299 * r + 0.587 * g + 0.114 * b > 140 else "#fff"


def _rgb(color: str) -> Color:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _hex(color: npt.NDArray[np.uint8]) -> str:
    return "#" + "".join(f"{int(part):02X}" for part in color)


def _blend(anchors: Sequence[str], places: Floats) -> npt.NDArray[np.uint8]:
    """Return colours between equally spaced anchors, (n, 3), at places from 0 to 1."""
    known = np.array([_rgb(anchor) for anchor in anchors], dtype=np.float64)
    steps = np.linspace(0, 1, len(known))
    places = np.nan_to_num(places, nan=0.5)
    return np.stack([np.interp(places, steps, known[:, i]) for i in range(3)], axis=1).round().astype(np.uint8)


def labels_png(labels: npt.NDArray[np.integer], colors: Sequence[str]) -> str:
    """Return a map of labels, (n_rows, n_columns), in the colours of the clusters as a data URI; -1 is grey."""
    distinct = list(dict.fromkeys(colors))
    index = np.array([0, *(1 + distinct.index(color) for color in colors)], dtype=np.uint8)
    return _png(index[labels + 1], [_rgb(color) for color in (GONE, *distinct)])


def values_png(values: npt.NDArray[np.floating]) -> str:
    """Return a map of values from -1 to 1, (n_rows, n_columns), as a data URI; NaN is grey."""
    palette = [tuple(map(int, color)) for color in _blend(DIVERGING, np.linspace(0, 1, 255))]
    index = 1 + np.nan_to_num((np.clip(values, -1, 1) + 1) * 127).round()
    return _png(np.where(np.isfinite(values), index, 0).astype(np.uint8), [_rgb(GONE), *palette])  # type: ignore[list-item]


def _png(index: npt.NDArray[np.uint8], palette: Sequence[Color]) -> str:
    """Return a picture of palette indices, (n_rows, n_columns), as a PNG (ISO/IEC 15948) data URI."""
    n_rows, n_columns = index.shape
    lines = np.zeros((n_rows, n_columns + 1), dtype=np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = index
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", n_columns, n_rows, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(part for color in palette for part in color)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes
    ----------
    x, y : (n_points,).
    name : what is shown when it is pointed at.
    """

    x: Floats
    y: Floats
    color: str
    name: str


@dataclass(frozen=True)
class _Axis:
    """Maps values to places of the picture."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def of(cls, values: Floats, begin: float, end: float) -> _Axis:
        """Span finite values, with a little room around them."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        room = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
        return cls(low - room, high + room, begin, end)

    def at(self, value: float) -> float:
        """Return where a value lies."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self, n: int, *, whole: bool = False) -> list[tuple[float, str]]:
        """Return about `n` round values, and how they are written, each unlike its neighbours."""
        step = (self.high - self.low) / n
        power = 10 ** math.floor(math.log10(step))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= step * 0.999)
        step = max(1.0, round(step)) if whole else step
        first = math.ceil(self.low / step)
        values = [i * step for i in range(first, math.floor(self.high / step) + 1)]
        digits = 1 + math.floor(math.log10(max(*map(abs, values), step)) + 1e-9) - math.floor(math.log10(step) + 1e-9)
        return [(value, short(value, max(3, digits))) for value in values]


def line_chart(
    lines: Sequence[Line], x_name: str, y_name: str, *, whole_x: bool = False, mark: float | None = None
) -> str:
    """Return lines with their points as SVG; a dashed line stands at `mark` on the x axis."""
    x_axis = _Axis.of(np.concatenate([line.x for line in lines]), LEFT, WIDTH - RIGHT)
    y_axis = _Axis.of(np.concatenate([line.y for line in lines]), HEIGHT - BOTTOM, TOP)
    body = _frame(x_axis, y_axis, x_name, y_name, whole_x=whole_x)
    if mark is not None:
        body += f'<path d="M{x_axis.at(mark):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#555" stroke-dasharray="5 4"/>'
    for line in lines:
        points = [
            (x_axis.at(x), y_axis.at(y)) for x, y in zip(line.x, line.y, strict=True) if np.isfinite([x, y]).all()
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points) if len(points) <= 60 else ""
        title = f"<title>{html.escape(line.name)}</title>"
        # A grey edge, since light colours are hard to see on white.
        edge = f'<polyline points="{path}" fill="none" stroke="#777" style="stroke-width:3.4"/>'
        stroke = f'{edge}<polyline points="{path}" fill="none" stroke="{line.color}"/>'
        body += f'<g fill="{line.color}" stroke-width="0.6" stroke="#777">{title}{stroke}{dots}</g>'
    return _svg(body, f"{y_name} against {x_name}")


def scatter_chart(
    dots: Floats,
    dot_colors: Sequence[str],
    centers: Floats,
    colors: Sequence[str],
    names: Sequence[str],
    x_name: str,
    y_name: str,
) -> str:
    """Return dots, (n_dots, 2), and above them named circles, (n_centers, 2), as SVG."""
    both = np.concatenate([dots, centers])
    x_axis, y_axis = _Axis.of(both[:, 0], LEFT, WIDTH - RIGHT), _Axis.of(both[:, 1], HEIGHT - BOTTOM, TOP)
    body = _frame(x_axis, y_axis, x_name, y_name)
    for color in dict.fromkeys(dot_colors):
        own = [dot for dot, c in zip(dots, dot_colors, strict=True) if c == color]
        # A path of points, each a line of no length with round ends, takes a quarter of the space of circles.
        path = "".join(f"M{x_axis.at(x):.1f} {y_axis.at(y):.1f}h0" for x, y in own)
        body += f'<path d="{path}" stroke="{color}" stroke-width="4" stroke-linecap="round" opacity="0.75"/>'
    for (x, y), color, name in zip(centers, colors, names, strict=True):
        cx, cy = x_axis.at(x), y_axis.at(y)
        body += f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="10" fill="{color}" stroke="#000" stroke-width="1.5"/>'
        ink = f'text-anchor="middle" style="fill:{ink_on(color)}"'
        body += f'<text x="{cx:.1f}" y="{cy + 4.5:.1f}" {ink}>{html.escape(name)}</text>'
    return _svg(body, f"samples and centers, {y_name} against {x_name}")


def _frame(x_axis: _Axis, y_axis: _Axis, x_name: str, y_name: str, *, whole_x: bool = False) -> str:
    """Return the axes and the grid."""
    base = HEIGHT - BOTTOM
    body = f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}" fill="none" stroke="#555"/>'
    for value, words in y_axis.ticks(5):
        y = y_axis.at(value)
        body += f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e3e3e3"/>'
        body += f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
    for value, words in x_axis.ticks(6, whole=whole_x):
        body += f'<text x="{x_axis.at(value):.1f}" y="{base + 16}" text-anchor="middle">{words}</text>'
    body += f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_name)}</text>'
    turn = f'transform="rotate(-90 13 {base / 2})"'
    return body + f'<text x="13" y="{base / 2}" text-anchor="middle" {turn}>{html.escape(y_name)}</text>'


def _svg(body: str, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{body}</svg>'


def short(value: float, digits: int = 3) -> str:
    """Return a number in few characters, `digits` of them to tell it from others.

    >>> short(1234567.0), short(0.25), short(3.0), short(1.5e-7), short(1234567.0, 5)
    ('1.23e6', '0.25', '3', '1.5e-7', '1.2346e6')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits + 1}g}" if abs(value) < 1e3 else f"{value:.{max(0, digits - 5)}f}"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(power)}"


def aligned(values: Sequence[float] | Floats) -> list[str]:
    """Return numbers of one column with as many decimals as tell them from each other; nothing for NaN.

    >>> aligned([121873.2, 107968.9]), aligned([-2.143, 36.67]), aligned([9.0, -0.001, float("nan")])
    (['121,873', '107,969'], ['-2.1', '36.7'], ['9.00', '0.00', ''])
    """
    known = np.asarray(values, dtype=np.float64)
    finite = known[np.isfinite(known)]
    top = float(np.abs(finite).max(initial=0))
    step = float(np.ptp(finite)) / 100 if len(finite) > 1 and np.ptp(finite) else top / 1000
    decimals = max(0, math.ceil(-math.log10(step))) if step else 0
    if top >= 1e9 or decimals > 6:
        return [short(float(value)) if math.isfinite(value) else "" for value in known]
    # 0 is added since what is rounded to -0 would keep its sign.
    rounded = known.round(decimals) + 0.0
    return [f"{value:,.{decimals}f}" if math.isfinite(value) else "" for value in rounded]
