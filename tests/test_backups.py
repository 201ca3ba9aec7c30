"""What a backup keeps: trees that were copied away and back by each tool, as docs/backups.md says it of them."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest
from lib import command, data, s3, tables

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "backups.md"
TOOLS = {
    "cp -r": "cp -r {old}/. {new}",
    "cp -a": "cp -a {old}/. {new}",
    "rsync -a": "rsync -a {old}/ {new}",
    "rsync -aX": "rsync -aX {old}/ {new}",
    "tar": "tar -C {old} -cf {archive} . && tar -C {new} -xf {archive}",
    "tar --xattrs": "tar -C {old} --xattrs --xattrs-include=* -cf {archive} . && tar -C {new} --xattrs --xattrs-include=* -xf {archive}",
}
"""How each tool copies a tree away and back. Without the pattern tar takes user xattrs out of an archive that it put them into, and gives others back."""
KEPT, LOST = "kept", "lost"


def table():
    """The page's table: the words of each row by the tool."""
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    return {tool: [word.strip() for word in words.split("|")] for tool, words in rows}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_backup_keeps_what_the_page_says(served, client, bucket, tree, tmp_path, daemon, random, tool):
    bodies = {"file": random.bytes(1000), "dir/inner": random.bytes(2000), "no//path": random.bytes(30)}
    for key, body in bodies.items():
        client.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"a": "b"}, Tagging="c=d")
    served.stop()
    for path in (tree / bucket).rglob("*"):
        if path.is_file() and "user.twintree" in os.listxattr(path):
            command.grows_old(path)  # no restored file is as young as its record
    new = tmp_path / "restored"
    new.mkdir()
    subprocess.run(TOOLS[tool].format(old=tree, new=new, archive=tmp_path / "archive"), shell=True, check=True)
    shutil.rmtree(tree)
    seen = [looks(daemon, new, bucket, bodies, *flags) for flags in ((), ("--verify", "mtime"))]
    sealed = command.seal(new, bucket)
    seen.append(looks(daemon, new, bucket, bodies))
    tables.say(f"after {tool}", [("bytes", "ETag", "ETag, verify = mtime", "ETag, sealed", "metadata", "tags"), row(seen)])
    assert row(seen) == table()[tool], (seen, sealed)


def row(seen):
    """The words of the page: bytes, the ETag at once, with verify = "mtime" and after sealing, metadata, tags."""
    first, by_mtime, sealed = seen
    return [first["bytes"], first["etag"], by_mtime["etag"], sealed["etag"], first["metadata"], first["tags"]]


def looks(daemon, tree, bucket, bodies, *flags):
    """What S3 shows of every object of a restored tree: each either kept or lost, of all of them alike."""
    client = s3.client(daemon(tree, "--seal", "off", *flags).url)
    assert set(s3.listed(client, bucket)) == set(bodies)
    found = {"bytes": set(), "etag": set(), "metadata": set(), "tags": set()}
    for key, body in bodies.items():
        head = client.head_object(Bucket=bucket, Key=key)
        found["bytes"].add(s3.body(client, bucket, key) == body)
        found["etag"].add(s3.etag(client, bucket, key) == data.md5(body))
        found["metadata"].add(head["Metadata"] == {"a": "b"})
        found["tags"].add(client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"] == [{"Key": "c", "Value": "d"}])
    assert all(len(each) == 1 for each in found.values()), found
    return {what: KEPT if each == {True} else LOST for what, each in found.items()}


def test_the_page_names_every_tool_that_was_tried():
    assert set(table()) == set(TOOLS)
