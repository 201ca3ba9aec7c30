"""Numbers into tables: ratios first, then what they are made of."""

import datetime
import re
import statistics

from . import aims

SERVERS = ("<!-- the last full run, written by bench/run -->", "<!-- end of the run -->")
MOUNTS = ("<!-- the last full run of the mounts, written by bench/run --mount -->", "<!-- end of the run of the mounts -->")
SCALES = {"GB": (1e3, "ms/GB"), "page": (1e3, "ms/page"), "upload": (1e3, "ms"), "start": (1e3, "ms"),
          **{each: (1e6, f"µs/{each}") for each in ("request", "read", "file", "stat", "entry")}}

SLACK = 1.4
"""How far above the last full run's a quick run's ratio may be."""


class Results:
    """Samples by case and variant, in the order of the rounds."""

    def __init__(self, cases):
        self.cases = cases
        if len({case.name for case in cases}) < len(cases):
            raise SystemExit(f"two cases have one name: {sorted(case.name for case in cases)}")
        self.samples = {(case.name, label): [] for case in cases for label in case.variants}

    def add(self, case, label, sample):
        self.samples[case.name, label].append(sample)

    def costs(self, case, label, what):
        """CPU or wall for one unit of work, round by round."""
        return [getattr(sample, what) / sample.work for sample in self.samples[case.name, label]]

    def also(self, case, label, name):
        """A figure that is no cost, round by round."""
        return [sample.also[name] for sample in self.samples[case.name, label] if name in sample.also]

    def named(self, name):
        """The case of that name, when it is part of this run and was measured."""
        return next((case for case in self.cases if case.name == name and all(self.samples[name, label] for label in case.variants)), None)

    def measured(self):
        """The cases whose work has a cost, as far as they were measured."""
        return [case for case in self.cases if case.unit and self.named(case.name)]

    def ratios(self, case, above, below, what):
        """`above` divided by `below`: of the minima, and the median of the rounds' ratios."""
        top, bottom = self.costs(case, above, what), self.costs(case, below, what)
        rounds = [a / b for a, b in zip(top, bottom) if b > 0]
        if not rounds or min(bottom) <= 0:
            return None
        return min(top) / min(bottom), statistics.median(rounds)


def _pair(pair):
    if pair is None:
        return "-"
    return " (".join(f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.2f}" for ratio in pair) + ")"


def _number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio_table(results):
    """One row a case: twintree against its limit, the other gateways against twintree."""
    yield "| | twintree / limit: CPU | aim | wall | limit | versitygw / twintree: CPU | wall | rclone / twintree: CPU | wall |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in results.measured():
        cells = [case.name]
        if case.limit:
            figure = aims.wanted(case.name, "cpu")
            cells += [_pair(results.ratios(case, case.ours, case.limit, "cpu")), f"{figure.bound:.2f}" if figure else "-",
                      _pair(results.ratios(case, case.ours, case.limit, "wall")), case.limit]
        else:
            cells += ["-", "-", "-", "-"]
        for peer in ("versitygw", "rclone"):
            there = peer in case.variants
            cells += [_pair(results.ratios(case, peer, case.ours, what)) if there else "-" for what in ("cpu", "wall")]
        yield "| " + " | ".join(cells) + " |"


def aim_table(results):
    """One row for each of the issue's."""
    yield "| | aim | | measured (aim) |"
    yield "|---|---|---|---|"
    for row in aims.ROWS:
        verdict = row.verdict(results)
        yield f"| {row.case}{' *' if row.must else ''} | {row.aim} | {f'**{verdict}**' if verdict != aims.MET else verdict} | {aims.told(results, row)} |"


def number_table(results):
    """One row a variant: CPU of all its processes, and wall, minimum and median."""
    yield "| | | unit | CPU min | CPU median | wall min | wall median |"
    yield "|---|---|---|---|---|---|---|"
    for case in results.measured():
        factor, unit = SCALES[case.unit]
        name = case.name
        for label in case.variants:
            cells = [name, label, unit]
            for what in ("cpu", "wall"):
                costs = [cost * factor for cost in results.costs(case, label, what)]
                cells += [_number(min(costs)), _number(statistics.median(costs))]
            yield "| " + " | ".join(cells) + " |"
            name = ""


def other_table(results):
    """What is no cost: bytes, counts, what 99 of 100 answers took."""
    yield "| | | | min | median |"
    yield "|---|---|---|---|---|"
    for case in results.cases:
        name = case.name
        for label in case.variants:
            for what in sorted({what for sample in results.samples[case.name, label] for what in sample.also}):
                values = results.also(case, label, what)
                yield f"| {name} | {label} | {what} | {_number(min(values))} | {_number(statistics.median(values))} |"
                name = ""


def servers(results):
    """What is said of the servers."""
    yield from ["## Aims", "", "The rows of the issue, and what this run says of each; * marks those that must be met. Figures are medians.", "", *aim_table(results), ""]
    if seconds := aims.is_void(results):
        yield from [f"**This run is void:** nginx took {seconds:.2f} CPU seconds for a GB of large GETs, over {aims.NOISE}: the machine was too busy.", ""]
    yield from ["## Ratios", "", "Of the minima, and in brackets the median of the ratios of each round. Below 1 in the first columns: twintree costs "
                "less than the limit. Above 1 in the last: the other gateway costs more than twintree.", "", *ratio_table(results), ""]
    yield from ["## Numbers", "", *number_table(results), "", "Beside these:", "", *other_table(results), ""]
    yield from [f"- {case.name}: {case.note}." for case in results.cases if case.note]
    yield ""


def _verdict(pair, aim):
    reached = [ratio >= aim for ratio in pair]
    return "met" if all(reached) else "met by one of the two" if any(reached) else "short"


def speed_table(results):
    """One row a case: the speed of each mount as a share of the bare directory's, and of passthrough as a multiple of rclone's."""
    yield "| | passthrough / bare: wall | aim | | CPU | plain / bare: wall | CPU | passthrough / rclone: wall | CPU |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in results.cases:
        shares = {}
        for ours, other in (("passthrough", "bare"), ("plain", "bare"), ("passthrough", "rclone")):
            for what in ("wall", "cpu"):
                there = ours in case.variants and other in case.variants
                shares[ours, other, what] = results.ratios(case, other, ours, what) if there else None
        cells = [_pair(pair) for pair in shares.values()]
        first = shares["passthrough", "bare", "wall"]
        aim = [f"{case.aim:.2f}", _verdict(first, case.aim)] if case.aim and first else ["-", "-"]
        yield "| " + " | ".join([case.name, cells[0], *aim, *cells[1:]]) + " |"


def daemon_table(results):
    """One row a variant: wall, CPU in all, and the daemon's part of it."""
    yield "| | | unit | wall min | wall median | CPU min | CPU median | of it the daemons' |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in results.cases:
        factor, unit = SCALES[case.unit]
        name = case.name
        for label in case.variants:
            cells = [name, label, unit]
            for what in ("wall", "cpu"):
                costs = [cost * factor for cost in results.costs(case, label, what)]
                cells += [_number(min(costs)), _number(statistics.median(costs))]
            cells.append(_number(statistics.median(results.costs(case, label, "daemon")) * factor))
            yield "| " + " | ".join(cells) + " |"
            name = ""


def mounts(results):
    """What is said of the mounts."""
    yield from ["### Shares of the bare directory's speed", "", "Of the minima, and in brackets the median of the ratios of each round. 1: as fast "
                "as without a mount. CPU is that of the program and of all daemons. Of rclone: how many times as fast.", "", *speed_table(results), ""]
    yield from ["### Numbers of the mounts", "", *daemon_table(results), ""]


def document(marks, level, parts, machine, rounds, seconds, load):
    """A generated part of RESULTS.md, between its marks; `level`: of its headings."""
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lines = [marks[0], "", f"Run of {today}: {rounds} rounds, interleaved, {seconds:.0f} s. Load average of the machine before and after: "
             f"{load[0]:.1f}, {load[1]:.1f} (the benchmark itself included).", "", *parts]
    lines += [f"{level} Machine", "", "| | |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in machine]
    return "\n".join([*lines, "", marks[1]])


def kept(path):
    """The table of ratios that RESULTS.md holds: (case, CPU of twintree / limit, aim, limit, CPU of versitygw / twintree),
    the medians; a number that is not there is None."""
    begin, end = SERVERS
    text = path.read_text().partition(begin)[2].partition(end)[0].partition("## Ratios")[2].partition("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 7 and cells[0] and not cells[0].startswith("-"):
            yield cells[0], _median_of(cells[1]), _median_of(cells[2]), cells[4], _median_of(cells[5])


def regressions(results, rows):
    """Ratios that are far above those of the last full run, in words. A quick run's rounds are few and short: the least of them counts."""
    for name, ours, _, limit, _ in rows:
        case = results.named(name)
        pair = case and ours and case.limit == limit and results.ratios(case, case.ours, limit, "cpu")
        if pair and min(pair) > ours * SLACK:
            yield f"{name}: CPU {_pair(pair)} x {limit}, in the last full run {ours:.2f}"


def _median_of(cell):
    found = re.fullmatch(r"(?:[0-9.]+ \()?([0-9.]+)\)?", cell)
    return float(found[1]) if found else None


def replace(path, marks, text):
    """Puts a generated part into RESULTS.md; what people wrote around it stays."""
    begin, end = marks
    old = path.read_text() if path.exists() else f"{begin}\n{end}\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(before + text + after)
