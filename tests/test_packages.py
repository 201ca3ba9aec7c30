"""The packages in a clean root: installed, serving as their own user, upgraded, removed, purged; and the tree is what it was."""

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
    """An administrator's own line in the config."""
    config = root / "etc/twintree/twintree.toml"
    config.write_text(config.read_text().replace('#listen = ["127.0.0.1:9000"]', 'listen = ["127.0.0.1:0"]'))
    return config.read_bytes()


def test_install_serve_upgrade_remove_purge_and_the_tree_is_what_it_was(root, tmp_path, random):
    install(root, packages.built()["deb"])
    assert "install ok installed" in packages.in_root(root, "dpkg-query", "-W", "-f=${Status}", "twintree")
    user = packages.in_root(root, "getent", "passwd", "twintree").split(":")
    assert user[6].strip().endswith("nologin") and int(user[2]) < 1000
    tree = root / TREE
    assert (tree.stat().st_uid, stat.S_IMODE(tree.stat().st_mode)) == (int(user[2]), 0o755)
    assert (root / "etc/systemd/system/multi-user.target.wants/twintree.service").is_symlink(), "enabled"
    assert re.search(r"twintree \d", packages.in_root(root, "twintree", "--version"))
    assert not (root / "var/lib/twintree").exists()

    # It serves, as its own user; somebody else's file lies there as well, and an upload is open.
    config = ask_for_port_0(root)
    first = Installed(root, tmp_path / "first").start()
    status = (tmp_path / "status")
    status.write_text(open(f"/proc/{first.pid}/status").read())
    assert re.search(rf"^Uid:\t{user[2]}\t{user[2]}", status.read_text(), re.M) and re.search(r"^CapEff:\t0+$", status.read_text(), re.M)
    client, keys = first.client(), first.keys()
    client.create_bucket(Bucket="photos")
    large, small = random.bytes(6 << 20), random.bytes(4096)
    client.put_object(Bucket="photos", Key="2024/a.jpg", Body=small, Metadata={"from": "camera"}, Tagging="a=b")
    client.put_object(Bucket="photos", Key="2024//no-path", Body=b"annex")
    foreign = tree / "photos" / "by-hand.txt"
    foreign.write_bytes(b"mine")
    os.chown(foreign, 4242, 4242)
    os.setxattr(foreign, "user.mine", b"kept")
    os.symlink("by-hand.txt", tree / "photos" / "link")
    upload = client.create_multipart_upload(Bucket="photos", Key="large")["UploadId"]
    part = client.upload_part(Bucket="photos", Key="large", UploadId=upload, PartNumber=1, Body=large)["ETag"]
    etag = s3.etag(client, "photos", "2024/a.jpg")
    first.stop()
    before = packages.picture(tree)
    assert len(before) > 8

    # An upgrade keeps the config and the keys; uploads go on.
    later = packages.built("99.0.0")["deb"]
    install(root, later)
    assert "99.0.0" in packages.in_root(root, "dpkg-query", "-W", "-f=${Version}", "twintree")
    assert (root / "etc/twintree/twintree.toml").read_bytes() == config
    assert packages.picture(tree) == before
    second = Installed(root, tmp_path / "second").start()
    assert second.keys() == keys and second.words().count("secret key") == 0
    client = second.client()
    client.complete_multipart_upload(Bucket="photos", Key="large", UploadId=upload, MultipartUpload={"Parts": [{"ETag": part, "PartNumber": 1}]})
    assert s3.body(client, "photos", "large") == large
    head = client.head_object(Bucket="photos", Key="2024/a.jpg")
    assert head["ETag"].strip('"') == etag and head["Metadata"] == {"from": "camera"}
    assert s3.body(client, "photos", "2024//no-path") == b"annex" and s3.body(client, "photos", "by-hand.txt") == b"mine"
    second.stop()
    before = packages.picture(tree)

    # Removal keeps config, keys and data.
    packages.in_root(root, "dpkg", "-r", "twintree")
    assert not (root / "usr/bin/twintree").exists()
    assert (root / "etc/twintree/twintree.toml").read_bytes() == config and second.keys() == keys
    assert packages.picture(tree) == before

    # Purge takes config and state, and nothing of the tree.
    packages.in_root(root, "dpkg", "-P", "twintree")
    assert not (root / "etc/twintree").exists() and not (root / "var/lib/twintree").exists()
    assert not (root / "etc/systemd/system/multi-user.target.wants/twintree.service").is_symlink()
    assert packages.picture(tree) == before
    assert packages.in_root(root, "getent", "passwd", "twintree"), "the files are still somebody's"
    tables.LINES.append(f"packages: installed, upgraded, removed, purged; {len(before)} entries of the tree are what they were")


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
