"""build/bench.svg: how many times better or worse nodemesh is than each other system, case by case. Pure: rows in.

A mark at 2 says: twice as good (twice the throughput, half the time, half the CPU). Where nodemesh gave no figure
there is nothing to draw. Light and dark follow the reader's setting; a viewer that knows none shows light.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from tests.bench.figures import HIGHER_IS_BETTER, Row, Topology

OURS = "nodemesh"
OTHERS: Mapping[str, str] = {
    "direct": "no mesh",
    "envoy": "Envoy",
    "envoy-hbone": "Envoy, HTTP/2 CONNECT",
    "haproxy": "HAProxy",
}
"""The systems that nodemesh is compared with, by the name that the legend gives them."""

METRICS: Mapping[str, str] = {
    "rps": "operations/s",
    "p50_us": "latency, median",
    "p99_us": "latency, 99 %",
    "gbit_s": "throughput",
    "cpu_us_per_op": "CPU, proxies",
    "cpu_all_us_per_op": "CPU, all parties",
    "cpu_s_per_gb": "CPU, proxies",
    "cpu_all_s_per_gb": "CPU, all parties",
    "kib_per_connection": "memory, proxies",
}
"""What is drawn, in this order."""
LEFT_OUT = {("echo-rtt", "rps"), ("soak", "gbit_s")}
"""The rate of one connection is its latency once more; the soak's bulk goes at a set rate."""

LEFT, VALUE, PLOT, MARGIN = 150, 86, 280, 20
"""Widths: of the labels, of nodemesh's own figure, of a scale, of the border."""
TOP, LINE, HEAD, BOTTOM = 118, 17, 26, 46
CLOSE_DOUBLINGS = 3
"""A scale with more to each side names every other line."""
MIN_DOUBLINGS, MAX_DOUBLINGS = 2, 5
"""The scale reaches from 1/4 to 4 at least and from 1/32 to 32 at most; what lies beyond is drawn at its end."""

STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1f2328}
.ground{fill:#fff}.title{font-size:17px;font-weight:600}.head{font-weight:600}.soft{fill:#59636e}.small{font-size:11px}
.good{fill:#eaf5ec}.grid{stroke:#d8dee4;stroke-width:1}.one{stroke:#59636e;stroke-width:1.5}
.direct{fill:none;stroke:#57606a}.envoy{fill:#0072b2;stroke:#0072b2}.envoy-hbone{fill:#fff;stroke:#0072b2}
.haproxy{fill:#d55e00;stroke:#d55e00}.mark{stroke-width:1.8}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.ground{fill:#0d1117}.soft{fill:#9198a1}.good{fill:#12261a}.grid{stroke:#30363d}.one{stroke:#9198a1}
.direct{stroke:#b1bac4}.envoy{fill:#56b4e9;stroke:#56b4e9}.envoy-hbone{fill:#0d1117;stroke:#56b4e9}
.haproxy{fill:#f0883e;stroke:#f0883e}}
"""

Medians = Mapping[tuple[str, str, str, str], float]
"""By topology, case, metric and system."""


def factor(metric: str, ours: float, theirs: float) -> float | None:
    """How many times better `ours` is, below 1 when it is worse; None where that has no meaning."""
    if ours <= 0 or theirs <= 0:
        return None
    return ours / theirs if metric in HIGHER_IS_BETTER else theirs / ours


def svg(machine: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The picture."""
    medians = {(row.topology, row.case, row.metric, row.system): row.median for row in rows}
    topologies = [topology.value for topology in Topology if any(row.topology == topology for row in rows)]
    lines = list(_lines(rows))
    height = TOP + sum(HEAD if metric is None else LINE for _, metric in lines) + BOTTOM
    width = max(2 * MARGIN + LEFT + len(topologies) * (VALUE + PLOT + MARGIN), 720)
    reach = _reach(medians)
    body = [f'<rect class="ground" width="{width}" height="{height}"/>', *_header()]
    for number, topology in enumerate(topologies):
        body += _panel(topology, MARGIN + LEFT + number * (VALUE + PLOT + MARGIN), lines, medians, reach)
    body += _labels(lines)
    runs = sorted({row.runs for row in rows})
    facts = f"{_span(runs)} runs of each, interleaved; Linux {machine.get('kernel')}, {machine.get('cpus')} processors"
    body.append(
        _text(MARGIN, height - 16, f"Medians of {facts}, load at start {machine.get('load_at_start')}.", "soft")
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="nodemesh compared with other systems">\n<style>{STYLE}</style>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, str | None]]:
    """Case and metric of every line; a heading has no metric."""
    ours = {(row.case, row.metric) for row in rows if row.system == OURS}
    for case in dict.fromkeys(row.case for row in rows):
        metrics = [metric for metric in METRICS if (case, metric) in ours and (case, metric) not in LEFT_OUT]
        if metrics:
            yield case, None
            yield from ((case, metric) for metric in metrics)


def _factors(medians: Medians, topology: str, case: str, metric: str) -> dict[str, float]:
    ours = medians.get((topology, case, metric, OURS), 0.0)
    found = {other: factor(metric, ours, medians.get((topology, case, metric, other), 0.0)) for other in OTHERS}
    return {other: value for other, value in found.items() if value is not None}


def _reach(medians: Medians) -> int:
    """Doublings from the middle of the scale to its ends."""
    drawn = {key[:3] for key in medians if key[2] in METRICS}
    logs = [abs(math.log2(value)) for key in drawn for value in _factors(medians, *key).values()]
    return min(MAX_DOUBLINGS, max(MIN_DOUBLINGS, math.ceil(max(logs, default=0))))


def _header() -> list[str]:
    parts = [
        _text(MARGIN, 32, "nodemesh beside no mesh, Envoy and HAProxy", "title"),
        _text(
            MARGIN,
            53,
            "A mark at 2: nodemesh is twice as good as that system (twice the rate, half the time, CPU or memory).",
            "soft",
        ),
    ]
    x = float(MARGIN + 6)
    for system, name in OTHERS.items():
        parts += [_mark(system, x, 72), _text(x + 12, 76, name)]
        x += 36 + 6.6 * len(name)
    return parts


def _labels(lines: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    for (case, metric), y in _placed(lines):
        yield _text(MARGIN, y, case, "head") if metric is None else _text(MARGIN + 12, y, METRICS[metric])


def _placed(lines: Sequence[tuple[str, str | None]]) -> Iterator[tuple[tuple[str, str | None], int]]:
    """Each line with its base line."""
    y = TOP
    for line in lines:
        y += HEAD if line[1] is None else LINE
        yield line, y


def _panel(
    topology: str, left: int, lines: Sequence[tuple[str, str | None]], medians: Medians, reach: int
) -> list[str]:
    start = left + VALUE
    bottom = max((y for _, y in _placed(lines)), default=TOP) + 8
    middle, doubling = start + PLOT / 2, (PLOT / 2 - 8) / reach
    parts = [
        _text(start, TOP - 19, topology, "head"),
        _text(start + PLOT, TOP - 19, "nodemesh better →", "soft small", "end"),
        _text(start - 12, TOP - 2, "nodemesh", "soft small", "end"),
        f'<rect class="good" x="{middle:.1f}" y="{TOP + 4}" width="{PLOT / 2:.1f}" height="{bottom - TOP - 4}"/>',
    ]
    for power in range(-reach, reach + 1):
        x = middle + power * doubling
        parts.append(
            f'<line class="{"grid" if power else "one"}" x1="{x:.1f}" y1="{TOP + 4}" x2="{x:.1f}" y2="{bottom}"/>'
        )
        if reach > CLOSE_DOUBLINGS and power % 2 != 0:
            continue
        parts.append(_text(x, TOP - 2, str(2**power) if power >= 0 else f"1/{2**-power}", "soft small", "middle"))
    for (case, metric), y in _placed(lines):
        if metric is None or (topology, case, metric, OURS) not in medians:
            continue
        parts.append(_text(start - 12, y, figure(metric, medians[topology, case, metric, OURS]), "soft", "end"))
        for other, value in _factors(medians, topology, case, metric).items():
            at = max(-reach, min(reach, math.log2(value)))
            title = f"{topology}, {case}, {METRICS[metric]}: {value:.2f} against {OTHERS[other]}"
            parts.append(_mark(other, middle + at * doubling, y - 4, title))
    return parts


def figure(metric: str, value: float) -> str:
    """A median with its unit, short."""
    match metric:
        case "rps":
            return f"{value / 1000:.1f} k/s" if value >= 1000 else f"{value:.0f}/s"
        case "gbit_s":
            return f"{value:.1f} Gbit/s"
        case "kib_per_connection":
            return f"{value:.1f} KiB"
        case "cpu_s_per_gb" | "cpu_all_s_per_gb":
            return f"{value:.2f} s/GB"
        case _:
            return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.0f} µs"


def _span(runs: Iterable[int]) -> str:
    runs = list(runs)
    return f"{runs[0]} to {runs[-1]}" if len(runs) > 1 else str(runs[0] if runs else 0)


def _mark(system: str, x: float, y: float, title: str = "") -> str:
    """Each system has a shape of its own besides its colour."""
    match system:
        case "direct":
            shape, rest = "path", f'd="M{x:.1f} {y - 5}l5 5-5 5-5-5z"'
        case "haproxy":
            shape, rest = "rect", f'x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"'
        case _:
            shape, rest = "circle", f'cx="{x:.1f}" cy="{y}" r="4.2"'
    told = f"<title>{escape(title)}</title>" if title else ""
    return f'<{shape} class="mark {system}" {rest}>{told}</{shape}>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
