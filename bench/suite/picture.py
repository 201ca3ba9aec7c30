"""The ratios as a picture: an SVG that reads well on light and dark pages, from the table that RESULTS.md holds."""

import html
import math

WIDTH, LABELS, RIGHT, TOP, ROW, BAR = 940, 440, 70, 64, 34, 9
LEAST, MOST = 0.25, 16
"""The ends of the scale; a longer bar is cut, and its number says so."""

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 10px; fill: #59636e }
  .title { font-size: 15px; font-weight: 600 }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .one { stroke: #59636e; stroke-width: 1.5 }
  .ours { fill: #0969da }
  .peer { fill: #9a6700 }
  .aim { stroke: #1a7f37; stroke-width: 2.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .small { fill: #9198a1 }
    .grid { stroke: #3d444d }
    .one { stroke: #9198a1 }
    .ours { fill: #4493f8 }
    .peer { fill: #d29922 }
    .aim { stroke: #3fb950 }
  }
"""


def draw(kept):
    """The SVG's text; `kept` as report.kept gives it. Shown is what has a limit."""
    rows = [row for row in kept if row[1] is not None]
    height = TOP + ROW * len(rows) + 28
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
           'aria-label="CPU cost of twintree and versitygw as a multiple of the cheapest program that does the core of the work">',
           f"<style>{STYLE}</style>",
           _text(12, 22, "CPU as a multiple of the cheapest program that does the core of the work", "title"),
           '<rect class="ours" x="12" y="34" width="12" height="9"/>', _text(29, 43, "twintree"), '<rect class="peer" x="96" y="34" width="12" height="9"/>',
           _text(113, 43, "versitygw"), '<line class="aim" x1="190" y1="32" x2="190" y2="45"/>', _text(197, 43, "aim"), _text(236, 43, "(shorter is better; logarithmic)", "small")]
    bottom = TOP + ROW * len(rows)
    mark = LEAST
    while mark <= MOST:
        out.append(f'<line class="{"one" if mark == 1 else "grid"}" x1="{_x(mark):.1f}" y1="{TOP - 4}" x2="{_x(mark):.1f}" y2="{bottom}"/>')
        out.append(_text(_x(mark), bottom + 14, f"{mark:g}", "small", "middle"))
        mark *= 2
    for at, (name, ours, aim, limit, peer) in enumerate(rows):
        y = TOP + ROW * at
        out += [_text(12, y + 12, name), _text(12, y + 24, f"1 = {limit}", "small")]
        out += _bar("ours", y + 4, ours)
        if peer is not None:
            out += _bar("peer", y + 5 + BAR, peer * ours)
        if aim is not None:
            out.append(f'<line class="aim" x1="{_x(aim):.1f}" y1="{y + 2}" x2="{_x(aim):.1f}" y2="{y + 6 + BAR}"/>')
    return "\n".join([*out, "</svg>", ""])


def _x(value):
    """Where a ratio stands."""
    share = math.log(min(max(value, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LABELS + share * (WIDTH - LABELS - RIGHT)


def _bar(kind, y, value):
    end = _x(value)
    shown = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return [f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{max(end - LABELS, 1):.1f}" height="{BAR}"/>',
            _text(end + 5, y + BAR - 0.5, shown + (" (cut)" if value > MOST else ""), "small")]


def _text(x, y, words, kind="", anchor=""):
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{html.escape(words)}</text>'
