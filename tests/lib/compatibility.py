"""The page that says what of S3 is answered: made of the code's own table of operations and of what the public suite showed."""

import collections
import pathlib
import re
import subprocess
import tempfile
import typing

from . import server

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
WORDS = {"whole": "as S3 does", "as-unset": "as S3 does where nothing is set", "as-it-is": "what changes nothing is taken, all else refused",
         "lacking": "as S3 refuses it where the feature is off", "refused": "501 NotImplemented"}
GROUPS = (("multipart uploads", r"multipart"), ("listings", r"bucket_list|list_buckets|listv2|bucket_listv2"), ("conditions", r"if_?(none_?)?match|ifmodified|ifunmodified|if_modified"),
          ("copies", r"copy"), ("tags", r"tag"), ("checksums", r"checksum|crc|sha|md5"), ("heads, dates and signatures", r"test_headers|presigned|100_continue"),
          ("ranges", r"range"), ("buckets", r"bucket"))
REST = "objects"


class Operation(typing.NamedTuple):
    """One operation of S3: its name, the bucket's sub-resource that it is about (or nothing), and how it is answered."""

    name: str
    subresource: str
    support: str


def operations():
    """What the build under test says of every operation."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([server.BINARY, "generate", folder], check=True, timeout=60)
        lines = pathlib.Path(folder, "operations.tsv").read_text().splitlines()
    return [Operation(*line.split("\t")) for line in lines]


def passing():
    """The public suite's cases that pass, counted by what they are about."""
    counts = collections.Counter()
    for case in (ROOT / "tests" / "s3-tests.passing").read_text().split():
        counts[next((group for group, pattern in GROUPS if re.search(pattern, case)), REST)] += 1
    return counts


def others():
    """The public suite's other cases, counted by what they need and why they do not pass."""
    counts = collections.Counter()
    for feature, why, count in re.findall(r"^## (.+): (.+) \((\d+)\)$", (ROOT / "tests" / "s3-tests.md").read_text(), re.M):
        counts[feature, why] += int(count)
    return counts


def page():
    """The whole page."""
    every, good, bad = operations(), passing(), others()
    counts = collections.Counter(one.support for one in every)
    lines = ["# Compatibility", "", "Made by `tests/compatibility --update` of the code's own table of operations and of the last run of the public suite; a test holds it to",
             "both. What clients make of it: [clients.md](clients.md).", "", "## Operations", "",
             f"There are {len(every)} of the S3 API.", "", "| answered | operations |", "|---|---|", *(f"| {said} | {counts[word]} |" for word, said in WORDS.items()), "",
             "| operation | sub-resource | answered |", "|---|---|---|"]
    lines += [f"| {one.name} | {f'`?{one.subresource}`' if one.subresource else ''} | {WORDS[one.support]} |" for one in every]
    lines += ["", "## The public suite", "",
              f"ceph's s3-tests has {good.total() + bad.total()} cases: {good.total()} pass. Many are about what only Ceph's gateway has, or about users, of which there is one here.", "",
              "| about | pass |", "|---|---|"]
    lines += [f"| {group} | {count} |" for group, count in sorted(good.items())]
    lines += ["", "| needs | why not | cases |", "|---|---|---|"]
    lines += [f"| {feature} | {why} | {count} |" for (feature, why), count in sorted(bad.items())]
    lines += ["", "Each case and its reason: [tests/s3-tests.md](../tests/s3-tests.md).", ""]
    return "\n".join(lines)
