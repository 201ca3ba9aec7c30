//! Bodies that go out under a recorded MD5 while somebody opens the file for writing, or writes it in place.

use std::os::unix::fs::FileExt;

use twintree_store::{
    Access, Bucket, BucketName, BucketSettings, Digester, Durability, KeyPolicy, Meta, Object,
    ObjectKey, Put, Store, StoreOptions, WriteConditions,
};

use super::*;

/// An object of these bytes, with its MD5.
fn object_of(dir: &std::path::Path, bytes: &[u8]) -> (Bucket, Object) {
    let store = Store::open(StoreOptions {
        root: dir.to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    })
    .expect("a store");
    let (name, key) = (BucketName::parse("bucket"), ObjectKey::parse("f"));
    let (name, key) = (name.expect("a name"), key.expect("a key"));
    store
        .create_bucket(&name, BucketSettings::default())
        .expect("a bucket");
    let bucket = store.bucket(&name).expect("the bucket");
    let stage = bucket.stage(&key, None).expect("staged");
    stage.file.write_all_at(bytes, 0).expect("written");
    let mut digester = Digester::new(&[]);
    digester.update(bytes);
    let put = Put {
        digests: digester.finish(),
        meta: Meta::default(),
        checksum: None,
        conditions: WriteConditions::default(),
    };
    bucket.publish(&key, stage, put).expect("published");
    let object = bucket.open(&key, Access::Blocking).expect("there");
    assert!(object.is_claimed());
    (bucket, object)
}

fn serve_object(object: &Object, copied: bool) -> Running {
    let object = object.clone();
    serve(answering(move |_| {
        let watched = object.clone();
        let file = object.file.clone().expect("a file");
        let body = FileBody::new(file, 0, object.info.size, move || watched.unchanged());
        async move { reply(200, ReplyBody::File(body.copied(copied))) }
    }))
}

#[tokio::test]
async fn a_body_under_an_md5_is_cut_when_somebody_opens_the_file_for_writing() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = pattern(48 << 20); // more than sockets hold
    let (bucket, object) = object_of(dir.path(), &bytes);
    for copied in [false, true] {
        let server = serve_object(&object, copied);
        let mut stream = server.connect().await;
        send(&mut stream, "GET /f HTTP/1.1\r\nHost: t\r\n\r\n").await;
        let (status, _) = read_head(&mut stream).await.expect("a head");
        assert_eq!(status, 200);
        let mut begun = vec![0; 1 << 20];
        stream.read_exact(&mut begun).await.expect("its begin");
        let file = object.file.as_ref().expect("a file");
        let writing = bucket.writing(file).expect("counted");
        let rest = read_to_end(&mut stream).await;
        assert!(begun.len() + rest.len() < bytes.len(), "copied: {copied}");
        drop(writing);
        let again = get(&mut server.connect().await, "/f").await;
        assert!(again.body == bytes, "nobody wrote");
    }
}

#[tokio::test]
async fn a_copied_body_stays_what_it_was_though_the_peer_reads_it_after_a_rewrite_in_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = pattern(96 << 10); // what one socket holds
    let (_bucket, object) = object_of(dir.path(), &bytes);
    let server = serve_object(&object, true);
    let mut stream = server.connect().await;
    send(&mut stream, "GET /f HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let mut peeked = vec![0; 128 << 10];
    let begun = std::time::Instant::now();
    while stream.peek(&mut peeked).await.expect("an answer") < bytes.len() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
        tokio::task::yield_now().await;
    }
    let path = dir.path().join("bucket/f");
    let writer = File::options().write(true).open(path).expect("opened");
    writer
        .write_all_at(&vec![b'!'; bytes.len()], 0)
        .expect("rewritten");
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert!(got.body == bytes);
}
