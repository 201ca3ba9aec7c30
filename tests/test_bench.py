"""The judge of `bench/run`: what it calls met, short, not measured and void. What is measured is the benchmark's own; here are numbers that are made up."""

import pathlib
import sys
import xml.etree.ElementTree

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))

from suite import aims, picture, report  # noqa: E402  (after the path)
from suite.cases import Case  # noqa: E402
from suite.client import Sample  # noqa: E402


def sample(cpu=1.0, wall=1.0, **also):
    """What costs so much for one unit of work."""
    return Sample(cpu, wall, 1, also={name.replace("_", " "): value for name, value in also.items()})


def measured(**changed):
    """A run in which every aim is met with room to spare; `changed` replaces cases by their name's first letters."""
    pair = ("GB", {"twintree": sample(0.1), "nginx": sample(0.15)}, "nginx")
    table = {
        "GET 256 MiB, 1 connection": pair, "GET 256 MiB, 16 connections": pair, "GET 256 MiB, 1 connection, client copies": pair,
        "GET 1 MiB, 8 connections": pair, "GET 1 MiB, 64 connections": pair,
        "GET 256 MiB over TLS, 2 connections": pair, "GET ranges of 1 MiB over TLS, 4 connections": pair, "GET over TLS, 16 slow readers": pair,
        aims.SMALL: ("request", {"twintree": sample(1, p99_ms=2.0), "nginx": sample(1), "versitygw": sample(3, p99_ms=5.0)}, "nginx"),
        aims.PLAIN: ("request", {"nobody PUT it": sample(1, bytes_read_for_each=0), "it was PUT": sample(1, bytes_read_for_each=0)}, "it was PUT"),
        "PUT 256 MiB, etag = crc64, relaxed": ("GB", {"twintree": sample(1), "cp": sample(1)}, "cp"),
        "PUT 256 MiB, relaxed": ("GB", {"twintree": sample(1, 1), "MD5 alone": sample(1, 1)}, ""),
        "PUT, 16 streams with MD5": ("GB", {"twintree": sample(0.5), "scalar": sample(1)}, "scalar"),
        aims.STRICT: ("request", {"twintree": sample(1, 1), aims.DURABLE: sample(1, 2)}, aims.DURABLE),
        aims.STRICT_XFS: ("request", {"twintree": sample(1, 1), aims.DURABLE: sample(1, 1)}, aims.DURABLE),
        "PUT 4 KiB, strict, 1 connection": ("request", {"twintree": sample(1, 5), aims.DURABLE: sample(1, 5)}, aims.DURABLE),
        aims.SYNCS: ("", {"64 connections": sample(syncs_for_each_PUT=0.2), "1 connection": sample(syncs_for_each_PUT=2.0)}, ""),
        aims.RELAXED: ("request", {"twintree": sample(3), "discarded": sample(1), "raw calls, 1 thread": sample(1)}, "raw calls, 1 thread"),
        "LIST under a ceiling": ("page", {"twintree": Sample(1, 1, 1, also={"MiB of memory more": 4})}, "twintree"),
        "LIST, first page, fresh server": ("page", {"twintree": Sample(1, 1, 1, also={"MiB of memory more": 40}), "getdents + sort": sample(1)}, "getdents + sort"),
        "LIST, the pages after it": ("page", {"twintree": sample(0.001), aims.BOTH: sample(0.0009)}, aims.BOTH),
        "LIST, the pages again": ("page", {"twintree": sample(0.0005), aims.STATX: sample(0.0004)}, aims.STATX),
        aims.DELIMITED: ("page", {"twintree": sample(1, 1), "fewer files in each": sample(1, 1), "a tenth of the page": sample(1, 0.1)}, "fewer files in each"),
        aims.COMPLETE: ("upload", {"twintree relaxed": sample(0.001, 0.001), "twintree strict": sample(0.001, 5)}, ""),
        "Memory, idle": ("", {"twintree": sample(MiB=10)}, ""),
        "Memory, after everything and a rest": ("", {"twintree strict": sample(MiB=10), "twintree relaxed": sample(MiB=10)}, ""),
        "Memory, 200 GETs under way": ("", {"twintree": sample(KiB_for_each=20)}, ""), "Memory, 64 PUTs under way": ("", {"twintree": sample(KiB_for_each=900)}, ""),
        aims.STALLED: ("request", {"beside a slow disk": sample(1, p99_ms=2.0), "undisturbed": sample(1, p99_ms=1.0)}, "undisturbed"),
        "Start, to the first answer": ("start", {"twintree": sample(0.01, 0.02)}, ""),
        "Directories read before the first answer": ("", {"twintree": Sample(0, 0, 0, also={"getdents below ROOT": 0})}, ""),
    } | changed
    cases = [Case(name, unit, variants, "twintree" if "twintree" in variants else next(iter(variants)), limit) for name, (unit, variants, limit) in table.items()]
    results = report.Results(cases)
    for case in cases:
        for label, one in case.variants.items():
            results.add(case, label, one)
    return results


def test_a_run_in_which_all_aims_are_met_says_so():
    results = measured()
    assert {row.case: row.verdict(results) for row in aims.ROWS if row.verdict(results) != aims.MET} == {}
    assert aims.code(results) == 0


def test_one_figure_beyond_its_aim_makes_its_row_short_and_is_named():
    results = measured(**{"GET 1 MiB, 64 connections": ("GB", {"twintree": sample(0.3), "nginx": sample(0.15)}, "nginx")})
    short = [row for row in aims.ROWS if row.verdict(results) == aims.SHORT]
    assert [row.case for row in short] == ["GET 1 MiB, 8 and 64 connections"] and short[0].must
    assert "64 connections: 2.00 (≤ 1.15, short)" in "\n".join(aims.lines(results))
    assert aims.code(results) == 1


def test_what_must_not_be_less_is_short_when_it_is_less():
    results = measured(**{aims.STRICT: ("request", {"twintree": sample(1, 3), aims.DURABLE: sample(1, 2)}, aims.DURABLE)})
    assert [row.case for row in aims.ROWS if row.verdict(results) == aims.SHORT] == ["PUT 4 KiB, strict durability, 64 clients, through HTTP"]


@pytest.mark.parametrize("name, limit, told", [
    ("LIST, the pages after it", aims.BOTH, "CPU / (statx + getxattrat) of its names: 2.00 (≤ 1.2, short)"),
    ("LIST, the pages again", aims.STATX, "CPU / statx of its names, with the metadata cache: 2.00 (≤ 1.7, short)"),
])
def test_a_page_is_held_against_the_calls_that_it_cannot_do_without(name, limit, told):
    results = measured(**{name: ("page", {"twintree": sample(0.0006), limit: sample(0.0003)}, limit)})
    assert [row.case for row in aims.ROWS if row.verdict(results) == aims.SHORT] == ["LIST page of 1,000 from a flat directory of 1,000,000"]
    assert told in "\n".join(aims.lines(results))


@pytest.mark.parametrize("what", ["PUT, 16 streams with MD5", "GET over TLS, 16 slow readers", "Memory, idle"])
def test_what_no_case_measured_is_not_measured_and_counts_as_short(what):
    results = measured()
    results.cases = [case for case in results.cases if case.name != what]
    assert [row.verdict(results) for row in aims.ROWS].count(aims.UNKNOWN) == 1
    assert aims.code(results) == 1


def test_every_figure_is_read_from_some_case():
    results = measured()
    unread = [figure.words for row in aims.ROWS for figure in row.figures if figure.verdict(results)[0] == aims.UNKNOWN]
    assert unread == []


def test_a_run_on_a_busy_machine_is_void_whatever_else_it_says():
    results = measured(**{aims.QUIET_CASE: ("GB", {"twintree": sample(0.1), "nginx": sample(0.21)}, "nginx")})
    assert aims.code(results) == 2
    assert "void" in "\n".join(report.servers(results))


def test_the_figures_are_medians():
    results = measured()
    case = results.named("PUT, 16 streams with MD5")
    for ours in (0.5, 9.0):
        results.add(case, "twintree", sample(ours))
        results.add(case, "scalar", sample(1))
    assert aims.code(results) == 0
    results.add(case, "twintree", sample(9.0))
    results.add(case, "scalar", sample(1))
    assert aims.code(results) == 1


def kept(results, tmp_path):
    """The table of ratios, written into a file and read again."""
    path = tmp_path / "RESULTS.md"
    report.replace(path, report.SERVERS, report.document(report.SERVERS, "##", report.servers(results), [], 1, 1.0, (0, 0)))
    return list(report.kept(path))


def test_a_quick_run_is_held_against_the_ratios_that_were_kept(tmp_path):
    rows = kept(measured(), tmp_path)
    assert ("GET 1 MiB, 8 connections", 0.67, 1.15, "nginx", None) in rows
    assert list(report.regressions(measured(), rows)) == []
    slower = measured(**{"GET 1 MiB, 8 connections": ("GB", {"twintree": sample(0.15), "nginx": sample(0.15)}, "nginx")})
    assert [line.partition(":")[0] for line in report.regressions(slower, rows)] == ["GET 1 MiB, 8 connections"]


def test_the_picture_shows_every_ratio_that_was_kept(tmp_path):
    rows = kept(measured(), tmp_path)
    drawn = xml.etree.ElementTree.fromstring(picture.draw(rows))
    words = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert [row[0] for row in rows if row[1] is not None and row[0] not in words] == []
