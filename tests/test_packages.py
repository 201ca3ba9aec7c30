"""The packages in a clean root: installed, serving as their own user, upgraded, removed, purged; and the tree is what it was."""

import hashlib
import os
import re
import shutil
import stat
import subprocess

import pytest
from lib import packages, s3, server, tables

TREE = "srv/twintree"


class Installed(server.Daemon):
    """The installed daemon as its unit starts it: its user, no capability, its config file, its state directory."""

    def __init__(self, root, folder):
        super().__init__(root / TREE, folder, keys=False, beside=False)
        self.inside = root
        self.state = root / "var/lib/twintree"

    def command(self):
        limits = ["setpriv", "--reuid=twintree", "--regid=twintree", "--init-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        variables = ["env", "STATE_DIRECTORY=/var/lib/twintree"]
        return packages.chrooted(self.inside, *limits, *variables, "/usr/bin/twintree", "serve", "--config", "/etc/twintree/twintree.toml")

    def start(self):
        # What systemd does for StateDirectory=.
        packages.in_root(self.inside, "install", "-d", "-o", "twintree", "-g", "twintree", "-m", "0700", "/var/lib/twintree")
        return super().start()

    def keys(self):
        """The access key and the secret key that the first start made."""
        return [line for line in (self.state / "credentials").read_text().splitlines() if not line.startswith("#")]

    def client(self):
        access, secret = self.keys()
        return s3.client(self.url, access_key=access, secret_key=secret)


@pytest.fixture
def root(tmp_path):
    """A clean root of its own."""
    assert os.geteuid() == 0, "a root is entered by root alone"
    folder = tmp_path / "clean"
    folder.mkdir()
    with packages.clean_root(folder) as entered:
        yield entered


def install(root, package):
    """dpkg -i, as an administrator does it; his own config wins."""
    shutil.copy(package, root / "tmp" / package.name)
    return packages.in_root(root, "dpkg", "--force-confold", "-i", f"/tmp/{package.name}")


def ask_for_port_0(root):
    """An administrator's own lines in the config: any port, and no seals, so that what is not written to by S3 stays to the last xattr."""
    config = root / "etc/twintree/twintree.toml"
    text = config.read_text().replace('#listen = ["127.0.0.1:9000"]', 'listen = ["127.0.0.1:0"]').replace('#seal = "written"', 'seal = "off"')
    config.write_text(text)
    return config.read_bytes()


def is_its_own_user(daemon, number):
    """It runs as the package's user, without a capability."""
    status = open(f"/proc/{daemon.pid}/status").read()
    return re.search(rf"^Uid:\t{number}\t{number}", status, re.M) and re.search(r"^CapEff:\t0+$", status, re.M)


class Written:
    """What a client put through one daemon and finds again through a later one: objects of each kind, and uploads that are open."""

    def __init__(self, client, tree, random):
        self.large, self.small = random.bytes(6 << 20), random.bytes(4096)
        self.tail = random.bytes(100_000)
        for bucket in ("photos", "archive"):
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket="photos", Key="2024/a.jpg", Body=self.small, Metadata={"from": "camera"}, Tagging="a=b", ContentType="image/jpeg")
        client.put_object(Bucket="photos", Key="2024//no-path", Body=b"annex", Metadata={"in": "the annex"})
        client.put_object(Bucket="photos", Key="2024/empty/", Body=b"")
        client.put_object(Bucket="photos", Key="wordy", Body=b"w", Metadata={"much": "m" * 1900})
        client.put_object(Bucket="photos", Key="summed", Body=self.small, ChecksumAlgorithm="SHA256")
        self.parts("photos", "whole", client, [self.large, self.tail]).finish(client)
        self.open = [self.parts("photos", "large", client, [self.large, self.tail]), self.parts("archive", "deep/er", client, [self.tail], Metadata={"late": "yes"}),
                     self.parts("archive", "dropped", client, [self.large])]
        self.foreign(tree)
        self.before = self.seen(client)

    class parts:
        """An upload with some of its parts."""

        def __init__(self, bucket, key, client, bodies, **named):
            self.bucket, self.key, self.body = bucket, key, b"".join(bodies)
            self.id = client.create_multipart_upload(Bucket=bucket, Key=key, **named)["UploadId"]
            self.etags = [client.upload_part(Bucket=bucket, Key=key, UploadId=self.id, PartNumber=number, Body=body)["ETag"] for number, body in enumerate(bodies, 1)]

        def finish(self, client):
            """Completes it."""
            parts = [{"ETag": etag, "PartNumber": number} for number, etag in enumerate(self.etags, 1)]
            client.complete_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=self.id, MultipartUpload={"Parts": parts})

    @staticmethod
    def foreign(tree):
        """Somebody else's files, in the same folder."""
        mine = tree / "photos" / "by-hand.txt"
        mine.write_bytes(b"mine")
        os.chown(mine, 4242, 4242)
        os.setxattr(mine, "user.mine", b"kept")
        os.symlink("by-hand.txt", tree / "photos" / "link")

    @staticmethod
    def seen(client):
        """All that S3 says of all objects and uploads."""
        found = {}
        for bucket in ("photos", "archive"):
            for one in client.list_objects_v2(Bucket=bucket).get("Contents", []):
                head = client.head_object(Bucket=bucket, Key=one["Key"], ChecksumMode="ENABLED")
                kept = {name: value for name, value in head.items() if name != "ResponseMetadata"}
                tags = client.get_object_tagging(Bucket=bucket, Key=one["Key"])["TagSet"]
                found[bucket, one["Key"]] = (one["ETag"], one["Size"], one["LastModified"], kept, tags, hashlib.sha256(s3.body(client, bucket, one["Key"])).hexdigest())
            for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
                parts = client.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])["Parts"]
                found[bucket, upload["Key"], upload["UploadId"]] = [(part["PartNumber"], part["ETag"], part["Size"]) for part in parts]
        return found


@pytest.mark.timeout(600)  # the earlier daemon may have to be built
def test_install_serve_upgrade_remove_purge_and_the_tree_is_what_it_was(root, tmp_path, random):
    """The upgrade is one from the daemon that was the last before there were packages: data and open uploads are its."""
    earlier = packages.built("0.0.1", packages.previous())["deb"]
    install(root, earlier)
    assert "install ok installed" in packages.in_root(root, "dpkg-query", "-W", "-f=${Status}", "twintree")
    user = packages.in_root(root, "getent", "passwd", "twintree").split(":")
    assert user[6].strip().endswith("nologin") and int(user[2]) < 1000
    tree = root / TREE
    assert (tree.stat().st_uid, stat.S_IMODE(tree.stat().st_mode)) == (int(user[2]), 0o755)
    assert (root / "etc/systemd/system/multi-user.target.wants/twintree.service").is_symlink(), "enabled"
    assert re.search(r"twintree \d", packages.in_root(root, "twintree", "--version"))
    assert not (root / "var/lib/twintree").exists()

    # It serves, as its own user; somebody else's file lies there as well, and uploads are open.
    config = ask_for_port_0(root)
    first = Installed(root, tmp_path / "first").start()
    assert is_its_own_user(first, user[2])
    keys, written = first.keys(), Written(first.client(), tree, random)
    assert len(written.before) == 11
    first.stop()
    was, before = (root / "usr/bin/twintree").read_bytes(), packages.picture(tree)

    # An upgrade keeps the config and the keys; all is there as it was, and uploads go on.
    install(root, packages.built()["deb"])
    assert (root / "usr/bin/twintree").read_bytes() != was, "another binary"
    assert "0.0.1" not in packages.in_root(root, "dpkg-query", "-W", "-f=${Version}", "twintree")
    assert (root / "etc/twintree/twintree.toml").read_bytes() == config
    assert packages.picture(tree) == before
    second = Installed(root, tmp_path / "second").start()
    assert is_its_own_user(second, user[2])
    assert second.keys() == keys and second.words().count("secret key") == 0
    client = second.client()
    assert written.seen(client) == written.before
    assert packages.picture(tree) == before, "looking changes nothing"
    for upload in written.open[:2]:
        upload.finish(client)
        assert s3.body(client, upload.bucket, upload.key) == upload.body
    assert client.head_object(Bucket="archive", Key="deep/er")["Metadata"] == {"late": "yes"}
    assert s3.etag(client, "photos", "large") == s3.etag(client, "photos", "whole"), "the same parts"
    client.abort_multipart_upload(Bucket="archive", Key="dropped", UploadId=written.open[2].id)
    assert not client.list_multipart_uploads(Bucket="archive").get("Uploads")
    assert s3.body(client, "photos", "by-hand.txt") == b"mine"
    second.stop()
    after = packages.picture(tree)
    untouched = {name for name in before if tree / name in (tree / "photos/by-hand.txt", tree / "photos/link", tree / "photos/2024/a.jpg", tree / "photos/wordy")}
    assert len(untouched) == 4 and all(before[name] == after[name] for name in untouched)

    # Removal keeps config, keys and data.
    packages.in_root(root, "dpkg", "-r", "twintree")
    assert not (root / "usr/bin/twintree").exists()
    assert (root / "etc/twintree/twintree.toml").read_bytes() == config and second.keys() == keys
    assert packages.picture(tree) == after

    # Purge takes config and state, and nothing of the tree.
    packages.in_root(root, "dpkg", "-P", "twintree")
    assert not (root / "etc/twintree").exists() and not (root / "var/lib/twintree").exists()
    assert not (root / "etc/systemd/system/multi-user.target.wants/twintree.service").is_symlink()
    assert packages.picture(tree) == after
    assert packages.in_root(root, "getent", "passwd", "twintree"), "the files are still somebody's"
    tables.LINES.append(f"packages: installed, upgraded from {packages.BEFORE}, removed, purged; {len(after)} entries of the tree are what they were")


def test_purge_leaves_a_tree_alone_that_lies_in_the_state_directory(root):
    install(root, packages.built()["deb"])
    within = root / "var/lib/twintree/buckets/photos"
    within.mkdir(parents=True)
    (within / "a").write_bytes(b"mine")
    (root / "etc/twintree/cert.pem").write_bytes(b"mine too")
    packages.in_root(root, "dpkg", "-P", "twintree")
    assert (within / "a").read_bytes() == b"mine"
    assert (root / "etc/twintree/cert.pem").read_bytes() == b"mine too"
    assert not (root / "etc/twintree/twintree.toml").exists()


def test_an_image_without_proc_gets_the_package_whole(root):
    refuses = root / "usr/bin/systemd-tmpfiles"
    refuses.write_text("#!/bin/sh\necho /proc/ is not mounted >&2\nexit 1\n")
    refuses.chmod(0o755)
    install(root, packages.built()["deb"])
    assert "install ok installed" in packages.in_root(root, "dpkg-query", "-W", "-f=${Status}", "twintree")
    assert (root / TREE).is_dir()


def test_an_image_without_systemd_gets_the_package_whole(root):
    packages.in_root(root, "dpkg", "--purge", "--force-depends", "systemd-sysv", "systemd")
    assert not (root / "usr/bin/systemctl").exists() and not (root / "usr/bin/systemd-tmpfiles").exists()
    install(root, packages.built()["deb"])
    assert "install ok installed" in packages.in_root(root, "dpkg-query", "-W", "-f=${Status}", "twintree")
    assert (root / TREE).is_dir() and packages.in_root(root, "getent", "passwd", "twintree")
    packages.in_root(root, "dpkg", "-P", "twintree")
    assert not (root / "etc/twintree").exists() and (root / TREE).is_dir()


def test_the_rpm_is_installed_upgraded_and_erased_and_the_tree_is_what_it_was(root):
    if shutil.which("rpm") is None:
        tables.LINES.append("rpm is not here: the .rpm was not installed")
        return

    def rpm(*words):
        done = subprocess.run(["rpm", "--root", root, *map(str, words)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "error" not in done.stderr + done.stdout, done
        return done.stdout

    rpm("--initdb")
    rpm("-ivh", "--nodeps", packages.built()["rpm"])  # what it needs is there, but dpkg's
    assert packages.in_root(root, "getent", "passwd", "twintree")
    assert rpm("-V", "--nodeps", "twintree") == ""
    assert re.search(r"twintree \d", packages.in_root(root, "twintree", "--version"))
    config = ask_for_port_0(root)
    tree = root / TREE
    (tree / "photos").mkdir(parents=True)
    (tree / "photos/a").write_bytes(b"mine")
    os.setxattr(tree / "photos/a", "user.mine", b"kept")
    before = packages.picture(tree)
    rpm("-Uvh", "--nodeps", packages.built("99.0.0")["rpm"])
    assert "99.0.0" in rpm("-q", "twintree")
    assert (root / "etc/twintree/twintree.toml").read_bytes() == config
    rpm("-e", "twintree")
    assert not (root / "usr/bin/twintree").exists()
    assert (root / "etc/twintree/twintree.toml.rpmsave").read_bytes() == config
    assert packages.picture(tree) == before
