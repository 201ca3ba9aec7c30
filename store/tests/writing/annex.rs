//! Keys that no path of the tree can hold.

use super::*;

#[test]
fn keys_that_no_path_can_hold_live_in_the_annex() {
    let tree = Tree::new();
    let long = "x".repeat(300);
    tree.put("a", b"file");
    tree.put("p/q", b"file");
    let keys = ["a/b", "x//y", "./z", "../up", "d/", "p", "/lead", &long];
    for name in keys {
        tree.put(name, name.as_bytes());
    }
    for name in keys {
        let object = tree.open(name).expect("there");
        assert_eq!(
            (body_of(&object), object.info.etag),
            (name.as_bytes().to_vec(), md5(name.as_bytes()))
        );
        assert!(matches!(
            tree.put_if(name, b"", if_absent()),
            Err(StoreError::PreconditionFailed(_))
        ));
    }
    assert_eq!(tree.read("a"), b"file");
    assert_eq!(tree.read("p/q"), b"file");
    for name in keys {
        assert!(tree.delete(name), "{name}");
        assert!(tree.open(name).is_err(), "{name}");
    }
    assert_eq!(
        fs::read_dir(tree.path(".twintree/annex"))
            .expect("there")
            .count(),
        0,
        "pruned"
    );
}

#[test]
fn names_that_are_kept_back_are_refused_in_keys_that_no_path_can_hold() {
    let tree = Tree::new();
    for name in [
        "x//lost+found",
        ".nfs01//x",
        "a//.snapshot/b",
        "lost+found/./x",
    ] {
        let put = tree.put_if(name, b"", WriteConditions::default());
        assert!(
            matches!(put, Err(StoreError::Reserved(_))),
            "{name}: {put:?}"
        );
        assert!(matches!(tree.open(name), Err(StoreError::Reserved(_))));
    }
    assert!(!tree.path(".twintree/annex").exists());
}

#[test]
fn key_stays_in_the_annex_until_it_is_deleted_and_a_native_file_wins() {
    let tree = Tree::new();
    tree.put("a", b"file");
    tree.put("a/b", b"annexed");
    tree.delete("a");
    tree.put("a/b", b"annexed still");
    assert!(!tree.path("a").exists());
    fs::create_dir(tree.path("a")).expect("made");
    fs::write(tree.path("a/b"), b"native").expect("written");
    assert_eq!(tree.read("a/b"), b"native");
    assert!(tree.delete("a/b"));
    assert!(tree.open("a/b").is_err(), "both are gone");
}

#[test]
fn body_under_a_directory_key_takes_the_place_of_the_marked_directory() {
    let tree = Tree::new();
    tree.put("d/", b"");
    tree.put("d/", b"body");
    assert_eq!(tree.read("d/"), b"body");
    assert!(tree.delete("d/"));
    assert!(tree.open("d/").is_err());
}

#[test]
fn posix_only_refuses_what_no_path_can_hold_and_says_what_is_in_the_way() {
    let tree = Tree::with(KeyPolicy::PosixOnly, Durability::Strict);
    tree.put("a", b"file");
    for name in ["a/b", "x//y"] {
        let refused = tree.put_if(name, b"x", WriteConditions::default());
        assert!(
            matches!(refused, Err(StoreError::KeyBlocked { .. })),
            "{name}"
        );
    }
    let Err(StoreError::KeyBlocked { by, .. }) =
        tree.put_if("a/b", b"x", WriteConditions::default())
    else {
        panic!("refused above");
    };
    assert!(by.contains("\"a\""), "{by}");
}
