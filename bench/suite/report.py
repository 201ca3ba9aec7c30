"""Numbers into tables: ratios first, then what they are made of."""

import datetime
import statistics

SERVERS = ("<!-- the last full run, written by bench/run -->", "<!-- end of the run -->")
MOUNTS = ("<!-- the last full run of the mounts, written by bench/run --mount -->", "<!-- end of the run of the mounts -->")
SCALES = {"GB": (1e3, "ms/GB"), "page": (1e3, "ms/page"), "upload": (1e3, "ms"),
          **{each: (1e6, f"µs/{each}") for each in ("request", "read", "file", "stat", "entry")}}


class Results:
    """Samples by case and variant, in the order of the rounds."""

    def __init__(self, cases):
        self.cases = cases
        self.samples = {(case.name, label): [] for case in cases for label in case.variants}

    def add(self, case, label, sample):
        self.samples[case.name, label].append(sample)

    def costs(self, case, label, what):
        """CPU or wall for one unit of work, round by round."""
        return [getattr(sample, what) / sample.work for sample in self.samples[case.name, label]]

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


def misses(results):
    """Cases beyond their aim, in words."""
    for case in results.cases:
        for what, aim in (("cpu", case.aim), ("wall", case.wall_aim)):
            pair = case.limit and aim and results.ratios(case, case.ours, case.limit, what)
            if pair and min(pair) > aim:
                yield f"{case.name}: {what} {_pair(pair)} x {case.limit}, aim {aim:.2f}"


def ratio_table(results):
    """One row a case: twintree against its limit, versitygw against twintree."""
    yield "| | twintree / limit: CPU | aim | wall | limit | versitygw / twintree: CPU | wall |"
    yield "|---|---|---|---|---|---|---|"
    for case in results.cases:
        cells = [case.name]
        if case.limit:
            aim = f"{case.aim:.2f}" if case.aim else f"wall {case.wall_aim:.2f}" if case.wall_aim else "-"
            cells += [_pair(results.ratios(case, case.ours, case.limit, "cpu")), aim,
                      _pair(results.ratios(case, case.ours, case.limit, "wall")), case.limit]
        else:
            cells += ["-", "-", "-", "-"]
        if "versitygw" in case.variants:
            cells += [_pair(results.ratios(case, "versitygw", case.ours, what)) for what in ("cpu", "wall")]
        else:
            cells += ["-", "-"]
        yield "| " + " | ".join(cells) + " |"


def number_table(results):
    """One row a variant: CPU of all its processes, and wall, minimum and median."""
    yield "| | | unit | CPU min | CPU median | wall min | wall median |"
    yield "|---|---|---|---|---|---|---|"
    for case in results.cases:
        factor, unit = SCALES[case.unit]
        name = case.name + (f" ({case.note})" if case.note else "")
        for label in case.variants:
            cells = [name, label, unit]
            for what in ("cpu", "wall"):
                costs = [cost * factor for cost in results.costs(case, label, what)]
                cells += [_number(min(costs)), _number(statistics.median(costs))]
            yield "| " + " | ".join(cells) + " |"
            name = ""


def servers(results):
    """What is said of the servers."""
    yield from ["## Ratios", "", "Of the minima, and in brackets the median of the ratios of each round. Below 1 in the first columns: twintree costs "
                "less than the limit. Above 1 in the last: versitygw costs more than twintree.", "", *ratio_table(results), ""]
    beyond = list(misses(results))
    yield from ["Beyond the aim in both minimum and median: " + ("nothing." if not beyond else ""), *(f"- {line}" for line in beyond), ""]
    yield from ["## Numbers", "", *number_table(results), ""]


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


def replace(path, marks, text):
    """Puts a generated part into RESULTS.md; what people wrote around it stays."""
    begin, end = marks
    old = path.read_text() if path.exists() else f"{begin}\n{end}\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(before + text + after)
