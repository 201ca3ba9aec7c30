"""Clients that we did not write, each doing its daily work: whatever they send is stored right and comes back right."""

import os
import re
import shutil
import socket
import subprocess
import threading

import pytest
from lib import data, environment, s3, server, tools


@pytest.fixture
def run(tmp_path):
    """Runs a command with the key in every client's way of naming it; gives its output, fails when it fails."""
    home = tmp_path / "home"
    home.mkdir()

    def run(*words, fails=False, **more):
        if words[0] == "curl":
            tools.need("curl")
        variables = dict(environment.variables(), HOME=str(home), AWS_ACCESS_KEY_ID=server.ACCESS_KEY,
                         AWS_SECRET_ACCESS_KEY=server.SECRET_KEY, AWS_DEFAULT_REGION="us-east-1",
                         AWS_EC2_METADATA_DISABLED="true", TWINTREE_ACCESS_KEY=server.ACCESS_KEY,
                         TWINTREE_SECRET_KEY=server.SECRET_KEY, **more)
        done = subprocess.run([str(word) for word in words], env=variables, capture_output=True, text=True, timeout=120, cwd=home)
        assert (done.returncode != 0) == fails, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


@pytest.fixture
def files(tmp_path, random):
    """A small tree with awkward names and one file over every client's multipart threshold: {name: body}."""
    folder = tmp_path / "files"
    bodies = {"a.txt": random.bytes(10), "dir/b c+d.bin": random.bytes(70_000), "dir/deep/ü 한글.txt": random.bytes(1),
              "empty": b"", "large.bin": random.bytes(17 * data.MIB)}
    for name, body in bodies.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder, bodies


def contents(folder):
    """Every file under a folder that is not ours: {name: body}."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and ".twintree" not in path.parts}


# aws-cli

@pytest.fixture(params=["http", "https"])
def aws(request, run, daemon, tree, authority):
    """aws-cli on a fresh daemon, over either protocol."""
    tls = ["--tls-cert", authority.certificate, "--tls-key", authority.key] if request.param == "https" else []
    one = daemon(tree, *tls)
    trust = {"AWS_CA_BUNDLE": authority.ca} if tls else {}

    def aws(*words, **options):
        return run(environment.python().parent / "aws", "--endpoint-url", one.url, *words, **trust, **options)

    return aws


def test_aws_cli_mb_cp_ls_sync_rm_presign(aws, run, tree, files, tmp_path, authority):
    folder, bodies = files
    aws("s3", "mb", "s3://cli-bucket")
    aws("s3", "cp", folder / "a.txt", "s3://cli-bucket/a.txt")
    assert (tree / "cli-bucket" / "a.txt").read_bytes() == bodies["a.txt"]
    assert "a.txt" in aws("s3", "ls", "s3://cli-bucket/")
    aws("s3", "sync", folder, "s3://cli-bucket/all", "--no-progress")
    assert contents(tree / "cli-bucket" / "all") == bodies
    assert aws("s3", "sync", folder, "s3://cli-bucket/all", "--no-progress").strip() == "", "a second sync has nothing to do"
    listing = aws("s3", "ls", "--recursive", "s3://cli-bucket/all/")
    assert len(listing.strip().splitlines()) == len(bodies)
    aws("s3", "sync", "s3://cli-bucket/all", tmp_path / "back", "--no-progress")
    assert contents(tmp_path / "back") == bodies
    url = aws("s3", "presign", "s3://cli-bucket/a.txt").strip()
    run("curl", "-sSf", "--cacert", authority.ca, "-o", tmp_path / "by-url", url)
    assert (tmp_path / "by-url").read_bytes() == bodies["a.txt"]
    aws("s3", "cp", "s3://cli-bucket/all/large.bin", "s3://cli-bucket/copied.bin", "--no-progress")
    assert (tree / "cli-bucket" / "copied.bin").read_bytes() == bodies["large.bin"]
    aws("s3", "mv", "s3://cli-bucket/copied.bin", "s3://cli-bucket/moved.bin", "--no-progress")
    assert not (tree / "cli-bucket" / "copied.bin").exists()
    assert "BucketNotEmpty" in aws("s3", "rb", "s3://cli-bucket", fails=True)
    aws("s3", "rm", "--recursive", "s3://cli-bucket")
    assert contents(tree / "cli-bucket") == {}
    aws("s3", "rb", "s3://cli-bucket")
    assert not (tree / "cli-bucket").exists()


def test_aws_cli_sync_delete_follows_a_direct_change(aws, tree, files, tmp_path):
    folder, bodies = files
    shutil.copytree(folder, tree / "direct")
    back = tmp_path / "back"
    aws("s3", "sync", "s3://direct", back, "--no-progress")
    assert contents(back) == bodies
    (tree / "direct" / "a.txt").unlink()
    (tree / "direct" / "new.txt").write_bytes(b"made beside the gateway")
    aws("s3", "sync", "--delete", "s3://direct", back, "--no-progress")
    assert "a.txt" not in contents(back)
    assert contents(back)["new.txt"] == b"made beside the gateway"


# rclone

@pytest.fixture
def rclone(run, served, tmp_path):
    """rclone with one remote, `tt`."""
    conf = tmp_path / "rclone.conf"
    conf.write_text(f"[tt]\ntype = s3\nprovider = Other\naccess_key_id = {server.ACCESS_KEY}\n"
                    f"secret_access_key = {server.SECRET_KEY}\nendpoint = {served.url}\nregion = us-east-1\n")
    return lambda *words, **options: run(environment.python().parent / "rclone", "--config", conf, "--retries", "1",
                                         "--s3-upload-cutoff", "8M", "--s3-chunk-size", "5M", *words, **options)


def test_rclone_copy_check_sync(rclone, tree, files, tmp_path):
    folder, bodies = files
    rclone("mkdir", "tt:rclone-bucket")
    rclone("copy", folder, "tt:rclone-bucket/all")
    assert contents(tree / "rclone-bucket" / "all") == bodies
    rclone("check", folder, "tt:rclone-bucket/all")
    (tree / "rclone-bucket" / "all" / "a.txt").write_bytes(b"0123456789")  # same size, other bytes
    assert "differ" in rclone("check", "--download", folder, "tt:rclone-bucket/all", fails=True)
    (folder / "a.txt").unlink()
    rclone("sync", folder, "tt:rclone-bucket/all")
    assert sorted(contents(tree / "rclone-bucket" / "all")) == sorted(set(bodies) - {"a.txt"})
    rclone("sync", "tt:rclone-bucket/all", tmp_path / "back")
    assert contents(tmp_path / "back") == {name: body for name, body in bodies.items() if name != "a.txt"}
    rclone("purge", "tt:rclone-bucket")
    assert not (tree / "rclone-bucket").exists()


def test_rclone_keeps_modification_times(rclone, tree, tmp_path):
    source = tmp_path / "one" / "file"
    source.parent.mkdir()
    source.write_bytes(b"x")
    os.utime(source, (1_000_000_000, 1_000_000_000))
    rclone("copy", source.parent, "tt:times")
    assert "2001-09-09" in rclone("lsl", "tt:times")


# minio-go and the AWS SDK for Go

@pytest.fixture
def go_client(run):
    """The program of tests/clients/go."""
    if not environment.clients().exists():
        pytest.skip("needs .tools/bin/clients, which tests/run --setup builds where there is go")
    return lambda *words, **options: run(environment.clients(), *words, **options)


@pytest.mark.parametrize("trailer", [[], ["trailer"]], ids=["signed", "signed-trailer"])
@pytest.mark.parametrize("size", [1, 70_000, 12 * data.MIB])
def test_minio_go_signs_every_chunk(go_client, served, tree, tmp_path, random, size, trailer):
    body = random.bytes(size)
    (tmp_path / "body").write_bytes(body)
    output = go_client("minio", served.url, "from-minio", "dir/key name", tmp_path / "body", *trailer)
    assert (tree / "from-minio" / "dir" / "key name").read_bytes() == body
    assert f"listed dir/key name {size}" in output
    head = s3.client(served.url).head_object(Bucket="from-minio", Key="dir/key name")
    assert head["ContentType"] == "text/x-go"
    assert {name.lower(): value for name, value in head["Metadata"].items()} == {"colour": "green"}
    assert "aws-chunked" not in head.get("ContentEncoding", "")


@pytest.mark.parametrize("size", [0, 70_000, 3 * data.MIB])
def test_aws_sdk_for_go_sends_trailers_over_tls(go_client, secure, tree, tmp_path, random, authority, size):
    body = random.bytes(size)
    (tmp_path / "body").write_bytes(body)
    output = go_client("aws", secure.url, "from-go", "dir/key", tmp_path / "body", CA_FILE=authority.ca)
    assert (tree / "from-go" / "dir" / "key").read_bytes() == body
    assert re.search(rf'etag "{data.md5(body)}"', output)


# curl, HTTP/2, and a proxy in front

def test_curl_over_http2(run, secure, tree, authority, tmp_path, random):
    client = s3.client(secure.url, verify=authority.ca)
    client.create_bucket(Bucket="bucket-one")
    body = random.bytes(3 * data.MIB + 1)
    (tmp_path / "body").write_bytes(body)
    curl = ["curl", "-sS", "--http2", "--cacert", authority.ca, "-w", "%{http_version} %{http_code}\n", "-o", tmp_path / "out"]
    put = client.generate_presigned_url("put_object", Params={"Bucket": "bucket-one", "Key": "h2"})
    assert run(*curl, "-T", tmp_path / "body", put).startswith("2 200")
    assert (tree / "bucket-one" / "h2").read_bytes() == body
    get = client.generate_presigned_url("get_object", Params={"Bucket": "bucket-one", "Key": "h2"})
    assert run(*curl, get).startswith("2 200")
    assert (tmp_path / "out").read_bytes() == body
    assert run(*curl, "-r", "1000000-1999999", get).startswith("2 206")
    assert (tmp_path / "out").read_bytes() == body[1_000_000:2_000_000]


def test_curl_signs_for_itself(run, served, tree, tmp_path, random, client, bucket):
    body = random.bytes(50_000)
    (tmp_path / "body").write_bytes(body)
    url = f"{served.url}/{bucket}/by-curl"
    curl = ["curl", "-sS", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{server.ACCESS_KEY}:{server.SECRET_KEY}"]
    run(*curl, "-f", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-T", tmp_path / "body", url)
    assert (tree / bucket / "by-curl").read_bytes() == body


def test_behind_nginx_the_signature_is_over_the_host_that_the_client_saw(served, tree, tmp_path, random):
    tools.need("nginx")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    conf = tmp_path / "nginx.conf"
    # As root, nginx's worker would be another user, who may not write what a slow client leaves over below this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(f"""daemon off; {user} pid {tmp_path}/pid; error_log stderr; worker_processes 1;
        events {{}}
        http {{ access_log off; client_max_body_size 0; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;
        fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;
        server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {served.url}; proxy_http_version 1.1;
        proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For 203.0.113.9; proxy_request_buffering off; }} }} }}""")
    nginx = subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", str(conf)], stderr=subprocess.PIPE)
    try:
        server.wait_until(lambda: _listens(port), "nginx listens")
        client = s3.client(f"http://127.0.0.1:{port}")
        client.create_bucket(Bucket="proxied")
        body = random.bytes(9 * data.MIB)
        client.put_object(Bucket="proxied", Key="a/b c", Body=body)
        assert (tree / "proxied" / "a" / "b c").read_bytes() == body
        assert s3.body(client, "proxied", "a/b c") == body
        assert list(s3.listed(client, "proxied")) == ["a/b c"]
    finally:
        nginx.terminate()
        nginx.wait(20)


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_many_clients_at_once_write_and_read_their_own(served, client, bucket, random):
    bodies = {f"t/{number}": random.bytes(1000 + number * 7919) for number in range(24)}
    wrong = []

    def work(key, body):
        one = s3.client(served.url)
        for _ in range(3):
            one.put_object(Bucket=bucket, Key=key, Body=body)
            if s3.body(one, bucket, key) != body:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=item) for item in bodies.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert set(s3.listed(client, bucket)) == set(bodies)
    assert {key: entry["ETag"].strip('"') for key, entry in s3.listed(client, bucket).items()} == {
        key: data.md5(body) for key, body in bodies.items()}
