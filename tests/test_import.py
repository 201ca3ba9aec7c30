"""`twintree import versitygw`: what boto3 saw of a tree through versitygw 1.8.0 it sees through twintree afterwards, and what the bytes do not bear out it does not."""

import os
import socket
import subprocess

import pytest
from lib import command, data, s3, server, tree as trees, versitygw

BINARY = server.ROOT / ".tools" / "bin" / "versitygw"
"""versitygw itself, where the benchmark has fetched it."""
ADDED = "user.twintree"


@pytest.fixture(params=["as it was recorded", *(["by versitygw itself"] if BINARY.exists() else [])])
def shown(request, tree):
    """What versitygw showed of the tree that it wrote to `tree`, and that lies there now."""
    if request.param == "as it was recorded":
        return versitygw.rebuild(tree)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [BINARY, "--access", server.ACCESS_KEY, "--secret", server.SECRET_KEY, "--port", f"127.0.0.1:{port}", "posix", tree]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def answers():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0
        server.wait_until(answers, "versitygw serves")
        client = versitygw.client_of(port)
        versitygw.fill(client)
        return versitygw.shown(client)
    finally:
        process.terminate()
        process.wait()


def imported(tree, *flags, code=0):
    """Runs it; gives what it printed."""
    done = command.run("import", "versitygw", tree, *flags)
    assert done.returncode == code, done
    return done.stdout.decode()


def of_theirs(tree):
    """Everything in the tree but what is ours, times of change, link counts, and the mtime of the bucket, where our directory comes and goes."""
    return {path: (*seen[:4], *(() if path == str(tree / versitygw.BUCKET) else (seen[4], seen[6])), tuple(pair for pair in seen[9] if not pair[0].startswith(ADDED)))
            for path, seen in trees.picture(tree, atime=False).items() if "/.twintree" not in path}


def test_what_a_client_saw_before_it_sees_afterwards(shown, tree, daemon):
    before = of_theirs(tree)
    said = imported(tree, "--yes")
    assert "\n  5 objects, 1 of them uploaded in parts: ETag and checksums\n  2 folders that are objects\n  3 of these have metadata or tags\n" in said, said
    assert of_theirs(tree) == before, "bytes, names, mtimes and versitygw's xattrs stay"
    client = s3.client(daemon(tree, "--seal", "off", "--hide", ".sgwtmp").url)
    assert versitygw.shown(client) == shown
    assert set(s3.listed(client, versitygw.BUCKET)) == set(versitygw.BODIES)
    for key, body in versitygw.BODIES.items():
        assert s3.body(client, versitygw.BUCKET, key) == body
        assert s3.etags_everywhere(client, versitygw.BUCKET, key) == {shown[key]["ETag"].strip('"')}


def test_without_yes_nothing_changes(shown, tree):
    trees.quieten(tree)
    before = trees.picture(tree)
    said = imported(tree)
    assert "Would be taken over:" in said and "\n  5 objects, 1 of them uploaded in parts" in said and "--yes" in said, said
    assert trees.picture(tree) == before


def test_an_etag_that_the_bytes_do_not_bear_out_is_not_taken(shown, tree, daemon):
    top = tree / versitygw.BUCKET
    (top / "changed").write_bytes(b"other bytes")
    with open(top / "multi", "r+b") as file:
        file.write(b"b")
    said = imported(tree, "--yes")
    assert "\n  3 objects, 0 of them uploaded in parts" in said and "\n  2 objects whose bytes do not bear out their ETag" in said, said
    client = s3.client(daemon(tree, "--seal", "off", "--hide", ".sgwtmp").url)
    for key in ("changed", "multi"):
        assert s3.etag(client, versitygw.BUCKET, key) == data.md5((top / key).read_bytes())
    assert client.head_object(Bucket=versitygw.BUCKET, Key="multi")["Metadata"] == {"m": "p"}


def test_an_upload_in_parts_without_a_checksum_of_the_whole_is_not_taken_on_trust(shown, tree):
    os.removexattr(tree / versitygw.BUCKET / "multi", "user.checksums")
    assert "\n  1 objects whose bytes do not bear out their ETag" in imported(tree, "--yes")


def test_a_second_time_there_is_nothing_to_do_and_what_was_put_since_stays(shown, tree, daemon):
    imported(tree, "--yes")
    one = daemon(tree)
    client = s3.client(one.url)
    client.put_object(Bucket=versitygw.BUCKET, Key="plain", Body=b"new", Metadata={"new": "er"})
    one.stop()
    os.setxattr(tree / versitygw.BUCKET / "plain", "user.etag", b'"5d41402abc4b2a76b9719d911017c592"')
    said = imported(tree, "--yes")
    assert "\n  7 objects have a record of twintree already" in said and "uploaded in parts" not in said, said
    head = s3.client(daemon(tree).url).head_object(Bucket=versitygw.BUCKET, Key="plain")
    assert (head["ETag"], head["Metadata"]) == (f'"{data.md5(b"new")}"', {"new": "er"})


@pytest.mark.parametrize("value", [b"", b"x", b'"5d41"', b"\xff" * 40, b'"' + b"g" * 32 + b'"', b"{" * 60_000])
def test_hostile_attributes_are_no_claims(tree, value):
    top = tree / "one"
    top.mkdir()
    (top / "file").write_bytes(b"hello")
    for name in ("user.etag", "user.checksums", "user.metadata", "user.X-Amz-Tagging"):
        try:
            os.setxattr(top / "file", name, value)
        except OSError:
            break  # so much has no room
    os.symlink("/etc", top / "link")
    os.mkfifo(top / "fifo")
    done = command.run("import", "versitygw", tree, "--yes")
    assert done.returncode == 0 and b"panicked" not in done.stderr, done
    assert "objects, 0" not in done.stdout.decode().replace("1 objects whose", ""), done


def test_what_is_no_directory_ends_with_a_sentence(tmp_path):
    done = command.run("import", "versitygw", tmp_path / "nowhere")
    assert done.returncode == 66 and done.stderr.decode() == f"twintree: {tmp_path}/nowhere is no directory\n"


def test_stripped_it_is_versitygws_again(shown, tree):
    before = of_theirs(tree)
    imported(tree, "--yes")
    assert command.run("strip", tree, "--yes").returncode == 0
    assert of_theirs(tree) == before
