"""build/bench.svg: how many times better or worse nodemesh is than each other system, case by case. Pure: rows in.

A table whose cells are coloured by the ratio that they hold: blue where nodemesh is better, orange where it is worse,
the more the stronger; a check or a cross where there is a target (`verdicts`). Light and dark follow the reader's
setting; a viewer that knows none shows light.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tests.bench.figures import HIGHER_IS_BETTER, Row, Topology
from tests.bench.verdicts import OURS, judge

OTHERS: Mapping[str, str] = {
    "direct": "no mesh",
    "envoy": "Envoy",
    "envoy-hbone": "Envoy h2",
    "haproxy": "HAProxy",
}
"""The systems that nodemesh is compared with, by the name that their columns have."""

METRICS: Mapping[str, str] = {
    "rps": "operations a second",
    "p50_us": "latency, median",
    "p99_us": "latency, 99 %",
    "gbit_s": "throughput",
    "cpu_us_per_op": "CPU of the proxies",
    "cpu_all_us_per_op": "CPU of all parties",
    "cpu_s_per_gb": "CPU of the proxies",
    "cpu_all_s_per_gb": "CPU of all parties",
    "kib_per_connection": "memory of the proxies",
}
"""What is drawn, in this order."""
CASES: Mapping[str, str] = {
    "http-keepalive-16": "requests on 16 connections",
    "http-keepalive-64": "requests on 64 connections",
    "echo-rtt": "100 bytes there and back",
    "bulk": "event loops, one stream",
    "bulk-8": "event loops, eight streams",
    "bulk-iperf3": "a receiver that blocks, one stream",
    "new-connections": "one for each request",
    "idle-memory": "a connection that is open and idle",
    "soak": "requests, bulk and new connections at once",
}
"""What a case is about."""
LEFT_OUT = frozenset(
    {("echo-rtt", "rps"), ("soak", "gbit_s"), ("soak", "cpu_us_per_op")}
    | {(case, "p50_us") for case in CASES if case != "echo-rtt"}
)
"""The rate of one connection is its latency once more, the soak's bulk goes at a set rate; the rest is in bench.md."""

LEFT, VALUE, CELL, GAP, MARGIN = 146, 84, 68, 26, 20
"""Widths: of the labels, of nodemesh's own figure, of a cell, between topologies, of the border."""
TOP, LINE, HEAD, BOTTOM = 136, 21, 30, 44
PANEL = VALUE + len(OTHERS) * CELL

STEPS: Sequence[tuple[float, str]] = ((4.0, "b3"), (2.0, "b2"), (1.25, "b1"), (0.8, "n"), (0.5, "w1"), (0.25, "w2"))
"""A cell has the colour of the first of these factors that it reaches; below them all, that of the last resort."""
WORST = "w3"
MOST = 99.5
"""A factor above it is told as `>99x`."""

STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1f2328}
.ground{fill:#fff}.title{font-size:17px;font-weight:600}.head{font-weight:600}.soft{fill:#59636e}.small{font-size:11px}
.grid{stroke:#d8dee4}.b3{fill:#4393c3}.b2{fill:#92c5de}.b1{fill:#d6e8f2}.n{fill:#f0f1f2}.w1{fill:#fde3cf}.w2{fill:#f8b988}
.w3{fill:#e58139}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.ground{fill:#0d1117}.soft{fill:#9198a1}.grid{stroke:#30363d}
.b3{fill:#1f6fb2}.b2{fill:#1b4f7d}.b1{fill:#16334d}.n{fill:#21262d}.w1{fill:#43301f}.w2{fill:#70431a}.w3{fill:#a85a12}
}
"""

Medians = Mapping[tuple[str, str, str, str], float]
"""By topology, case, metric and system."""
Lines = Sequence[tuple[str, str | None]]
"""Case and metric of every line; a heading has no metric."""


def factor(metric: str, ours: float, theirs: float) -> float | None:
    """How many times better `ours` is, below 1 when it is worse; None where that has no meaning."""
    if ours < 0 or theirs <= 0 or (ours == 0 and metric in HIGHER_IS_BETTER):
        return None
    if ours == 0:
        return float("inf")
    return ours / theirs if metric in HIGHER_IS_BETTER else theirs / ours


def shade(value: float) -> str:
    """The colour of a factor, by its class."""
    return next((name for least, name in STEPS if value >= least), WORST)


def times(value: float) -> str:
    """A factor in few characters."""
    if value > MOST:
        return ">99×"
    return f"{value:.0f}×" if value >= 9.95 else f"{value:.2g}×" if value < 0.095 else f"{value:.1f}×"


def svg(machine: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The picture."""
    medians = {(row.topology, row.case, row.metric, row.system): row.median for row in rows}
    topologies = [topology.value for topology in Topology if any(row.topology == topology for row in rows)]
    lines = list(_lines(rows))
    height = TOP + sum(HEAD if metric is None else LINE for _, metric in lines) + BOTTOM
    width = max(2 * MARGIN + LEFT + len(topologies) * (GAP + PANEL), 720)
    body = [f'<rect class="ground" width="{width}" height="{height}" rx="6"/>', *_header(), *_labels(lines, width)]
    marks = _marks(rows)
    for number, topology in enumerate(topologies):
        left = MARGIN + LEFT + GAP + number * (GAP + PANEL)
        body += _panel(topology, left)
        body += _cells(topology, left, lines, medians, marks)
    runs = sorted({row.runs for row in rows})
    span = f"{runs[0]} to {runs[-1]}" if len(runs) > 1 else str(runs[0] if runs else 0)
    facts = f"{span} runs of each, interleaved; Linux {machine.get('kernel')}, {machine.get('cpus')} processors"
    body.append(_text(MARGIN, height - 16, f"Medians of {facts}. Envoy h2: as HTTP/2 CONNECT tunnels.", "soft"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="nodemesh compared with other systems">\n<style>{STYLE}</style>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, str | None]]:
    ours = {(row.case, row.metric) for row in rows if row.system == OURS}
    for case in dict.fromkeys(row.case for row in rows):
        metrics = [metric for metric in METRICS if (case, metric) in ours and (case, metric) not in LEFT_OUT]
        if metrics:
            yield case, None
            yield from ((case, metric) for metric in metrics)


def _placed(lines: Lines) -> Iterator[tuple[str, str | None, int]]:
    """Each line with its base line."""
    y = TOP
    for case, metric in lines:
        y += HEAD if metric is None else LINE
        yield case, metric, y


def _marks(rows: Sequence[Row]) -> dict[tuple[str, str, str, str], str]:
    """Check or cross of every cell with a target; one without a baseline is on nodemesh's own figure."""
    found: dict[tuple[str, str, str, str], str] = {}
    for verdict in judge(rows):
        target = verdict.target
        for system in target.against or (OURS,):
            found[target.topology.value, target.case, target.metric, system] = "✓" if verdict.met else "✗"
    return found


def _header() -> Iterator[str]:
    yield _text(MARGIN, 34, "nodemesh beside no mesh, Envoy and HAProxy", "title")
    told = "How many times better nodemesh is: 2× is twice the rate, or half the time, CPU or memory."
    yield _text(MARGIN, 57, told, "soft")
    x = float(MARGIN)
    legend = ((WORST, "¼×"), ("w2", "½×"), ("w1", "0.8×"), ("n", "equal"), ("b1", "1.25×"), ("b2", "2×"), ("b3", "4×"))
    for name, text in legend:
        yield f'<rect class="{name}" x="{x:.0f}" y="69" width="46" height="18" rx="3"/>'
        yield _text(x + 23, 82, text, "small", "middle")
        x += 49
    yield _text(x + 10, 82, "✓ ✗  a target, met or missed", "soft small")


def _labels(lines: Lines, width: int) -> Iterator[str]:
    for case, metric, y in _placed(lines):
        if metric is not None:
            yield _text(MARGIN, y, METRICS[metric])
            continue
        yield f'<path class="grid" d="M{MARGIN} {y - HEAD + 11}H{width - MARGIN}"/>'
        yield _text(MARGIN, y - 1, case, "head")
        yield _text(MARGIN + LEFT + GAP, y - 1, CASES.get(case, ""), "soft small")


def _panel(topology: str, left: int) -> Iterator[str]:
    yield _text(left + VALUE, TOP - 25, f"{topology}, nodemesh against …", "head")
    yield _text(left + VALUE - 12, TOP - 6, "nodemesh", "soft small", "end")
    for number, name in enumerate(OTHERS.values()):
        yield _text(left + VALUE + (number + 0.5) * CELL, TOP - 6, name, "small", "middle")


def _cells(
    topology: str, left: int, lines: Lines, medians: Medians, marks: Mapping[tuple[str, str, str, str], str]
) -> Iterator[str]:
    for case, metric, y in _placed(lines):
        ours = medians.get((topology, case, metric or "", OURS))
        if metric is None or ours is None:
            continue
        mark = marks.get((topology, case, metric, OURS), "")
        yield _text(left + VALUE - 12, y, f"{figure(metric, ours)} {mark}".strip(), "soft", "end")
        for number, other in enumerate(OTHERS):
            value = factor(metric, ours, medians.get((topology, case, metric, other), 0.0))
            if value is None:
                continue
            x = left + VALUE + number * CELL
            mark = marks.get((topology, case, metric, other), "")
            title = f"{topology}, {case}, {METRICS[metric]}: {times(value)} against {OTHERS[other]}"
            yield (
                f'<rect class="{shade(value)}" x="{x + 1}" y="{y - 14}" width="{CELL - 2}" height="{LINE - 2}" rx="3">'
                f"<title>{escape(title)}</title></rect>"
            )
            yield _text(x + CELL / 2, y, f"{times(value)} {mark}".strip(), "", "middle")


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


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
