"""Clients at work while the power will be cut: threads with boto3 that put, overwrite, copy, delete and upload in
parts, and say before and after each request what they were promised (`promises.py`)."""

import concurrent.futures
import os

from . import data, s3

SHARED = [f"shared/{number}" for number in range(6)]
LARGE = 5 * data.MIB
"""The least size of a part that is not the last."""


class Client:
    """One of them: its own keys, uploads in progress, and draws."""

    def __init__(self, name, seed, promises, bucket, top):
        self.name, self.promises, self.bucket = name, promises, bucket
        self.source = data.Source(f"power cut {seed} {name}")
        self.random = self.source.draw()
        self.neighbour = top / f"neighbour-of-{name}"
        self.mine, self.uploads, self.count, self.s3 = {}, [], 0, None
        self.large = True

    def work(self, url, turns):
        """Does `turns` things, one after the other."""
        self.s3 = s3.client(url)
        deeds = [(self.put_new, 22), (self.put_shared, 18), (self.put_again, 8), (self.put_odd, 8), (self.delete, 8), (self.delete_shared, 6),
                 (self.delete_many, 2), (self.copy, 8), (self.change, 4), (self.part, 16), (self.end_upload, 6), (self.sync_beside, 6)]
        for deed in self.random.choices([deed for deed, _ in deeds], [weight for _, weight in deeds], k=turns):
            deed()
        self.s3.close()

    def body(self):
        """Often small, at times up to 250 KB, now and then nothing."""
        longest = self.random.choice([0, 100, 5_000, 5_000, 70_000, 250_000])
        body = self.source.bytes(self.random.randint(0, longest))
        self.promises.bodies[data.md5(body)] = body
        return body

    def fresh(self):
        """A key that was never used, half of them in folders that are not there yet."""
        self.count += 1
        folder = self.random.choice(["", "", f"{self.name}/", f"{self.name}/new-{self.count}/", f"deep/{self.count % 5}/{self.name}/{self.count}/"])
        return f"{folder}{self.name}-{self.count}"

    def put(self, key, body=None):
        """A PUT of a key."""
        body = self.body() if body is None else body
        number = self.promises.begin(("key", self.bucket, key), data.md5(body))
        answer = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        assert answer["ETag"].strip('"') == data.md5(body)
        self.promises.ack(number)
        return data.md5(body)

    def put_mine(self, key, body=None):
        """A PUT of a key that no other client touches."""
        self.mine.pop(key, None)
        self.mine[key] = self.put(key, body)

    def put_new(self):
        self.put_mine(self.fresh())

    def put_shared(self):
        self.put(self.random.choice(SHARED))

    def put_again(self):
        self.put_mine(self.random.choice([*self.mine, self.fresh()]))

    def put_odd(self):
        """Keys that no path can hold, and folders that are objects."""
        self.count += 1
        under, odd = f"{self.name}/odd-{self.count}", self.random.randrange(5)
        if odd == 0:
            self.put_mine(under)
            self.put_mine(f"{under}/below")
        elif odd == 1:
            self.put_mine(f"{self.name}//{self.count}")
        elif odd == 2:
            self.put_mine(f"{under}-{'long' * 70}")
        elif odd == 3:
            body = self.source.bytes(self.random.randint(1, 3000))
            self.promises.bodies[data.md5(body)] = body
            self.put_mine(f"{under}/", body)
        else:
            self.promises.bodies[data.md5(b"")] = b""
            self.put_mine(f"{under}/", b"")

    def delete_key(self, key):
        number = self.promises.begin(("key", self.bucket, key), None)
        self.s3.delete_object(Bucket=self.bucket, Key=key)
        self.promises.ack(number)

    def delete(self):
        if self.mine:
            key = self.random.choice(list(self.mine))
            del self.mine[key]
            self.delete_key(key)

    def delete_shared(self):
        self.delete_key(self.random.choice(SHARED))

    def delete_many(self):
        keys = self.random.sample(list(self.mine), min(3, len(self.mine)))
        if keys:
            numbers = [self.promises.begin(("key", self.bucket, key), None) for key in keys]
            answer = self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in keys]})
            assert not answer.get("Errors"), answer["Errors"]
            for number, key in zip(numbers, keys):
                self.promises.ack(number)
                del self.mine[key]

    def copy(self):
        if self.mine:
            source, target = self.random.choice(list(self.mine)), self.random.choice([self.fresh(), self.random.choice(SHARED)])
            number = self.promises.begin(("key", self.bucket, target), self.mine[source])
            self.s3.copy_object(Bucket=self.bucket, Key=target, CopySource={"Bucket": self.bucket, "Key": source})
            self.promises.ack(number)

    def change(self):
        """What is said of an object changes, its content stays."""
        if not self.mine:
            return
        key = self.random.choice(list(self.mine))
        if self.random.random() < 0.5:
            self.s3.put_object_tagging(Bucket=self.bucket, Key=key, Tagging={"TagSet": [{"Key": "turn", "Value": str(self.count)}]})
        else:
            self.s3.copy_object(Bucket=self.bucket, Key=key, CopySource={"Bucket": self.bucket, "Key": key},
                                MetadataDirective="REPLACE", Metadata={"turn": str(self.count)})

    def part(self):
        """Another part, of an upload of its own kind: one that begins large, or one of small parts."""
        if not self.uploads or self.random.random() < 0.3:
            key = f"{self.fresh()}-upload"
            upload = self.s3.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
            self.promises.ack(self.promises.begin(("upload", self.bucket, upload), key))
            self.uploads.append({"id": upload, "key": key, "large": self.large, "parts": {}})
            self.large = False
        chosen = self.random.choice(self.uploads)
        part = 2 if chosen["large"] and 1 in chosen["parts"] else 1 if chosen["large"] else self.random.randint(1, 4)
        body = self.source.bytes(LARGE) if chosen["large"] and part == 1 else self.source.bytes(self.random.randint(1, 250_000))
        self.promises.bodies[data.md5(body)] = body
        number = self.promises.begin(("part", self.bucket, chosen["id"], part), data.md5(body))
        self.s3.upload_part(Bucket=self.bucket, Key=chosen["key"], UploadId=chosen["id"], PartNumber=part, Body=body)
        self.promises.ack(number)
        chosen["parts"][part] = body

    def end_upload(self):
        """Completes an upload, or aborts it."""
        if not self.uploads:
            return
        chosen = self.uploads.pop(self.random.randrange(len(self.uploads)))
        named = {"Bucket": self.bucket, "Key": chosen["key"], "UploadId": chosen["id"]}
        ended = self.promises.begin(("upload", self.bucket, chosen["id"]), None)
        if not chosen["parts"] or self.random.random() < 0.2:
            self.s3.abort_multipart_upload(**named)
        else:
            parts = whole_list({part: len(body) for part, body in chosen["parts"].items()})
            etag = remember(self.promises, [chosen["parts"][part] for part in parts])
            number = self.promises.begin(("key", self.bucket, chosen["key"]), etag)
            listed = [{"PartNumber": part, "ETag": data.md5(chosen["parts"][part])} for part in parts]
            answer = self.s3.complete_multipart_upload(**named, MultipartUpload={"Parts": listed})
            assert answer["ETag"].strip('"') == etag
            self.promises.ack(number)
        self.promises.ack(ended)

    def sync_beside(self):
        """Another program on the same disk, which syncs a file of its own: it pushes some of ours along."""
        with open(self.neighbour, "ab") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())


def whole_list(sizes):
    """The part numbers that a Complete may list: all of them, or the last where one before it is small."""
    numbers = sorted(sizes)
    return numbers if all(sizes[number] >= LARGE for number in numbers[:-1]) else numbers[-1:]


def remember(promises, bodies):
    """Keeps the body that parts make; its ETag."""
    etag = data.multipart_etag(bodies)
    promises.bodies[etag] = b"".join(bodies)
    return etag


def work(clients, url, turns):
    """All of them at once, until each has done its turns."""
    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        for done in [pool.submit(client.work, url, turns) for client in clients]:
            done.result()
