"""The documentation, done as it is written: every `sh` and `python` block of README.md and docs/ runs, in order (lib/pages.py says how)."""

import pathlib
import re
import subprocess

import pytest
from lib import pages, server, tables

MOST_NOT_RUN = 8
PAGE_SECONDS = 150
PAGES = [server.ROOT / "README.md", *sorted((server.ROOT / "docs").glob("*.md"))]
TO_RUN = [page for page in PAGES if any(block.reason is None for block in pages.blocks(page.read_text()))]


@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.stem)
def test_every_block_of_a_page_does_what_it_says(page, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    done = subprocess.run(pages.command(page, place, server.BINARY), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PAGE_SECONDS)
    assert done.returncode == 0, done.stdout[-8000:]


def test_few_blocks_are_left_out_and_each_says_why():
    found = [block for page in PAGES for block in pages.blocks(page.read_text())]
    left_out = [block for block in found if block.reason is not None]
    tables.say("documentation", [("blocks run", "left out", "pages"), (len(found) - len(left_out), len(left_out), len(PAGES))])
    assert len(left_out) <= MOST_NOT_RUN
    fences = sum(len(re.findall(r"^```(?:sh|python)$", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == len(found), "a block that is not understood"


def test_every_link_between_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                assert anchor in {slug(heading) for heading in headings}, f"{page.name}: {target}"


def test_every_message_that_is_explained_is_one_of_the_program():
    said = sources()
    told = messages()
    assert len(told) > 50
    missing = [message for message in told for piece in message.split("…") if piece.strip(" :") not in said]
    assert not missing, missing


def messages():
    """What stands in the first column of the tables of docs/troubleshooting.md as a message."""
    text = (server.ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def sources():
    """All that the program can say, each text in one line."""
    paths = [path for room in ("src", "gateway/src", "store/src", "fuse/src") for path in sorted((server.ROOT / room).rglob("*.rs"))]
    return re.sub(r"\\\n\s*", "", "\n".join(path.read_text() for path in paths if not path.stem.endswith("tests")))


def slug(heading):
    """A heading as links name it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
