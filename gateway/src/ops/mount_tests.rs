//! What a mount in the same process sees of S3, and S3 of it, without a mount: a subscriber that writes down
//! what it is told, and files that are counted as open for writing.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use parking_lot::Mutex;
use twintree_store::{
    Acknowledgement, Change, ChangeKind, Inode, Subscriber, Subscription, Writing,
};

use super::testing::{Answer, Tree, bucket_name, directory};
use crate::call::Settings;
use crate::error::Code;
use crate::reply::ReplyBody;

const BODY: &str = "what was there";

#[derive(Default)]
struct Recorder(Mutex<Vec<Change>>);

impl Subscriber for Recorder {
    fn changed(&self, change: &Change, _acknowledged_at_once: Acknowledgement) {
        self.0.lock().push(change.clone());
    }
}

/// The bucket `b`, and who hears of it.
struct Heard {
    tree: Tree,
    recorder: Arc<Recorder>,
    _subscription: Subscription,
}

fn tree() -> Tree {
    Tree::writable(directory(&["b"]), Settings::default())
}

impl Heard {
    fn new() -> Self {
        let (tree, recorder) = (tree(), Arc::new(Recorder::default()));
        let subscription = tree.store().changes().subscribe(recorder.clone());
        Self {
            tree,
            recorder,
            _subscription: subscription,
        }
    }

    /// What was told while this was answered.
    async fn told(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Told {
        self.recorder.0.lock().clear();
        let answer = self.tree.ask(method, target, headers, body).await;
        let answer = answer.unwrap_or_else(|e| panic!("{method} {target}: {e:?}"));
        Told {
            answer,
            changes: std::mem::take(&mut self.recorder.0.lock()),
        }
    }

    fn inode(&self, path: &str) -> Inode {
        inode_of(&self.tree, path)
    }
}

struct Told {
    answer: Answer,
    changes: Vec<Change>,
}

impl Told {
    /// Was it told that in the directory `parent` the name stands for something else?
    fn of(&self, kind: ChangeKind, parent: Inode, name: &str) -> &Change {
        let found = self.changes.iter().find(|change| {
            (change.kind, change.parent, &change.name[..]) == (kind, parent, name.as_bytes())
        });
        found.unwrap_or_else(|| panic!("{kind:?} {name} is not among {:?}", self.changes))
    }
}

fn inode_of(tree: &Tree, path: &str) -> Inode {
    let stat = fs::symlink_metadata(tree.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    Inode {
        device: stat.dev(),
        inode: stat.ino(),
    }
}

use ChangeKind::*;

#[tokio::test]
async fn a_put_and_a_deletion_tell_of_the_name_and_of_the_folders_that_come_and_go() {
    let heard = Heard::new();
    let put = heard.told("PUT", "/b/one/two/f", &[], BODY).await;
    let (top, one, two) = (
        heard.inode("b"),
        heard.inode("b/one"),
        heard.inode("b/one/two"),
    );
    assert_eq!(put.of(Published, two, "f").old, None);
    put.of(DirectoryMade, top, "one");
    put.of(DirectoryMade, one, "two");
    assert!(
        put.changes
            .iter()
            .all(|change| change.bucket == bucket_name("b"))
    );
    let old = heard.inode("b/one/two/f");
    let again = heard.told("PUT", "/b/one/two/f", &[], "another").await;
    assert_eq!(again.of(Published, two, "f").old, Some(old));
    assert_eq!(again.changes.len(), 1, "{:?}", again.changes);
    let old = heard.inode("b/one/two/f");
    let deleted = heard.told("DELETE", "/b/one/two/f", &[], "").await;
    assert_eq!(deleted.of(Deleted, two, "f").old, Some(old));
    deleted.of(DirectoryRemoved, one, "two");
    deleted.of(DirectoryRemoved, top, "one");
}

#[tokio::test]
async fn a_copy_tells_of_its_target_and_one_onto_itself_of_what_is_said_of_it() {
    let heard = Heard::new();
    heard.told("PUT", "/b/f", &[], BODY).await;
    let top = heard.inode("b");
    let from = ("x-amz-copy-source", "b/f");
    let copied = heard.told("PUT", "/b/g", &[from], "").await;
    copied.of(Published, top, "g");
    let replace = [
        from,
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-meta-new", "1"),
    ];
    let onto = heard.told("PUT", "/b/f", &replace, "").await;
    assert_eq!(onto.of(Attributes, top, "f").old, Some(heard.inode("b/f")));
}

#[tokio::test]
async fn tags_that_come_and_go_tell_of_the_file() {
    let heard = Heard::new();
    heard.told("PUT", "/b/d/f", &[], BODY).await;
    let (parent, file) = (heard.inode("b/d"), heard.inode("b/d/f"));
    let tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>";
    let set = heard.told("PUT", "/b/d/f?tagging", &[], tags).await;
    assert_eq!(set.of(Attributes, parent, "f").old, Some(file));
    let gone = heard.told("DELETE", "/b/d/f?tagging", &[], "").await;
    assert_eq!(gone.of(Attributes, parent, "f").old, Some(file));
}

#[tokio::test]
async fn a_folder_that_becomes_an_object_and_one_no_more_are_told() {
    let heard = Heard::new();
    let top = heard.inode("b");
    heard
        .told("PUT", "/b/d/", &[], "")
        .await
        .of(DirectoryMade, top, "d");
    fs::create_dir(heard.tree.path("b/own")).expect("made");
    let own = heard.inode("b/own");
    let told = heard.told("PUT", "/b/own/", &[], "").await;
    assert!(
        told.changes
            .iter()
            .any(|c| c.kind == Attributes && c.old == Some(own))
    );
    let told = heard.told("DELETE", "/b/own/", &[], "").await;
    assert!(
        told.changes
            .iter()
            .any(|c| c.kind == Attributes && c.old == Some(own))
    );
    let told = heard.told("DELETE", "/b/d/", &[], "").await;
    told.of(DirectoryRemoved, top, "d");
}

#[tokio::test]
async fn keys_that_no_path_holds_tell_of_their_place_in_the_annex() {
    let heard = Heard::new();
    let put = heard.told("PUT", "/b/x//y", &[], BODY).await;
    let (annex, x, inner) = (
        heard.inode("b/.twintree/annex"),
        heard.inode("b/.twintree/annex/x=d"),
        heard.inode("b/.twintree/annex/x=d/%=d"),
    );
    put.of(DirectoryMade, annex, "x=d");
    put.of(DirectoryMade, x, "%=d");
    put.of(Published, inner, "y=f");
    let deleted = heard.told("DELETE", "/b/x//y", &[], "").await;
    deleted.of(Deleted, inner, "y=f");
    deleted.of(DirectoryRemoved, annex, "x=d");
}

#[tokio::test]
async fn many_deletions_in_one_request_are_told_each() {
    let heard = Heard::new();
    for name in ["f", "g"] {
        heard.told("PUT", &format!("/b/{name}"), &[], BODY).await;
    }
    let list = "<Delete><Object><Key>f</Key></Object><Object><Key>g</Key></Object></Delete>";
    let told = heard.told("POST", "/b?delete", &[], list).await.changes;
    let gone: Vec<_> = told.iter().filter(|c| c.kind == Deleted).collect();
    assert_eq!(gone.len(), 2, "{told:?}");
}

#[tokio::test]
async fn a_completed_upload_tells_of_its_object() {
    let heard = Heard::new();
    let begun = heard.told("POST", "/b/f?uploads", &[], "").await;
    assert!(begun.changes.is_empty(), "nobody sees an upload");
    let id = begun.answer.element("UploadId").to_owned();
    let target = format!("/b/f?partNumber=1&uploadId={id}");
    let part = heard.told("PUT", &target, &[], BODY).await;
    assert!(part.changes.is_empty());
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        part.answer.header("etag")
    );
    let target = format!("/b/f?uploadId={id}");
    let changes = heard.told("POST", &target, &[], &list).await.changes;
    assert!(
        changes
            .iter()
            .any(|c| c.kind == Published && c.name == b"f"),
        "{changes:?}"
    );
}

#[tokio::test]
async fn buckets_that_come_and_go_are_told() {
    let heard = Heard::new();
    let root = heard.inode("");
    heard
        .told("PUT", "/new", &[], "")
        .await
        .of(BucketMade, root, "new");
    let old = heard.inode("new");
    let gone = heard.told("DELETE", "/new", &[], "").await;
    assert_eq!(gone.of(BucketRemoved, root, "new").old, Some(old));
}

#[tokio::test]
async fn what_only_reads_tells_nothing() {
    let heard = Heard::new();
    heard.told("PUT", "/b/f", &[], BODY).await;
    for (method, target) in [
        ("GET", "/b/f"),
        ("HEAD", "/b/f"),
        ("GET", "/b?list-type=2"),
        ("GET", "/b/f?tagging"),
        ("DELETE", "/b/absent"),
    ] {
        let told = heard.told(method, target, &[], "").await;
        assert!(
            told.changes.is_empty(),
            "{method} {target}: {:?}",
            told.changes
        );
    }
}

/// As the mount does when an application opens it.
fn open_for_writing(tree: &Tree, path: &str) -> (fs::File, Writing) {
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).open(tree.path(path));
    let file = file.expect("opened");
    let (bucket, _) = path.split_once('/').expect("a bucket and a key");
    let bucket = tree.store().bucket(&bucket_name(bucket)).expect("there");
    let writing = bucket.writing(&file).expect("counted");
    (file, writing)
}

async fn etag_of(tree: &Tree, target: &str) -> String {
    tree.get("HEAD", target).await.header("etag")
}

#[tokio::test]
async fn a_file_open_for_writing_is_answered_alike_everywhere_and_without_its_md5() {
    let tree = tree();
    let put = tree.ask("PUT", "/b/f", &[], BODY).await.expect("put");
    let (md5, checked) = (put.header("etag"), [("x-amz-checksum-mode", "ENABLED")]);
    let (_file, writing) = open_for_writing(&tree, "b/f");
    let head = tree.ask("HEAD", "/b/f", &checked, "").await.expect("head");
    let etag = head.header("etag");
    assert!(etag.ends_with("-1\"") && etag != md5, "{etag}");
    assert_eq!(head.header("x-amz-checksum-crc64nvme"), "");
    let get = tree.ask("GET", "/b/f", &checked, "").await.expect("get");
    assert_eq!((get.header("etag"), &*get.body), (etag.clone(), BODY));
    assert_eq!(get.header("x-amz-checksum-crc64nvme"), "");
    let list = tree.get("GET", "/b?list-type=2").await;
    assert_eq!(list.element("ETag").replace("&quot;", "\""), etag);
    assert!(list.element("ChecksumAlgorithm").is_empty());
    let wanted = [("x-amz-object-attributes", "ETag,Checksum,ObjectSize")];
    let attributes = tree.ask("GET", "/b/f?attributes", &wanted, "").await;
    let attributes = attributes.expect("attributes");
    assert_eq!(attributes.element("ETag"), etag.trim_matches('"'));
    assert!(attributes.elements("ChecksumCRC64NVME").is_empty());
    drop(writing);
    assert_eq!(etag_of(&tree, "/b/f").await, md5, "nobody wrote");
}

#[tokio::test]
async fn a_quiet_open_log_can_be_downloaded_in_ranges_bound_to_its_etag() {
    let tree = tree();
    let put = tree.ask("PUT", "/b/log", &[], BODY).await.expect("put");
    let md5 = put.header("etag");
    let (file, _writing) = open_for_writing(&tree, "b/log");
    let etag = etag_of(&tree, "/b/log").await;
    for (range, expected) in [("bytes=0-4", &BODY[..5]), ("bytes=5-", &BODY[5..])] {
        let headers = [("if-match", &*etag), ("range", range)];
        let part = tree.ask("GET", "/b/log", &headers, "").await.expect("part");
        assert_eq!((part.status, &*part.body), (206, expected));
    }
    let recorded = [("if-match", &*md5)];
    assert_eq!(
        tree.refused("GET", "/b/log", &recorded, "").await,
        Code::PreconditionFailed
    );
    let none = [("if-none-match", &*md5)];
    let whole = tree.ask("GET", "/b/log", &none, "").await.expect("whole");
    assert_eq!(whole.status, 200);
    let none = [("if-none-match", &*etag)];
    let known = tree.ask("GET", "/b/log", &none, "").await.expect("known");
    assert_eq!(known.status, 304);
    file.write_all_at(b"more", BODY.len() as u64)
        .expect("appended");
    let bound = [("if-match", &*etag), ("range", "bytes=0-4")];
    assert_eq!(
        tree.refused("GET", "/b/log", &bound, "").await,
        Code::PreconditionFailed
    );
}

#[tokio::test]
async fn conditional_writes_fail_while_it_is_open_for_writing() {
    let tree = tree();
    let put = tree.ask("PUT", "/b/f", &[], BODY).await.expect("put");
    let md5 = put.header("etag");
    tree.ask("PUT", "/b/other", &[], "other")
        .await
        .expect("put");
    let (_file, _writing) = open_for_writing(&tree, "b/f");
    let etag = etag_of(&tree, "/b/f").await;
    let copy = ("x-amz-copy-source", "b/other");
    for condition in [
        ("if-match", &*md5),
        ("if-match", &*etag),
        ("if-none-match", "*"),
    ] {
        for (method, headers) in [("PUT", vec![condition]), ("PUT", vec![copy, condition])] {
            assert_eq!(
                tree.refused(method, "/b/f", &headers, "").await,
                Code::PreconditionFailed,
                "{condition:?}"
            );
        }
    }
    for condition in [("if-match", &*md5), ("if-match", &*etag)] {
        assert_eq!(
            tree.refused("DELETE", "/b/f", &[condition], "").await,
            Code::PreconditionFailed
        );
    }
}

#[tokio::test]
async fn a_copy_from_what_is_open_for_writing_compares_the_salted_etag_and_has_an_md5_of_its_own() {
    let tree = tree();
    let put = tree.ask("PUT", "/b/f", &[], BODY).await.expect("put");
    let md5 = put.header("etag");
    let (file, _writing) = open_for_writing(&tree, "b/f");
    file.write_all_at(b"WHAT", 0).expect("written");
    let etag = etag_of(&tree, "/b/f").await;
    let copy = ("x-amz-copy-source", "b/f");
    let recorded = [copy, ("x-amz-copy-source-if-match", &*md5)];
    assert_eq!(
        tree.refused("PUT", "/b/g", &recorded, "").await,
        Code::PreconditionFailed
    );
    let salted = [copy, ("x-amz-copy-source-if-match", &*etag)];
    tree.ask("PUT", "/b/g", &salted, "").await.expect("copied");
    let same = tree.ask("PUT", "/b/same", &[], "WHAT was there").await;
    let same = same.expect("put").header("etag");
    assert_eq!(etag_of(&tree, "/b/g").await, same);
}

#[tokio::test]
async fn a_body_under_an_md5_is_copied_where_a_mount_listens_and_lent_to_the_kernel_where_none_does()
 {
    let heard = Heard::new();
    let long = BODY.repeat(10_000);
    heard.told("PUT", "/b/f", &[], &long).await;
    fs::write(heard.tree.path("b/native"), &long).expect("written");
    let copied = |tree: &Tree, key: &'static str| {
        let call = tree.call(http::Request::get(format!("/b/{key}")), &[]);
        let call = call.expect("a good request");
        async move {
            let key = super::testing::object_key(key);
            let reply = super::get_object::get_object(&call, &bucket_name("b"), &key).await;
            match reply.expect("an answer").into_body() {
                ReplyBody::File(file) => file.copied,
                other => panic!("{other:?}"),
            }
        }
    };
    assert!(copied(&heard.tree, "f").await);
    assert!(!copied(&heard.tree, "native").await, "nothing is claimed");
    let Heard {
        tree,
        _subscription: subscription,
        ..
    } = heard;
    drop(subscription);
    assert!(!copied(&tree, "f").await);
}
