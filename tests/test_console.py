"""The console, in Debian's Chromium: at http://nas.test, which is no secure context, with S3 on another port; over TLS; beside the objects.

TWINTREE_PICTURES=FOLDER: the pictures of docs/console.md are made anew there.
"""

import base64
import datetime
import hashlib
import http.client
import json
import os
import pathlib
import ssl
import struct
import subprocess
import urllib.parse
import zlib

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from lib import admin, browser, mountpoint, s3, server

PLACE = "/.twintree/ui/"
PART = 8 << 20
HOSTILE = ["<script>alert(1);", "<img src=x onerror=alert(1)>", "line\nbreak.txt", "\"quotes' & <b>bold", "100%41 + ?#&=;,.txt", "naïve-한-🌲.txt",
           "a\rb\tc", "{{7*7}}${7*7}", " blanks ", "right‮gpj.txt", "-~_.!*'()", "back\\slash"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    one = browser.Driver(tmp_path_factory.mktemp("browser"))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def chromium(driver, authority):
    """One browser for all tests; it believes the certificate of our authority."""
    public = subprocess.run(["openssl", "pkey", "-in", authority.key, "-pubout", "-outform", "DER"], check=True, capture_output=True).stdout
    believed = base64.b64encode(hashlib.sha256(public).digest()).decode()
    one = browser.Browser(driver, f"--ignore-certificate-errors-spki-list={believed}")
    yield one
    one.close()


class Console:
    """The page of one daemon in the browser."""

    def __init__(self, chromium, daemon, base):
        self.browser, self.daemon, self.base = chromium, daemon, base
        self.s3 = f"{urllib.parse.urlsplit(daemon.url).scheme}://nas.test:{daemon.port}"
        chromium.look()
        chromium.said.clear()
        chromium.prefers("light")
        chromium.open(base + PLACE)
        chromium.wait("return document.querySelector('#where').textContent !== ''")
        chromium.run("performance.setResourceTimingBufferSize(5000)")

    def sign_in(self, access=server.ACCESS_KEY, secret=server.SECRET_KEY):
        self.browser.type("#access", access)
        self.browser.type("#secret", secret)
        self.browser.click("#signin button")

    def enter(self, bucket="bucket-one"):
        """Signs in and opens a bucket."""
        self.sign_in()
        self.browser.wait("return !document.querySelector('#inside').hidden && document.querySelector('#bucket-list a') !== null")
        self.browser.run("location.hash = '#/' + arguments[0] + '/'", bucket)
        self.browser.wait("return document.querySelector('#folder-title').textContent === arguments[0] && document.activeElement.id === 'folder-title'", bucket)
        return self

    def names(self):
        """The names that the table shows."""
        return self.browser.run("return [...document.querySelectorAll('#entries .name')].map((name) => name.textContent)")

    def wait_for_names(self, *names):
        self.browser.wait("return JSON.stringify([...document.querySelectorAll('#entries .name')].map((name) => name.textContent).sort()) === JSON.stringify(arguments[0])", sorted(names))

    def row(self, key, act):
        """Does something with the row of a key: `.name` opens it, `input` selects it."""
        self.browser.run("[...document.querySelectorAll('#entries tr')].find((row) => row.dataset.key === arguments[0]).querySelector(arguments[1]).click()", key, act)

    def look(self, key):
        """Opens the dialog of an object, and waits for its preview."""
        self.row(key, ".name")
        self.browser.wait("return document.querySelector('#object').open && document.querySelector('#preview').childElementCount > 0")

    def close(self):
        self.browser.click("#close")
        self.browser.wait("return !document.querySelector('#object').open")

    def upload(self, *paths):
        self.browser.type("#files", "\n".join(map(str, paths)))

    def confirm(self, answer="yes"):
        self.browser.wait("return document.querySelector('#confirm').open")
        self.browser.click(f"#confirm-{answer}")

    def is_clean(self):
        """Nothing ran that should not, nobody else was asked, and the browser has nothing to complain of."""
        assert self.browser.alert() is None
        self.browser.look()
        asked = {urllib.parse.urlsplit(url)[:2] for url in self.browser.asked() if not url.startswith("blob:")}
        assert asked <= {urllib.parse.urlsplit(self.base)[:2], urllib.parse.urlsplit(self.s3)[:2]}, asked
        assert not self.browser.said, self.browser.said


@pytest.fixture
def console(chromium, daemon, tree):
    """The console as it is by default: on the admin listener, in the clear, with one bucket."""
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--admin", "127.0.0.1:0", "--domain", "s3.test", beside=False)
    console = Console(chromium, one, f"http://nas.test:{one.admin.rsplit(':', 1)[1]}")
    yield console
    console.is_clean()


def ask(url, method="GET", headers=()):
    """One request to a name under .test, as anybody makes it: status, headers, body."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection("127.0.0.1", parts.port, timeout=30, context=ssl._create_unverified_context())
    else:
        connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=30)
    try:
        connection.request(method, url.split(parts.netloc, 1)[1], headers={"host": parts.netloc, **dict(headers)})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def png(width=64, height=48):
    """A picture."""
    rows = b"".join(b"\0" + bytes(value for x in range(width) for value in (x * 4 % 256, y * 5 % 256, 128)) for y in range(height))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Signing in.

def test_it_signs_in_where_browsers_have_no_cryptography_of_their_own(console):
    assert console.browser.run("return [isSecureContext, typeof crypto.subtle]") == [False, "undefined"]
    console.sign_in()
    console.browser.wait_for_text("#bucket-list", "bucket-one")
    kept = console.browser.run("return [document.cookie, localStorage.length, sessionStorage.length, document.body.innerHTML, location.href]")
    assert kept[:3] == ["", 0, 0] and server.SECRET_KEY not in str(kept)
    console.browser.click("#leave")
    console.browser.wait("return document.querySelector('#inside').hidden && document.querySelector('#secret').value === ''")


@pytest.mark.parametrize(("access", "secret", "words", "focus"), [
    ("NOBODY", server.SECRET_KEY, "There is no such access key here.", "access"),
    (server.ACCESS_KEY, "another secret", "The secret key is not the one of this access key.", "secret"),
])
def test_a_key_that_is_none_is_told_so(chromium, console, access, secret, words, focus):
    console.sign_in(access, secret)
    chromium.wait_for_text("#signin-trouble", words)
    assert chromium.run("return document.activeElement.id") == focus
    assert not chromium.shows("#inside")
    # That the browser notes the 403 is as it should be.
    chromium.look()
    chromium.said[:] = [line for line in chromium.said if "status of 403" not in line]


def test_a_server_that_is_gone_is_told_of(chromium, daemon, tree):
    one = daemon(tree, "--admin", "127.0.0.1:0", beside=False)
    page = Console(chromium, one, f"http://nas.test:{one.admin.rsplit(':', 1)[1]}")
    one.stop()
    page.sign_in()
    chromium.wait_for_text("#signin-trouble", f"{page.s3} does not answer")


def test_a_computer_whose_clock_is_off_gets_in(chromium, console):
    chromium.run("const now = Date.now; Date.now = () => now() - 3600e3")
    console.sign_in()
    chromium.wait_for_text("#bucket-list", "bucket-one")
    chromium.look()
    chromium.said[:] = [line for line in chromium.said if "status of 403" not in line]


def test_its_signatures_are_those_of_botocore(chromium, console, random):
    lengths = [*range(131), 1000, (1 << 20) - 1, (2 << 20) + 64, (2 << 20) + 100]
    bodies = [random.bytes(length) for length in lengths]
    hashed = chromium.run("""const { sha256, sha256OfMany, hex } = await import('./sha256.js');
        const digests = [];
        for (const body of arguments[0].map((text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0)))) digests.push([hex(sha256(body)), hex(await sha256OfMany(body))]);
        return digests""", [base64.b64encode(body).decode() for body in bodies])
    assert hashed == [[hashlib.sha256(body).hexdigest()] * 2 for body in bodies]
    key = botocore.credentials.Credentials("AK", "secret/+=" * 10)
    now = datetime.datetime(2026, 2, 3, 4, 5, 6)
    for name in HOSTILE:
        path = "/bucket-one/" + urllib.parse.quote(name, safe="/-_.~")
        parameters = {"list-type": "2", "prefix": name, "a-b": "x y", "a": "", "A": "/"}
        url = f"http://nas.test:9000{path}?" + "&".join(f"{key}={urllib.parse.quote(value, safe='-_.~')}" for key, value in parameters.items())
        request = botocore.awsrequest.AWSRequest("PUT", url, {"content-type": "text/plain;  x", "x-amz-meta-a": " b"}, b"body")
        request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
        theirs = botocore.auth.S3SigV4Auth(key, "s3", "eu-1")
        theirs.payload = lambda _: hashlib.sha256(b"body").hexdigest()
        request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(b"body").hexdigest()
        request.headers["X-Amz-Date"] = request.context["timestamp"]
        canonical = theirs.canonical_request(request)
        signature = theirs.signature(theirs.string_to_sign(request, canonical), request)
        ours, link = chromium.run("""const { sign, presign, encodePath } = await import('./sigv4.js');
            const { sha256, hex } = await import('./sha256.js');
            const [name, parameters, secret] = arguments;
            const request = { method: 'PUT', host: 'nas.test:9000', path: '/bucket-one/' + encodePath(name), parameters, headers: { 'content-type': 'text/plain;  x', 'x-amz-meta-a': ' b' }, payload: hex(sha256('body')) };
            const now = new Date('2026-02-03T04:05:06Z');
            return [sign({ access: 'AK', secret }, 'eu-1', now, request), presign({ access: 'AK', secret }, 'eu-1', now, 60, { ...request, method: 'GET', headers: {} })]""",
                                   name, parameters, key.secret_key)
        assert ours["authorization"].rsplit("Signature=", 1)[1] == signature, canonical
        assert "X-Amz-Expires=60" in link and len(link.rsplit("X-Amz-Signature=", 1)[1]) == 64


# Uploading.

def test_a_large_file_goes_in_parts_and_is_on_the_disk_byte_for_byte(console, tree, tmp_path, random):
    body = random.bytes(20 << 20)
    (tmp_path / "large.bin").write_bytes(body)
    console.enter().upload(tmp_path / "large.bin")
    console.browser.wait_for_text("#upload-list", "20 MiB, uploaded")
    console.wait_for_names("large.bin")
    assert (tree / "bucket-one" / "large.bin").read_bytes() == body
    head = s3.client(console.daemon.url).head_object(Bucket="bucket-one", Key="large.bin")
    assert head["ETag"].endswith("-3\"")
    assert "large.bin is uploaded." in console.browser.text("#status")


def test_what_is_dropped_is_uploaded_where_one_is(console, tree):
    (tree / "bucket-one" / "folder").mkdir()
    (tree / "bucket-one" / "folder" / "there").write_text("there")
    console.enter()
    console.wait_for_names("folder/")
    console.row("folder/", ".name")
    console.browser.wait_for_text("#folder-title", "folder")
    console.browser.run("""const transfer = new DataTransfer();
        transfer.items.add(new File(['one'], 'one.txt', { type: 'text/plain' }));
        transfer.items.add(new File([], 'empty'));
        document.querySelector('main').dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }))""")
    console.wait_for_names("one.txt", "empty", "there")
    # What is no file is let be.
    console.browser.run("""const transfer = new DataTransfer();
        transfer.setData('text/plain', 'words');
        document.querySelector('main').dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }))""")
    assert len(console.browser.run("return [...document.querySelectorAll('#upload-list li')].map((line) => line.dataset.outcome)")) == 2
    assert (tree / "bucket-one" / "folder" / "one.txt").read_bytes() == b"one"
    assert s3.client(console.daemon.url).head_object(Bucket="bucket-one", Key="folder/one.txt")["ContentType"] == "text/plain"
    assert (tree / "bucket-one" / "folder" / "empty").read_bytes() == b""


def test_a_folder_is_uploaded_as_a_folder(console, tree, tmp_path):
    (tmp_path / "album" / "inner").mkdir(parents=True)
    (tmp_path / "album" / "a").write_text("a")
    (tmp_path / "album" / "inner" / "b").write_text("b")
    console.enter()
    console.browser.type("#files-of-folder", tmp_path / "album")
    console.wait_for_names("album/")
    assert (tree / "bucket-one" / "album" / "inner" / "b").read_text() == "b"


def test_what_is_there_already_is_replaced_only_when_asked(console, tree, tmp_path):
    (tree / "bucket-one" / "a.txt").write_text("old")
    (tmp_path / "a.txt").write_text("new")
    console.enter().upload(tmp_path / "a.txt")
    console.browser.wait_for_text("#upload-list", "is there already")
    assert (tree / "bucket-one" / "a.txt").read_text() == "old"
    console.browser.click("#upload-list button")
    console.browser.wait_for_text("#upload-list", "uploaded")
    assert (tree / "bucket-one" / "a.txt").read_text() == "new"


def test_an_upload_that_is_cancelled_leaves_nothing(console, tree, tmp_path, random):
    (tmp_path / "slow.bin").write_bytes(random.bytes(20 << 20))
    console.enter()
    console.browser.devtools("Network.enable")
    console.browser.devtools("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=1 << 20)
    client = s3.client(console.daemon.url)
    try:
        console.upload(tmp_path / "slow.bin")
        server.wait_until(lambda: client.list_multipart_uploads(Bucket="bucket-one").get("Uploads"), "an upload is under way")
        console.browser.click("#upload-list button")
        console.browser.wait_for_text("#upload-list", "cancelled")
    finally:
        console.browser.devtools("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    server.wait_until(lambda: not client.list_multipart_uploads(Bucket="bucket-one").get("Uploads"), "nothing of it is left")
    assert not (tree / "bucket-one" / "slow.bin").exists()


def test_an_upload_that_is_refused_says_why(chromium, daemon, tree, tmp_path):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--admin", "127.0.0.1:0", "--read-only", beside=False)
    page = Console(chromium, one, f"http://nas.test:{one.admin.rsplit(':', 1)[1]}").enter()
    (tmp_path / "a.txt").write_text("a")
    page.upload(tmp_path / "a.txt")
    chromium.wait("return document.querySelector('#upload-list li')?.dataset.outcome === 'failed'")
    words = chromium.text("#upload-list .trouble")
    assert "read-only" in words, words


# Looking.

def test_text_and_pictures_are_previewed_and_nothing_is_run(console):
    client = s3.client(console.daemon.url)
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    for key, body, kind in [("hello.txt", b"hello <b>you</b>\n" + b"x" * (100 << 10), "text/plain"), ("tree.png", png(), "image/png"), ("evil.svg", script, "image/svg+xml"),
                            ("evil.html", b"<script>alert(1)</script>", "text/html"), ("bytes", bytes(range(256)), "application/octet-stream"),
                            ("fake.png", script, "image/png"), ("empty", b"", "text/plain")]:
        client.put_object(Bucket="bucket-one", Key=key, Body=body, ContentType=kind)
    console.enter()
    preview = "#preview"
    console.look("hello.txt")
    assert console.browser.text(preview).startswith("hello <b>you</b>") and "The first 64 KiB." in console.browser.text(preview)
    console.close()
    console.look("tree.png")
    console.browser.wait("return document.querySelector('#preview img')?.naturalWidth === 64")
    console.close()
    for key, words in [("evil.svg", script.decode()), ("evil.html", "<script>alert(1)</script>"), ("bytes", "no preview of this kind"), ("fake.png", "no picture"), ("empty", "It is empty.")]:
        console.look(key)
        console.browser.wait_for_text(preview, words)
        assert console.browser.run("return document.querySelector('#preview script, #preview svg, #preview iframe')") is None
        console.close()


def test_properties_are_those_of_the_object(console):
    client = s3.client(console.daemon.url)
    put = client.put_object(Bucket="bucket-one", Key="a.txt", Body=b"hello", ContentType="text/x-own", Metadata={"colour": "green <b>"}, Tagging="kind=leaf",
                            CacheControl="no-cache", ChecksumAlgorithm="SHA256")
    console.enter().look("a.txt")
    shown = console.browser.text("#properties")
    for words in ["5 bytes (5 bytes)", "text/x-own", put["ETag"], "no-cache", "Metadata colour", "green <b>", "Tag kind", "leaf", "Checksum SHA256", put["ChecksumSHA256"], "Changed"]:
        assert words in shown, (words, shown)


def test_a_shared_link_opens_without_a_key_and_ends(console):
    client = s3.client(console.daemon.url)
    for key in ["a.txt", *HOSTILE]:
        client.put_object(Bucket="bucket-one", Key=key, Body=key.encode())
    console.enter()
    for key in ["a.txt", *HOSTILE]:
        console.look(key)
        console.browser.run("document.querySelector('#expiry').value = '3600'")
        console.browser.click("#share")
        link = console.browser.run("return document.querySelector('#link').value")
        assert link.startswith(console.s3 + "/bucket-one/") and "X-Amz-Expires=3600&" in link and server.SECRET_KEY not in link
        status, _, body = ask(link)
        assert (status, body) == (200, key.encode())
        assert ask(link.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200"))[0] == 403
        console.close()
    console.look("a.txt")
    console.browser.click("#share")
    console.browser.click("#copy")
    assert console.browser.text("#copy") in ("Copied", "Press Ctrl+C")
    console.close()


def test_a_download_is_saved_as_a_file_under_its_name(console):
    s3.client(console.daemon.url).put_object(Bucket="bucket-one", Key="a/naïve <page>.html", Body=b"<script>alert(1)</script>", ContentType="text/html")
    console.enter()
    console.row("a/", ".name")
    console.browser.wait_for_text("#folder-title", "a")
    console.wait_for_names("naïve <page>.html")
    console.look("a/naïve <page>.html")
    console.browser.click("#download")
    saved = server.wait_until(lambda: [path for path in console.browser.downloads.iterdir() if path.suffix == ".html"], "the file is saved")
    server.wait_until(lambda: saved[0].read_bytes() == b"<script>alert(1)</script>", "all of it is saved")
    assert saved[0].name.startswith("naïve ")
    assert console.browser.run("return location.href").startswith(console.base)
    saved[0].unlink()


def test_a_long_folder_comes_in_pages_and_all_of_it_can_be_deleted(console, tree):
    for number in range(450):
        (tree / "bucket-one" / f"{number:03}").write_text("x")
    console.enter()
    console.browser.wait("return document.querySelectorAll('#entries tr').length === 200")
    for count in (400, 450):
        console.browser.click("#more")
        console.browser.wait("return document.querySelectorAll('#entries tr').length === arguments[0]", count)
    assert console.names() == [f"{number:03}" for number in range(450)]
    assert not console.browser.shows("#more")
    console.browser.click("#all")
    assert console.browser.text("#delete") == "Delete selected (450)"
    console.browser.click("#delete")
    console.confirm()
    console.browser.wait_for_text("#status", "450 objects were deleted.")
    assert list((tree / "bucket-one").glob("[0-9]*")) == []
    assert console.browser.shows("#empty")


def test_going_back_and_forth_is_the_browsers(console, tree):
    (tree / "bucket-one" / "a" / "b").mkdir(parents=True)
    (tree / "bucket-one" / "a" / "b" / "c.txt").write_text("c")
    console.enter()
    for name in ("a", "b"):
        console.wait_for_names(f"{name}/")
        console.row("a/" if name == "a" else "a/b/", ".name")
        console.browser.wait_for_text("#folder-title", name)
    console.wait_for_names("c.txt")
    assert console.browser.text("#path").split() == ["Buckets", "bucket-one", "a", "b"]
    console.browser.run("history.back()")
    console.wait_for_names("b/")
    console.browser.click("#path li:nth-child(1) a")
    console.browser.wait_for_text("#bucket-list", "bucket-one")
    console.browser.type("#bucket-name", "bucket-two")
    console.browser.click("#new-bucket button")
    console.browser.wait_for_text("#bucket-list", "bucket-two")
    assert (tree / "bucket-two").is_dir()


def test_a_folder_that_is_slow_to_come_is_not_shown_in_another(console, tree):
    for name in ("slow/one", "fast/two"):
        (tree / "bucket-one" / name).parent.mkdir()
        (tree / "bucket-one" / name).write_text(name)
    console.enter()
    console.wait_for_names("fast/", "slow/")
    console.browser.run("""const real = fetch;
        window.fetch = async (url, ...rest) => {
          if (String(url).includes('prefix=slow')) await new Promise((resolve) => { window.release = resolve; });
          return real(url, ...rest);
        };
        window.seen = [];
        new MutationObserver(() => window.seen.push(...[...document.querySelectorAll('#entries tr')].map((row) => row.dataset.key))).observe(document.querySelector('#entries'), { childList: true })""")
    console.row("slow/", ".name")
    console.browser.wait("return window.release !== undefined")
    console.browser.run("location.hash = '#/bucket-one/fast%2F'")
    console.wait_for_names("two")
    console.browser.run("window.release(); await fetch('config.json'); window.seen.push('now')")
    console.browser.click("#refresh")
    console.browser.wait("return window.seen.lastIndexOf('fast/two') > window.seen.indexOf('now')")
    assert console.names() == ["two"] and "slow/one" not in console.browser.run("return window.seen")


# Deleting.

def test_what_is_deleted_is_asked_about_first(console, tree):
    for name in ("a", "b", "c", "folder/d", "folder/inner/e"):
        (tree / "bucket-one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "bucket-one" / name).write_text(name)
    console.enter()
    console.wait_for_names("a", "b", "c", "folder/")
    assert console.browser.run("return document.querySelector('#delete').disabled")
    console.row("a", "input")
    console.row("folder/", "input")
    console.browser.click("#delete")
    console.confirm("no")
    assert console.names() == ["folder/", "a", "b", "c"] and (tree / "bucket-one" / "folder" / "inner" / "e").exists()
    console.browser.click("#delete")
    assert "folders with everything in them" in console.browser.text("#confirm-text")
    console.confirm()
    console.browser.wait_for_text("#status", "3 objects were deleted.")
    console.wait_for_names("b", "c")
    assert [path for path in (tree / "bucket-one").rglob("*") if path.is_file() and ".twintree" not in path.parts] == [tree / "bucket-one" / name for name in "bc"]
    console.look("b")
    console.browser.click("#remove")
    console.confirm()
    console.wait_for_names("c")
    assert not (tree / "bucket-one" / "b").exists() and not console.browser.shows("#object")


def test_names_that_are_made_to_hurt_are_names(console):
    client = s3.client(console.daemon.url)
    for key in HOSTILE:
        client.put_object(Bucket="bucket-one", Key=key, Body=key.encode())
        client.put_object(Bucket="bucket-one", Key=f"in/{key}/x", Body=b"x")
    client.put_object(Bucket="bucket-one", Key="in/<script>alert(1)</script>/x", Body=b"x")
    console.enter()
    signs = str.maketrans({"\n": "␊", "\r": "␍", "\t": "␉", "‮": "[U+202E]"})
    console.wait_for_names("in/", *(key.translate(signs) for key in HOSTILE))
    assert console.browser.run("return document.querySelector('#entries script, #entries img, #entries b')") is None
    for key in HOSTILE:
        console.look(key)
        assert console.browser.run("return document.querySelector('#object-title').textContent") == key.translate(signs)
        console.browser.wait("return document.querySelector('#preview pre')?.textContent === arguments[0]", key)
        console.close()
    for key in [*HOSTILE, "<script>alert(1)<"]:
        console.browser.run("location.hash = '#/bucket-one/' + encodeURIComponent(arguments[0])", f"in/{key}/")
        console.browser.wait("return document.querySelector('#folder-title').textContent === arguments[0]", key.translate(signs))
        console.wait_for_names("x" if key in HOSTILE else "script>/")
    console.browser.run("location.hash = '#/bucket-one/'")
    console.wait_for_names("in/", *(key.translate(signs) for key in HOSTILE))
    console.browser.click("#all")
    console.browser.click("#delete")
    console.confirm()
    console.browser.wait_for_text("#status", f"{2 * len(HOSTILE) + 1} objects were deleted.")
    assert client.list_objects_v2(Bucket="bucket-one").get("Contents", []) == []


# For everybody.

def test_everything_can_be_done_with_the_keyboard_alone(console, tree):
    chromium = console.browser
    for name in ("a.txt", "b.txt"):
        (tree / "bucket-one" / name).write_text(name)

    def focused():
        return chromium.run("const it = document.activeElement; return it.id || it.textContent || it.getAttribute('aria-label')")

    def tab_to(wanted):
        """Tabs until the focus is there; it shows itself wherever it comes by."""
        for _ in range(40):
            chromium.press("tab")
            if focused() == wanted:
                outline = chromium.run("return getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", wanted
                return
        raise AssertionError(f"no way to {wanted}")

    tab_to("access")
    chromium.press(*server.ACCESS_KEY)
    tab_to("secret")
    chromium.press(*server.SECRET_KEY)
    chromium.press("enter")
    chromium.wait("return document.activeElement.id === 'buckets-title'")
    tab_to("bucket-one")
    chromium.press("enter")
    chromium.wait("return document.activeElement.id === 'folder-title'")
    tab_to("b.txt")
    chromium.press("enter")
    chromium.wait("return document.querySelector('#object').open && document.querySelector('#preview pre') !== null")
    tab_to("share")
    chromium.press("enter")
    chromium.wait("return document.activeElement.id === 'link' && document.activeElement.value !== ''")
    chromium.press("escape")
    chromium.wait("return !document.querySelector('#object').open")
    assert focused() == "b.txt", "the focus returns to what opened the dialog"
    chromium.run("document.querySelector('#folder-title').focus()")
    for _ in range(40):
        chromium.press("tab")
        if chromium.run("return document.activeElement.getAttribute('aria-label')") == "Select a.txt":
            break
    chromium.press("space")
    chromium.run("document.querySelector('#folder-title').focus()")
    tab_to("delete")
    chromium.press("enter")
    chromium.wait("return document.activeElement.id === 'confirm-no'")
    chromium.press("tab", "enter")
    console.wait_for_names("b.txt")
    assert not (tree / "bucket-one" / "a.txt").exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(console, tree, tmp_path, scheme):
    chromium = console.browser
    chromium.prefers(scheme)
    found = {}

    def judge(where):
        violations, passes = chromium.axe()
        assert passes > 10, f"axe looked at nothing: {where}"
        if violations:
            found[where] = violations
        picture(chromium, where, scheme)

    judge("sign-in")
    console.sign_in("NOBODY")
    chromium.wait_for_text("#signin-trouble", "no such access key")
    judge("refused")
    fill(s3.client(console.daemon.url))
    chromium.open(console.base + PLACE)
    console.sign_in()
    chromium.wait_for_text("#bucket-list", "bucket-one")
    chromium.wait_for_text("#state-list", "ready")
    judge("buckets")
    chromium.run("location.hash = '#/bucket-one/'")
    chromium.wait("return document.querySelectorAll('#entries tr').length > 3")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "readme.md").write_text("again")
    console.upload(tmp_path / "notes.txt", tmp_path / "readme.md")
    chromium.wait_for_text("#upload-list", "is there already")
    chromium.wait_for_text("#entries", "notes.txt")
    console.row("readme.md", "input")
    judge("folder")
    console.look("forest.png")
    chromium.click("#share")
    chromium.run("document.querySelector('#object').scrollTop = 0")
    judge("object")
    console.close()
    console.look("readme.md")
    judge("text")
    console.close()
    chromium.click("#delete")
    chromium.wait("return document.querySelector('#confirm').open")
    judge("confirm")
    chromium.click("#confirm-no")
    chromium.look()
    chromium.said[:] = [line for line in chromium.said if "status of 403" not in line]
    assert not found, json.dumps(found, indent=1)


def fill(client):
    """Objects of the kinds that people have."""
    client.put_object(Bucket="bucket-one", Key="2025/summer/beach.jpg", Body=b"x")
    client.put_object(Bucket="bucket-one", Key="letters/to-the-bank.pdf", Body=b"x" * 40000, ContentType="application/pdf")
    client.put_object(Bucket="bucket-one", Key="readme.md", Body=b"# Pictures\n\nTaken with the old camera.\n", ContentType="text/markdown", Metadata={"author": "kim"})
    client.put_object(Bucket="bucket-one", Key="forest.png", Body=png(320, 160), ContentType="image/png", Metadata={"camera": "old"}, Tagging="place=forest")
    client.put_object(Bucket="bucket-one", Key="walk.mp4", Body=b"\0" * 3000000, ContentType="video/mp4")


def picture(chromium, where, scheme):
    """Makes a picture of docs/console.md anew, where that is wanted."""
    folder = os.environ.get("TWINTREE_PICTURES")
    if folder and (where, scheme) in [("folder", "light"), ("object", "dark")]:
        chromium.screenshot(pathlib.Path(folder) / f"console-{where}.png")


def test_it_fits_a_telephone(console):
    chromium = console.browser
    fill(s3.client(console.daemon.url))
    s3.client(console.daemon.url).put_object(Bucket="bucket-one", Key="a" * 200, Body=b"x")
    chromium.devtools("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=False)
    try:
        console.enter()
        chromium.wait("return document.querySelectorAll('#entries tr').length > 3")
        console.look("a" * 200)
        widths = chromium.run("""return [document.documentElement, document.querySelector('#object')].map((box) => box.scrollWidth - box.clientWidth)""")
        assert widths == [0, 0]
        console.close()
    finally:
        chromium.devtools("Emulation.clearDeviceMetricsOverride")


def test_the_state_of_mount_and_sealing_is_shown(chromium, daemon, tree, tmp_path):
    (tree / "bucket-one").mkdir()
    (tree / "bucket-one" / "direct").write_text("direct")
    (tmp_path / "mount").mkdir()
    one = daemon(tree, "--admin", "127.0.0.1:0", "--mount", tmp_path / "mount", "--mount-mode", "plain", "--seal", "all", "--seal-after", "0s", beside=False)
    page = Console(chromium, one, f"http://nas.test:{one.admin.rsplit(':', 1)[1]}")
    server.wait_until(lambda: admin.Metrics(one)("twintree_seal_files_total", outcome="sealed") == 1, "the file is sealed")
    page.sign_in()
    chromium.wait_for_text("#state-list", f"stands on {tmp_path / 'mount'} (plain), 0 files open")
    shown = chromium.text("#state-list")
    assert "of all files" in shown and "Sealed since the start\n1 file" in shown and "ready" in shown, shown
    mountpoint.unmount(tmp_path / "mount")
    state = server.wait_until(lambda: json.loads(admin.page(one, PLACE + "state.json").text)["troubles"], "it is noticed")
    assert "is gone" in state[0]


# Who may what.

def test_the_page_may_do_what_it_needs_and_no_more(console):
    status, headers, body = ask(console.base + PLACE)
    assert status == 200 and b"<title>twintree</title>" in body
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        f"connect-src 'self' {console.s3}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    for name, value in [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("x-frame-options", "DENY"), ("cache-control", "no-store")]:
        assert headers[name] == value
    evil = console.browser.run("""const script = document.createElement('script');
        script.textContent = 'window.ran = 1'; document.body.append(script);
        const elsewhere = await fetch('http://elsewhere.test:1/').then(() => 'answered', () => 'refused');
        return [window.ran ?? 'not run', elsewhere]""")
    assert evil == ["not run", "refused"]
    console.browser.look()
    assert len([line for line in console.browser.said if "Content Security Policy" in line]) >= 2
    console.browser.said.clear()
    console.browser.run("performance.clearResourceTimings()")


def test_the_consoles_origin_alone_may_read_what_s3_answers(console):
    def granted(origin, method="GET", **headers):
        _, got, _ = ask(console.s3 + "/bucket-one/x", method, {"origin": origin, **headers})
        assert "access-control-allow-credentials" not in got
        return got["access-control-allow-origin"]
    port = console.daemon.port
    for origin in ["http://elsewhere.test", f"http://elsewhere.test:{console.base.rsplit(':', 1)[1]}", f"http://nas.test:{port}", "http://nas.test", "null",
                   console.base.replace("http:", "https:"), console.base + "0", console.base + ".elsewhere.test", console.base.replace("nas.test", "x.nas.test"), "*"]:
        assert granted(origin) is None, origin
        asked = {"Access-Control-Request-Method": "PUT"}
        assert granted(origin, "OPTIONS", **asked) is None, origin
        assert ask(console.s3 + "/bucket-one/x", "OPTIONS", {"origin": origin, **asked})[0] == 403
    # Refusals too: the page says why.
    assert granted(console.base) == console.base
    asked = {"origin": console.base, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,x-amz-date"}
    status, got, _ = ask(console.s3 + "/bucket-one/x", "OPTIONS", asked)
    assert status == 200 and got["access-control-allow-headers"] == "authorization,x-amz-date" and got["vary"].startswith("Origin")
    assert ask(console.s3 + "/bucket-one/x", "OPTIONS", {**asked, "Access-Control-Request-Headers": "cookie"})[0] == 403
    # On a bucket's own host, it is the bucket's.
    assert ask(console.s3.replace("nas.test", "bucket-one.s3.test") + PLACE)[0] in (403, 404)


def test_it_is_nowhere_near_the_objects_unless_it_is_asked_for(daemon, tree):
    (tree / "bucket-one").mkdir()
    for flags in [(), ("--console", "off", "--admin", "127.0.0.1:0"), ("--admin", "127.0.0.1:0")]:
        one = daemon(tree, *flags, beside=False)
        status, headers, body = ask(f"http://nas.test:{one.port}{PLACE}")
        assert status in (400, 403) and headers["content-type"] == "application/xml" and b"<title>" not in body
        _, headers, _ = ask(f"http://nas.test:{one.port}/", headers={"origin": f"http://nas.test:{one.port}"})
        assert headers["access-control-allow-origin"] is None
        if one.admin:
            assert admin.page(one, PLACE).status == (404 if "off" in flags else 200)


def whole_flow(page, tree, tmp_path, random):
    """Signs in, uploads 20 MiB, looks, shares, deletes."""
    body = random.bytes(20 << 20)
    (tmp_path / "large.bin").write_bytes(body)
    (tmp_path / "tree.png").write_bytes(png())
    page.enter().upload(tmp_path / "large.bin", tmp_path / "tree.png")
    page.wait_for_names("large.bin", "tree.png")
    assert digest(tree / "bucket-one" / "large.bin") == hashlib.sha256(body).hexdigest()
    page.look("tree.png")
    page.browser.wait("return document.querySelector('#preview img')?.naturalWidth === 64")
    page.browser.click("#share")
    link = page.browser.run("return document.querySelector('#link').value")
    assert ask(link)[::2] == (200, png())
    page.browser.click("#remove")
    page.confirm()
    page.wait_for_names("large.bin")
    assert not (tree / "bucket-one" / "tree.png").exists()
    page.browser.wait_for_text("#state-list", "ready")


def test_over_tls_all_of_it_works_as_well(chromium, daemon, tree, tmp_path, authority, random):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--admin", "127.0.0.1:0", "--admin-tls", "--tls-cert", authority.certificate, "--tls-key", authority.key, beside=False)
    assert one.admin.startswith("https://")
    page = Console(chromium, one, f"https://nas.test:{one.admin.rsplit(':', 1)[1]}")
    assert chromium.run("return isSecureContext")
    whole_flow(page, tree, tmp_path, random)
    page.is_clean()


def test_beside_the_objects_it_works_as_well_and_they_are_confined(chromium, daemon, tree, tmp_path, random):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--console", "s3", beside=False)
    page = Console(chromium, one, f"http://nas.test:{one.port}")
    whole_flow(page, tree, tmp_path, random)
    # Its state is for those who have a key.
    assert ask(page.base + PLACE + "state.json")[0] == 403
    _, headers, _ = ask(page.base + "/", headers={"origin": page.base})
    assert headers["access-control-allow-origin"] is None
    # An object's page has no script, and no part in the console's origin.
    client = s3.client(one.url)
    client.put_object(Bucket="bucket-one", Key="evil.html", Body=b"<title>before</title><script>document.title = 'ran'</script>", ContentType="text/html")
    page.browser.click("#refresh")
    page.wait_for_names("large.bin", "evil.html")
    page.look("evil.html")
    page.browser.click("#share")
    link = page.browser.run("return document.querySelector('#link').value")
    page.is_clean()
    assert ask(link)[1]["content-security-policy"] == "sandbox"
    chromium.open(link)
    assert chromium.run("return [document.title, origin]") == ["before", "null"]


def test_a_connection_that_the_express_way_answers_is_granted_as_well(console):
    """Browsers name the origin of what they ask for; that head takes the whole way, where it is judged."""
    s3.client(console.daemon.url).put_object(Bucket="bucket-one", Key="a", Body=b"a")
    console.enter()
    got = console.browser.run("""const { S3 } = await import('./s3.js');
        const asked = new S3(arguments[0], 'us-east-1', { access: arguments[1], secret: arguments[2] });
        const texts = [];
        for (let i = 0; i < 10; i++) texts.push(await (await asked.ask('GET', { bucket: 'bucket-one', key: 'a' })).text());
        return texts""", console.s3, server.ACCESS_KEY, server.SECRET_KEY)
    assert got == ["a"] * 10


def test_dots_between_slashes_are_told_of_and_can_be_deleted(console):
    client = s3.client(console.daemon.url)
    client.put_object(Bucket="bucket-one", Key="a/../b", Body=b"x")
    console.enter()
    console.browser.run("location.hash = '#/bucket-one/' + encodeURIComponent('a/../')")
    console.wait_for_names("b")
    console.row("a/../b", ".name")
    console.browser.wait_for_text("#object-trouble", "Browsers cannot ask for a name")
    console.browser.click("#remove")
    console.confirm()
    console.browser.wait_for_text("#status", "1 object was deleted.")
    assert client.list_objects_v2(Bucket="bucket-one").get("KeyCount") == 0
