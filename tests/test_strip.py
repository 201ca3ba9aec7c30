"""`twintree strip`: it says what is ours in a tree, takes out that and nothing else, and only when it is told to."""

import os

import pytest
from lib import command, s3, tree as trees

OURS = "user.twintree"
ANNEXED = {"x//y": 3, "..": 4, "file/below": 5, "l" * 300: 6}
"""Keys that no path can hold, and their bytes."""


@pytest.fixture
def left(served, client, bucket, tree, random):
    """A served tree after its daemon has gone, with one of everything that a gateway leaves in it."""
    for key, length in {"file": 1, "dir/inner/deep": 2, **ANNEXED}.items():
        client.put_object(Bucket=bucket, Key=key, Body=random.bytes(length))
    client.put_object(Bucket=bucket, Key="typed", Body=b"typed", ContentType="image/png", Metadata={"a": "b"})
    client.put_object(Bucket=bucket, Key="tagged", Body=b"tagged", Tagging="a=b")
    client.put_object(Bucket=bucket, Key="folder/", Body=b"")
    upload = client.create_multipart_upload(Bucket=bucket, Key="open")["UploadId"]
    client.upload_part(Bucket=bucket, Key="open", UploadId=upload, PartNumber=1, Body=random.bytes(100))
    client.create_bucket(Bucket="second")
    client.put_object(Bucket="second", Key="large-metadata", Body=b"x", Metadata={"m": "v" * 1800})
    top = tree / bucket
    (top / "by-hand").write_bytes(random.bytes(7))
    os.setxattr(top / "file", "user.twintreeish", b"somebody's")
    os.setxattr(top / "by-hand", "user.comment", b"somebody's")
    os.symlink("file", top / "link")
    with open(os.fsencode(top) + b"/not-utf8-\xff", "wb") as file:
        file.write(b"x")
    served.stop()
    return tree


def without_ours(tree):
    """The picture of a tree as it would be without us: no ctime, no link count, none of our xattrs, nothing below a reserved directory."""
    return {path: (*seen[:5], seen[6], tuple(pair for pair in seen[9] if pair[0] != OURS and not pair[0].startswith(OURS + ".")))
            for path, seen in trees.picture(tree, atime=False).items() if "/.twintree" not in path}


def of_ours(tree):
    """What is ours in a tree: its paths."""
    return [path for path, seen in trees.picture(tree, atime=False).items()
            if "/.twintree" in path or any(name == OURS or name.startswith(OURS + ".") for name, _ in seen[9])]


def test_it_says_what_is_there_and_changes_nothing(left):
    before = trees.picture(left)
    done = command.run("strip", left)
    assert done.returncode == 0 and not done.stderr, done
    assert trees.picture(left) == before
    said = done.stdout.decode()
    assert "Would be taken out:" in said and "--yes" in said
    records = sum(name == OURS for path, seen in before.items() if "/.twintree" not in path for name, _ in seen[9])
    assert records >= 5
    for line in (f"{records} records", "3 files or folders with metadata", f"{len(ANNEXED)} objects whose keys no path can hold, {sum(ANNEXED.values())} B",
                 "1 multipart uploads", "2 directories .twintree"):
        assert f"\n  {line}" in said, (line, said)


def test_with_yes_all_of_it_goes_and_nothing_else_moves(left):
    before = without_ours(left)
    assert of_ours(left)
    done = command.run("strip", left, "--yes")
    assert done.returncode == 0 and not done.stderr, done
    assert b"Taken out:" in done.stdout
    assert of_ours(left) == []
    assert without_ours(left) == before
    assert os.getxattr(left / "bucket-one" / "file", "user.twintreeish") == b"somebody's"
    again = command.run("strip", left)
    assert again.returncode == 0 and b"nothing of ours" in again.stdout


def test_one_bucket_is_stripped_and_the_other_is_not(left):
    other = trees.picture(left / "second")
    done = command.run("strip", left / "bucket-one", "--yes")
    assert done.returncode == 0, done
    assert of_ours(left / "bucket-one") == [] and trees.picture(left / "second", atime=False).keys() == other.keys()
    assert of_ours(left / "second")


def test_a_stripped_tree_is_served_again(left, daemon, random):
    bodies = {name: (left / "bucket-one" / name).read_bytes() for name in ("file", "dir/inner/deep", "typed")}
    assert command.run("strip", left, "--yes").returncode == 0
    client = s3.client(daemon(left).url)
    assert {name: s3.body(client, "bucket-one", name) for name in bodies} == bodies
    assert set(s3.listed(client, "bucket-one")) == {"by-hand", "dir/inner/deep", "file", "link", "not-utf8-\U0010feff", "tagged", "typed"}
    client.put_object(Bucket="bucket-one", Key="new", Body=b"new")
    assert s3.body(client, "bucket-one", "new") == b"new"


def test_what_a_link_leads_to_is_left_alone(left, tmp_path):
    outside = tmp_path / "outside"
    (outside / ".twintree").mkdir(parents=True)
    (outside / "file").write_bytes(b"x")
    os.setxattr(outside / "file", OURS, b"x")
    os.symlink(outside, left / "bucket-one" / "to-a-folder")
    os.symlink(outside / "file", left / "bucket-one" / "to-a-file")
    os.symlink(outside, left / "a-bucket")
    os.symlink(outside / ".twintree", left / ".twintree")
    before = trees.picture(outside)
    command.run("strip", left, "--yes")
    assert trees.picture(outside) == before
    assert os.path.islink(left / ".twintree")


def test_a_folder_of_that_name_where_no_gateway_makes_one_is_left_and_said(left):
    deep = left / "bucket-one" / "dir" / "inner" / ".twintree"
    deep.mkdir()
    (deep / "mine").write_bytes(b"mine")
    done = command.run("strip", left, "--yes")
    assert done.returncode == 1 and f"left: {deep}: ".encode() in done.stderr, done
    assert (deep / "mine").read_bytes() == b"mine" and not (left / "bucket-one" / ".twintree").exists()


def test_what_may_not_be_changed_is_said_and_the_rest_is_done(left):
    kept = left / "bucket-one" / "file"
    if os.geteuid() != 0:
        pytest.skip("an immutable file takes root")
    changed = command.subprocess.run(["chattr", "+i", str(kept)], capture_output=True)
    assert changed.returncode == 0, changed
    try:
        done = command.run("strip", left, "--yes")
    finally:
        command.subprocess.run(["chattr", "-i", str(kept)], check=True)
    assert done.returncode == 1 and f"left: {kept}: ".encode() in done.stderr, done
    assert of_ours(left) == [str(kept)]


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_directory_ends_with_a_sentence(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    done = command.run("strip", tmp_path / name)
    assert done.returncode == 66 and done.stderr.decode() == f"twintree: {tmp_path / name} is no directory\n"


def test_names_are_shown_without_what_a_terminal_would_act_on(left):
    deep = left / "bucket-one" / "dir" / "\x1b[31mred\n"
    (deep / ".twintree").mkdir(parents=True)
    done = command.run("strip", left)
    assert done.returncode == 1 and b"\x1b" not in done.stderr and done.stderr.count(b"\n") == 2, done
