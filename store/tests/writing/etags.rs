//! Entity tags: of what was put, after a direct change, after a restart, after another boot.

use super::*;

#[test]
fn what_is_put_is_there_with_its_md5_and_nothing_else() {
    let tree = Tree::new();
    let published = tree.put("a/b.txt", b"hello");
    assert_eq!(published.etag, md5(b"hello"));
    let object = tree.open("a/b.txt").expect("there");
    assert_eq!(
        (object.info.etag, object.info.modified),
        (published.etag, published.modified)
    );
    assert_eq!(object.info.checksum, Some(published.checksum));
    assert_eq!(object.info.meta.content_type, None, "no type was sent");
    assert_eq!(
        fs::read(tree.path("a/b.txt")).expect("a plain file"),
        b"hello"
    );
    assert_eq!(
        xattr(&tree.path("a/b.txt"), "user.twintree").map(|r| r.len()),
        Some(64)
    );
    assert_eq!(xattr(&tree.path("a/b.txt"), "user.twintree.meta"), None);
    assert_eq!(tree.staged(), 0);
}

#[test]
fn etag_survives_a_restart_and_a_copy_with_xattrs() {
    let tree = Tree::new();
    tree.put("a", b"one");
    let again = tree
        .restarted()
        .open(&key("a"), Access::Blocking)
        .expect("there");
    assert_eq!(again.info.etag, md5(b"one"));
    let status = std::process::Command::new("cp")
        .arg("-a")
        .args([tree.path("a"), tree.path("copy")])
        .status()
        .expect("cp runs");
    assert!(status.success());
    assert_eq!(tree.open("copy").expect("there").info.etag, md5(b"one"));
}

#[test]
fn every_way_of_changing_a_file_directly_changes_its_etag() {
    let tree = Tree::new();
    let path = tree.path("f");
    let changes: [(&str, &dyn Fn()); 4] = [
        ("append", &|| {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .expect("opened");
            file.write_all(b"x").expect("written");
        }),
        ("same size in place", &|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .expect("opened");
            file.write_all(b"mid").expect("written");
        }),
        ("same size, mtime put back", &|| {
            let before = fs::metadata(&path)
                .expect("there")
                .modified()
                .expect("a time");
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .expect("opened");
            file.write_all(b"end").expect("written");
            file.set_modified(before).expect("put back");
        }),
        ("rename over", &|| {
            fs::write(tree.path("other"), b"new").expect("written");
            fs::rename(tree.path("other"), &path).expect("renamed");
        }),
    ];
    for (how, change) in changes {
        let old = tree.put("f", b"old").etag;
        next_tick(&path);
        change();
        let now = tree.open("f").expect("there");
        assert_ne!(now.info.etag, old, "{how}");
        assert!(matches!(now.info.etag, ETag::Derived(..)), "{how}");
        assert_eq!(now.info.checksum, None, "{how}: no checksum is claimed");
        let refused = tree.put_if("f", b"mine", if_match(old));
        assert!(
            matches!(refused, Err(StoreError::PreconditionFailed("If-Match"))),
            "{how}"
        );
        tree.put_if("f", b"mine", if_match(now.info.etag))
            .expect("the ETag that HEAD shows is accepted");
    }
}

#[test]
fn chmod_hides_the_etag_and_a_condition_that_names_it_verifies_the_content() {
    let tree = Tree::new();
    let etag = tree.put("f", b"body").etag;
    next_tick(&tree.path("f"));
    fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(matches!(
        tree.open("f").expect("there").info.etag,
        ETag::Derived(..)
    ));
    tree.put_if("f", b"next", if_match(etag))
        .expect("the content is still what the ETag names");
}

#[test]
fn chmod_after_a_first_read_shows_to_a_process_that_did_not_write_the_object() {
    let tree = Tree::new();
    let etag = tree.put("f", b"body").etag;
    let other = tree.restarted();
    let seen = || {
        other
            .open(&key("f"), Access::Blocking)
            .expect("there")
            .info
            .etag
    };
    assert_eq!(seen(), etag);
    next_tick(&tree.path("f"));
    fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(matches!(seen(), ETag::Derived(..)));
}

#[test]
fn relaxed_objects_are_valid_in_this_boot_and_say_that_they_are_unsynced() {
    let tree = Tree::with(KeyPolicy::Any, Durability::Relaxed);
    tree.put("f", b"x");
    let record = xattr(&tree.path("f"), "user.twintree").expect("there");
    assert_eq!(record[1] & 1, 1);
    assert_eq!(
        tree.restarted()
            .open(&key("f"), Access::Blocking)
            .expect("there")
            .info
            .etag,
        md5(b"x")
    );
    let mut other_boot = record.clone();
    let last = other_boot.len() - 1;
    other_boot[last] ^= 1;
    xattr::set(tree.path("f"), "user.twintree", &other_boot).expect("set");
    let info = tree
        .restarted()
        .open(&key("f"), Access::Blocking)
        .expect("there")
        .info;
    assert!(
        matches!(info.etag, ETag::Derived(..)),
        "an unsynced record of another boot is not trusted"
    );
}
