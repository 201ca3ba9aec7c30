//! Directories: made, marked, pruned, spared.

use super::*;

#[test]
fn delete_prunes_our_parents_and_never_a_persons() {
    let tree = Tree::new();
    fs::create_dir(tree.path("person")).expect("made");
    tree.put("person/ours/deep/f", b"x");
    assert!(tree.delete("person/ours/deep/f"));
    assert_eq!(
        tree.path("person/ours").exists(),
        !has_xattrs(&tree),
        "pruned, unless it could not be marked as ours"
    );
    assert!(tree.path("person").is_dir());
    assert!(
        !tree.delete("person/ours/deep/f"),
        "there is nothing any more"
    );
}

#[test]
fn delete_spares_parents_that_hold_something() {
    let tree = Tree::new();
    tree.put("d/a", b"x");
    tree.put("d/b", b"y");
    tree.delete("d/a");
    assert_eq!(tree.read("d/b"), b"y");
    tree.put("e/", b"");
    tree.put("e/f", b"x");
    tree.delete("e/f");
    assert!(tree.open("e/").is_ok(), "the object e/ keeps its directory");
}

#[test]
fn puts_and_deletes_of_neighbours_race_without_an_error() {
    let tree = Tree::with(KeyPolicy::Any, Durability::Relaxed);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let tree = &tree;
            scope.spawn(move || {
                let name = format!("deep/er/k{n}");
                for _ in 0..200 {
                    tree.put(&name, b"x");
                    assert!(tree.delete(&name));
                }
            });
        }
    });
    assert_eq!(tree.path("deep").exists(), !has_xattrs(&tree));
}

#[test]
fn directory_key_is_a_marked_directory_with_its_own_metadata() {
    let tree = Tree::new();
    let meta = Meta {
        user: vec![("a".into(), b"b".to_vec())],
        ..Meta::default()
    };
    put(&tree.bucket, "dir/", b"", meta.clone(), if_absent()).expect("made");
    let marked = has_xattrs(&tree);
    assert_eq!(
        tree.path("dir").exists(),
        marked,
        "without marks it lives in the annex"
    );
    let object = tree.open("dir/").expect("there");
    assert_eq!(
        (object.info.etag, object.info.size, object.info.meta),
        (md5(b""), 0, meta)
    );
    let again = tree.put_if("dir/", b"", if_absent());
    assert!(matches!(
        again,
        Err(StoreError::PreconditionFailed("If-None-Match"))
    ));
    tree.put("dir/f", b"x");
    assert!(tree.delete("dir/"));
    assert!(tree.open("dir/").is_err());
    assert_eq!(tree.read("dir/f"), b"x");
    tree.delete("dir/f");
    assert_eq!(
        tree.path("dir").exists(),
        !marked,
        "we made it, it is no object, and it is empty"
    );
}
