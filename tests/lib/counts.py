"""How many tests a suite collected, passed, failed and skipped, and what of it is a failure."""

import dataclasses
import json
import os
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent.parent
CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored; \d+ measured; (\d+) filtered out")
MOST_SKIPS = 5


@dataclasses.dataclass
class Counts:
    """One suite's outcome. `unexcused` names skipped tests that tests/skips.txt does not list; `left_out` were never
    collected, because the filesystem lacks what they are about."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    unexcused: list = dataclasses.field(default_factory=list)
    left_out: int = 0

    @property
    def collected(self):
        return self.passed + self.failed + self.skipped

    def __add__(self, other):
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped,
                      self.unexcused + other.unexcused, self.left_out + other.left_out)

    def __str__(self):
        end = f", left out {self.left_out}" if self.left_out else ""
        return f"collected {self.collected}, passed {self.passed}, failed {self.failed}, skipped {self.skipped}{end}"


def of_cargo_line(line):
    """Counts from one line of `cargo test`, nothing for any other line."""
    match = CARGO_RESULT.match(line)
    if not match:
        return Counts()
    passed, failed, ignored, filtered = map(int, match.groups())
    return Counts(passed, failed, ignored, ["ignored Rust test"] * ignored, filtered)


def of_report(report, code):
    """Counts from the report of a pytest run that ended with `code`."""
    if not report.exists():
        return Counts(failed=1)
    outcomes = json.loads(report.read_text())
    by = lambda outcome: [name for name, got in outcomes.items() if got == outcome]  # noqa: E731
    excused = skips()
    result = Counts(len(by("passed")), len(by("failed")), len(by("skipped")),
                    [name for name in by("skipped") if name not in excused], len(by("left out")))
    if code != 0 and result.failed == 0:
        result.failed += 1  # pytest itself failed, or collected nothing
    return result


def skips():
    """The tests that may be skipped where CI=true, by name, with the reason for each."""
    excused = {}
    for line in (HERE / "skips.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            if not reason.strip():
                raise SystemExit(f"tests/skips.txt: no reason for {name!r}")
            excused[name.strip()] = reason.strip()
    if len(excused) > MOST_SKIPS:
        raise SystemExit(f"tests/skips.txt: {len(excused)} lines; at most {MOST_SKIPS} are allowed")
    return excused


def conclude(results):
    """Prints the sums and gives the exit status."""
    in_ci = os.environ.get("CI") == "true"
    print()
    bad = False
    for name, result in results.items():
        print(f"{name:26} {result}")
        if result.failed or result.collected == 0:
            bad = True
        if in_ci and result.unexcused:
            print(f"{'':26} skipped without a line in tests/skips.txt: {', '.join(result.unexcused[:5])}")
            bad = True
    total = sum(results.values(), Counts())
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 1 if bad else 0
