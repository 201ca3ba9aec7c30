"""boto3 as applications use it, and the few things that every suite asks of it."""

import boto3
import botocore.client
import botocore.exceptions
import pytest

from . import server


def client(url, *, verify=None, access_key=server.ACCESS_KEY, secret_key=server.SECRET_KEY, region="us-east-1",
           signature="s3v4", style=None, **config):
    """A boto3 client; `signature=None` leaves boto3's default (which presigns with SigV2)."""
    settings = {"signature_version": signature, "s3": {"addressing_style": style} if style else None, **config}
    settings = {name: value for name, value in settings.items() if value is not None}
    settings.setdefault("retries", {"max_attempts": 1, "mode": "standard"})
    settings.setdefault("read_timeout", 30)
    return boto3.client("s3", endpoint_url=url, aws_access_key_id=access_key, aws_secret_access_key=secret_key,
                        region_name=region, verify=verify, config=botocore.client.Config(**settings))


def refused(status, code, call, /, *arguments, **named):
    """Calls, and expects this status and this S3 code; gives the error back."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(*arguments, **named)
    answer = caught.value.response
    got = (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"])
    assert got == (status, code), f"{got}: {answer['Error'].get('Message')}"
    return answer


def body(client, bucket, key, **named):
    """An object's bytes."""
    return client.get_object(Bucket=bucket, Key=key, **named)["Body"].read()


def etag(client, bucket, key):
    """An object's ETag without its quotes, by HEAD."""
    return client.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')


def listed(client, bucket, **named):
    """Every listed object of a bucket, by key, over all pages."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, **named)
    return {entry["Key"]: entry for page in pages for entry in page.get("Contents", [])}


def etags_everywhere(client, bucket, key):
    """The ETags that HEAD, GET and LIST give, as a set: it has one member when they agree."""
    head = client.head_object(Bucket=bucket, Key=key)["ETag"]
    got = client.get_object(Bucket=bucket, Key=key)
    got["Body"].read()
    return {tag.strip('"') for tag in (head, got["ETag"], listed(client, bucket, Prefix=key)[key]["ETag"])}
