"""A pytest plugin for suites that are not ours: one line of JSON for each case as soon as it has ended.

A run that dies half-way has then said what it knew; what it did not reach can be run again.
"""

import json
import os


def pytest_runtest_logreport(report):
    """Writes a case's outcome: its failure at once, a pass when its call passed."""
    if report.failed or report.skipped or report.when == "call":
        crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", None)
        why = crash or (str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "")
        with open(os.environ["TWINTREE_OUTCOMES"], "a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, report.outcome, why]) + "\n")
