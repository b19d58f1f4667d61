"""The results as one page with plots, which needs nothing else."""

import math
from html import escape

from .loads import FIGURES, SHARES

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "svg{width:100%;height:auto;font-size:12px}.bar{fill:#0072b2}.ours{fill:#009e73}.spread{stroke:#222}"
    ".grid{stroke:#e4e4e4}"
)
WIDTH, LEFT, ROW, TOP = 760, 130, 26, 24
# What colour-blind people tell apart, too (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00")


def page(results: dict) -> str:
    settings, machine = results["settings"], results["machine"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DNS servers beside the echo floor</title>'
        f"<style>{STYLE}</style></head><body><h1>DNS servers beside the echo floor</h1>",
        f"<p>{settings['names']:,} names, half of the queries for others; one thread and one CPU each; medians of "
        f"{settings['rounds']} rounds of {settings['seconds']:g} s. {escape(str(machine['cpu']))}, Linux "
        f"{escape(machine['kernel'])}.</p>",
        "<h2>Queries a second, as a ratio to the floor in the same round</h2>",
        "<p>The floor sends each query back and does no DNS. Lines: the lowest and the highest round.</p>",
        ratio_plot(results["servers"]),
    ]
    if "loads" in results:
        parts.append("<h2>Latency at parts of each server's own rate</h2>")
        parts += [load_plot(results["loads"], figure) for figure in FIGURES]
    versions = "".join(f"<li>{escape(name)}: {escape(version)}</li>" for name, version in results["versions"].items())
    parts.append(f"<h2>Versions</h2><ul>{versions}</ul></body></html>\n")
    return "".join(parts)


def ratio_plot(rows: dict[str, dict]) -> str:
    ordered = sorted(rows.items(), key=lambda item: -item[1]["ratio"]["median"])
    most = max(row["ratio"]["max"] for row in rows.values())
    scale = (WIDTH - LEFT - 60) / most
    body = []
    for i, (name, row) in enumerate(ordered):
        y, ratio = TOP + i * ROW, row["ratio"]
        kind = "ours" if name.startswith("redbreast") else "bar"
        middle, low, high = y + ROW / 2 - 3, LEFT + ratio["min"] * scale, LEFT + ratio["max"] * scale
        body.append(
            f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{ratio["median"] * scale:.1f}" height="{ROW - 8}"/>'
            f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
            f'<text x="{high + 6:.1f}" y="{middle + 4}">{ratio["median"]:.3f}</text>'
        )
    return svg(TOP + len(rows) * ROW, "".join(body), "ratio to the floor by server")


def load_plot(rows: dict[str, dict], figure: str) -> str:
    """Bars on a logarithmic axis from 1 microsecond: each server at each share."""
    shares = [f"{share:.0%}" for share in SHARES]
    most = max(row[share][figure] for row in rows.values() for share in shares)
    decades = max(1, math.ceil(math.log10(max(most, 10))))
    scale = (WIDTH - LEFT - 60) / decades
    height = TOP + len(rows) * ROW
    body = [
        f'<line class="grid" x1="{LEFT + decade * scale:.1f}" x2="{LEFT + decade * scale:.1f}" y1="{TOP - 4}" y2="{height}"/>'
        f'<text x="{LEFT + decade * scale:.1f}" y="{TOP - 8}" text-anchor="middle">{10 ** decade:,} us</text>'
        for decade in range(decades + 1)
    ]
    for i, (name, row) in enumerate(rows.items()):
        y = TOP + i * ROW
        body.append(f'<text x="{LEFT - 8}" y="{y + ROW / 2}" text-anchor="end">{escape(name)}</text>')
        for k, share in enumerate(shares):
            width = max(0.0, math.log10(max(row[share][figure], 1.0))) * scale
            body.append(
                f'<rect fill="{COLOURS[k]}" x="{LEFT}" y="{y + k * 6}" width="{width:.1f}" height="5">'
                f"<title>{escape(name)} at {share}: {row[share][figure]:,.1f} us</title></rect>"
            )
    legend = ", ".join(f'<span style="color:{COLOURS[k]}">{share}</span>' for k, share in enumerate(shares))
    return f"<h3>{figure.replace('_', '.')}, at {legend}</h3>" + svg(height, "".join(body), f"{figure} by server and load")


def svg(height: float, body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
