"""Numbers into tables: ratios first, then what they are made of."""

import datetime
import statistics

BEGIN, END = "<!-- the last full run, written by bench/run -->", "<!-- end of the run -->"
SCALES = {"GB": (1e3, "ms/GB"), "request": (1e6, "µs/request"), "page": (1e3, "ms/page"), "upload": (1e3, "ms")}


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


def document(results, machine, rounds, seconds, load):
    """The generated part of RESULTS.md."""
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lines = [BEGIN, "", f"Run of {today}: {rounds} rounds, interleaved, {seconds:.0f} s. Load average of the machine before and after: "
             f"{load[0]:.1f}, {load[1]:.1f} (the benchmark itself included).", "",
             "## Ratios", "", "Of the minima, and in brackets the median of the ratios of each round. Below 1 in the first columns: twintree costs "
             "less than the limit. Above 1 in the last: versitygw costs more than twintree.", "", *ratio_table(results), ""]
    beyond = list(misses(results))
    lines += ["Beyond the aim in both minimum and median: " + ("nothing." if not beyond else ""), *(f"- {line}" for line in beyond), ""]
    lines += ["## Numbers", "", *number_table(results), "", "## Machine", "", "| | |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in machine]
    return "\n".join([*lines, "", END])


def replace(path, text):
    """Puts the generated part into RESULTS.md; what people wrote around it stays."""
    old = path.read_text() if path.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + text + after)
