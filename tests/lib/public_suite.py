"""Which cases of the public suite pass, and why each other one does not."""

import ast
import re

LATER = "not built yet"
REFUSED = "refused by design"

# What a failing case needs, by pytest marker first and by name second; the first row that fits speaks.
# (marker or None, pattern over the name or None, feature, status, why)
FEATURES = [
    ("bucket_logging", None, "bucket logging", REFUSED, "access logs are the daemon's structured log lines; PutBucketLogging answers 501"),
    ("cloud_transition", None, "cloud transition", REFUSED, "tiering moves data out of the tree, which plain files rule out"),
    ("cloud_restore", None, "cloud restore", REFUSED, "nothing is ever transitioned, so nothing can be restored"),
    ("storage_class", None, "storage classes", REFUSED, "there is one class: the directory's own disk"),
    ("lifecycle_transition", None, "lifecycle transition", REFUSED, "tiering moves data out of the tree, which plain files rule out"),
    ("appendobject", None, "append", REFUSED, "an RGW extension"),
    ("sse_s3", None, "encryption", REFUSED, "files must stay readable by POSIX: encryption at rest is the disk's work"),
    ("bucket_encryption", None, "encryption", REFUSED, "files must stay readable by POSIX: encryption at rest is the disk's work"),
    ("encryption", None, "encryption", REFUSED, "files must stay readable by POSIX: encryption at rest is the disk's work"),
    (None, r"sse_|encrypt|kms", "encryption", REFUSED, "files must stay readable by POSIX: encryption at rest is the disk's work"),
    ("s3website", None, "website", REFUSED, "static websites are a web server's work on the same directory; PutBucketWebsite answers 501"),
    ("s3website_redirect_location", None, "website", REFUSED, "static websites are a web server's work on the same directory"),
    (None, r"torrent", "torrent", REFUSED, "withdrawn by S3 itself"),
    (None, r"object_lock|legal_hold|retention", "object lock", LATER, "needs versions"),
    ("object_lock", None, "object lock", LATER, "needs versions"),
    ("delete_marker", None, "versioning", LATER, "versions come with a later issue"),
    ("lifecycle", None, "lifecycle", LATER, "the scanner that expires objects comes with a later issue"),
    ("lifecycle_expiration", None, "lifecycle", LATER, "the scanner that expires objects comes with a later issue"),
    (None, r"lifecycle", "lifecycle", LATER, "the scanner that expires objects comes with a later issue"),
    (None, r"version", "versioning", LATER, "versions come with a later issue"),
    ("abac_test", None, "ABAC", REFUSED, "tags decide nothing about access; answers 501"),
    ("bucket_policy", None, "bucket policy", LATER, "policies come with users and access control"),
    (None, r"policy|block_public|public_block|ignore_public", "bucket policy", LATER, "policies come with users and access control"),
    ("object_ownership", None, "ownership controls", LATER, "come with access control"),
    (None, r"ownership", "ownership controls", LATER, "come with access control"),
    (None, r"post_object|authenticated_request|post_upload", "POST policy forms", LATER, "browser forms come with access control"),
    (None, r"cors", "CORS", LATER, "comes with access control"),
    (None, r"acl|grant|canned", "ACLs", REFUSED, "ownership is the file system's; only `private` is taken, everything else needs users"),
    (None, r"anon|raw_get|raw_put|public|access_bucket|access_.*object|notowner|not_owner|another", "anonymous and other users", LATER, "a second user, and anonymous access, come with access control"),
    (None, r"account_usage|head_extended|list_extended|usage", "RGW extensions", REFUSED, "statistics that only Ceph's gateway gives"),
    (None, r"notification|sns", "notifications", LATER, "come with events"),
    (None, r"_atomic_.*dual|restore_object", "RGW extensions", REFUSED, "answers that only Ceph's gateway gives"),
]

VERSIONS = ("versioning", LATER, "versions come with a later issue")
SECOND_USER = ("anonymous and other users", LATER, "a second user, and anonymous access, come with access control")
ACL = ("ACLs", REFUSED, "ownership is the file system's; only `private` is taken, everything else needs users")
CLIENT = ("cases that today's client repairs", REFUSED, "botocore signs over the header that the case breaks, so that a good request arrives")
AWS = ("where S3 itself answers otherwise", REFUSED, "Ceph's gateway and S3 differ here, and clients are written for S3")
RGW = ("RGW extensions", REFUSED, "statistics and answers that only Ceph's gateway gives")

# Single cases whose reason is their own, by short name without parameters.
CASES = {
    **{f"test_headers.py::{name}": CLIENT for name in (
        "test_bucket_create_bad_authorization_empty", "test_bucket_create_bad_authorization_invalid_aws2",
        "test_bucket_create_bad_authorization_none", "test_bucket_create_bad_date_none_aws2",
        "test_object_create_bad_authorization_empty", "test_object_create_bad_authorization_incorrect_aws2",
        "test_object_create_bad_authorization_invalid_aws2", "test_object_create_bad_authorization_none",
        "test_object_create_bad_contentlength_none", "test_object_create_bad_date_none_aws2")},
    **{f"test_s3.py::{name}": ACL for name in (
        "test_100_continue", "test_expected_bucket_owner", "test_object_delete_key_bucket_gone", "test_object_raw_authenticated",
        "test_object_raw_authenticated_bucket_gone", "test_object_raw_authenticated_object_gone")},
    **{f"test_s3.py::{name}": SECOND_USER for name in (
        "test_bucket_create_exists_nonowner", "test_list_multipart_upload_owner", "test_object_copy_not_owned_bucket")},
    **{f"test_s3.py::{name}": VERSIONS for name in (
        "test_delete_object_current_if_match", "test_delete_object_current_if_match_last_modified_time",
        "test_delete_object_current_if_match_size", "test_delete_objects_current_if_match",
        "test_delete_objects_current_if_match_last_modified_time", "test_delete_objects_current_if_match_size",
        "test_multipart_put_current_object_if_match", "test_multipart_put_current_object_if_none_match",
        "test_put_current_object_if_match", "test_put_current_object_if_none_match", "test_put_object_current_if_match")},
    **{f"test_s3.py::{name}": RGW for name in ("test_bucket_list_unordered", "test_bucket_listv2_unordered")},
    **{f"test_s3.py::{name}": (*AWS[:2], why) for name, why in {
        "test_bucket_create_exists": "the case reads an attribute that no botocore exception has; 409 BucketAlreadyOwnedByYou is right",
        "test_bucket_recreate_not_overriding": "creating one's bucket again is 409 BucketAlreadyOwnedByYou, as everywhere in S3 but us-east-1",
        "test_bucket_list_prefix_unreadable": "S3 encodes Prefix under encoding-type=url, and botocore does not decode it in the old listing",
        "test_get_multipart_checksum_object_attributes": "S3 wants the part checksums of a composite upload in Complete",
        "test_multipart_copy_invalid_range": "S3 answers InvalidArgument to a copy range past the source's end",
        "test_multipart_get_part": "S3 answers 416 InvalidPartNumber to a part that is not there",
        "test_multipart_single_get_part": "S3 answers 416 InvalidPartNumber to a part that is not there",
        "test_non_multipart_get_part": "S3 answers 416 InvalidPartNumber to a part that is not there",
        "test_multipart_resend_first_finishes_last": "today's client reads the body once more than the case counts, and lists part 1 twice",
        "test_object_checksum_crc64nvme": "S3 answers InvalidRequest to a checksum that is no base64 of the right length",
        "test_object_checksum_sha256": "S3 answers InvalidRequest to a checksum that is no base64 of the right length",
        "test_object_read_unreadable": "the key that the client sends is valid UTF-8, so it is 404, not 400",
        "test_object_set_get_unicode_metadata": "metadata comes back in the bytes in which it was sent (UTF-8), which this client shows as Latin-1",
    }.items()},
}


def short(name):
    """A case's name without the folders: `test_s3.py::test_x`."""
    return name.rsplit("/", 1)[-1] if "[" not in name else name[: name.index("[")].rsplit("/", 1)[-1] + name[name.index("["):]


def listed(path):
    """The names in a passing list."""
    return {line.strip() for line in path.read_text().splitlines() if line.strip()} if path.exists() else set()


def why(outcomes, name):
    """The first words of a case's failure, by its short name."""
    return next((f"{outcome}: {words}" for long, (outcome, words) in outcomes.items() if short(long) == name), "not collected")


def markers(suite):
    """The pytest markers of each case, read from the suite's source."""
    found = {}
    for file in sorted((suite / "s3tests" / "functional").glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                targets = [decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list]
                found[f"{file.name}::{node.name}"] = {target.attr for target in targets if isinstance(target, ast.Attribute)}
    return found


def feature(name, marks):
    """(feature, status, why) of a failing case; None when nobody has said why."""
    base = name.partition("[")[0]
    if base in CASES:
        return CASES[base]
    for marker, pattern, what, status, reason in FEATURES:
        if (marker is None or marker in marks) and (pattern is None or re.search(pattern, base)):
            return what, status, reason
    return None


def report(outcomes, suite):
    """The text of tests/s3-tests.md: a line for each case that does not pass."""
    marks = markers(suite)
    groups, unexplained = {}, []
    for long, (outcome, words) in sorted(outcomes.items()):
        if outcome == "passed":
            continue
        name = short(long)
        found = feature(name, marks.get(name.partition("[")[0], set()))
        if found is None:
            unexplained.append((name, outcome, words))
        else:
            groups.setdefault(found, []).append((name, outcome))
    passed = sum(outcome == "passed" for outcome, _ in outcomes.values())
    lines = ["# The public suite, case by case", "",
             "Written by `tests/s3-tests PATH --update`; the reasons stand in `tests/lib/public_suite.py`.",
             f"collected {len(outcomes)}, passed {passed}. Each other case is here, under what it needs.", ""]
    for (what, status, reason), cases in sorted(groups.items()):
        lines += [f"## {what}: {status} ({len(cases)})", "", f"{reason[0].upper()}{reason[1:]}.", ""]
        lines += [f"- `{name}`: {status}" + (" (the suite skips it)" if outcome == "skipped" else "") for name, outcome in cases] + [""]
    if unexplained:
        lines += [f"## to be explained ({len(unexplained)})", ""]
        lines += [f"- `{name}`: {outcome}: {words}" for name, outcome, words in unexplained] + [""]
    return "\n".join(lines)
