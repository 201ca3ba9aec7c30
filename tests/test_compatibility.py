"""docs/compatibility.md says what the code does: it is what would be generated, and a daemon answers as it says."""

import re

import pytest
from lib import compatibility, s3, wire

METHODS = {"Get": "GET", "List": "GET", "Put": "PUT", "Delete": "DELETE"}
DOCUMENTS = {"versioning": b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"}


def test_the_page_is_what_would_be_generated():
    assert compatibility.PAGE.read_text() == compatibility.page(), "tests/compatibility --update"


def test_every_operation_stands_on_it_once_and_the_counts_are_those_of_the_recorded_suite():
    text = compatibility.PAGE.read_text()
    names = re.findall(rf"^\| (\w+) \| [^|]* \| (?:{'|'.join(compatibility.WORDS.values())}) \|$", text, re.M)
    assert len(names) == len(set(names)) == len(compatibility.operations()) > 110
    passing = (compatibility.ROOT / "tests" / "s3-tests.passing").read_text().split()
    assert f"{len(passing)} pass" in text
    assert compatibility.passing().total() == len(passing)
    assert f"passed {len(passing)}." in (compatibility.ROOT / "tests" / "s3-tests.md").read_text()


@pytest.mark.parametrize("verb", METHODS)
def test_each_configuration_of_a_bucket_is_answered_as_the_page_says(served, verb):
    s3.client(served.url).create_bucket(Bucket="bucket-one")
    every = compatibility.operations()
    asked = [one for one in every if one.subresource and one.name.startswith(verb)]
    many = {one.subresource for one in every if one.name.startswith("List")}
    assert len(asked) >= 4
    for one in asked:
        target = f"/bucket-one?{one.subresource}" + ("&id=x" if one.subresource in many and verb != "List" else "")
        body = DOCUMENTS.get(one.subresource, b"<x/>") if verb == "Put" else b""
        with wire.Connection(served) as connection:
            answer = connection.ask(METHODS[verb], target, body)
        if one.support == "refused":
            assert (answer.status, answer.code) == (501, "NotImplemented"), (one, answer.status, answer.body)
        elif verb == "Delete":
            assert answer.status == 204, (one, answer.status, answer.body)
        elif verb == "Put":  # the document is none, which only what reads it can say
            assert answer.code in ("MalformedXML", "MalformedACLError", "AccessControlListNotSupported"), (one, answer.status, answer.body)
        else:
            assert answer.status == 200 or answer.status == 404 and answer.code.startswith("NoSuch") or answer.code.endswith("NotFoundError"), (one, answer.status, answer.body)
