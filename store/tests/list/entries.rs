//! What a directory's entries show as: objects, common prefixes, or nothing.

use super::*;

#[test]
fn empty_directories_are_neither_objects_nor_common_prefixes() {
    let rig = Rig::new();
    rig.dir("empty/deep/deeper");
    rig.dir("full/empty");
    rig.file("full/deep/file");
    rig.file("hidden/@eaDir/thumb");
    assert_eq!(rig.keys(), ["full/deep/file"]);
    assert_eq!(rig.pages("", "/", 1), ["full/"]);
    assert_eq!(rig.pages("empty/", "/", 1), [""; 0]);
    assert_eq!(rig.pages("hidden/@eaDir/", "/", 1), [""; 0]);
}

#[test]
fn a_marked_directory_is_an_object_of_its_own() {
    let rig = Rig::new();
    rig.dir("plain/inner");
    rig.dir("marked");
    rig.file("marked-too/file");
    for name in ["marked", "marked-too"] {
        let mark = [&[1u8, 2][..], &1_000_000_007i64.to_le_bytes()].concat();
        if let Err(e) = xattr::set(rig.top.join(name), "user.twintree.dir", &mark) {
            assert_eq!(e.raw_os_error(), Some(libc::EOPNOTSUPP), "{e}");
            return;
        }
    }
    assert_eq!(rig.keys(), ["marked-too/", "marked-too/file", "marked/"]);
    assert_eq!(rig.pages("", "/", 1), ["marked-too/", "marked/"]);
    let page = rig.page(&query("marked/", "/", "", 5));
    let first = page.objects().next().expect("an entry");
    assert_eq!(first.key, "marked/");
    assert_eq!(first.etag.to_string(), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(first.modified.0, 1_000_000_007);
    assert_eq!(
        texts(&rig.page(&query("", "", "marked-too/", 9))),
        ["marked-too/file", "marked/"]
    );
}

#[test]
fn reserved_names_links_out_and_special_files_are_not_shown() {
    let rig = Rig::new();
    for path in [
        "dir/file",
        ".twintree/stage/x",
        "dir/.TwinTree/y",
        "lost+found/z",
        ".nfs0001",
        "@eaDir/t",
    ] {
        rig.file(path);
    }
    let outside = rig.top.parent().expect("a parent").join("outside");
    fs::write(&outside, b"secret").expect("written");
    for (target, link) in [
        ("dir/file", "to-file"),
        ("dir", "to-dir"),
        ("../outside", "to-outside"),
        ("nowhere", "dangling"),
        ("loop", "loop"),
        ("/etc/passwd", "absolute"),
    ] {
        symlink(target, rig.top.join(link)).expect("linked");
    }
    symlink(rig.top.join("dir/file"), rig.top.join("absolute-inside")).expect("linked");
    let fifo = rig.top.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(rig.top.join("socket")).expect("bound");
    assert_eq!(rig.keys(), ["absolute-inside", "dir/file", "to-file"]);
    assert_eq!(
        rig.pages("", "/", 1),
        ["absolute-inside", "dir/", "to-file"]
    );
    assert_eq!(rig.pages("to-dir/", "", 1), [""; 0]);
    assert_eq!(rig.pages("", "o", 1), ["abso", "dir/file", "to"]);
}

#[test]
fn what_cannot_be_read_is_left_out_and_breaks_nothing() {
    let rig = Rig::new();
    rig.file("a/file");
    rig.file("b/file");
    rig.file("c");
    fs::set_permissions(rig.top.join("a"), fs::Permissions::from_mode(0o000)).expect("set");
    fs::set_permissions(rig.top.join("c"), fs::Permissions::from_mode(0o000)).expect("set");
    // Root reads what it likes; what is left to see then is that mode 0000 is listed.
    let expected: &[&str] = if rustix::process::geteuid().is_root() {
        &["a/file", "b/file", "c"]
    } else {
        &["b/file", "c"]
    };
    assert_eq!(rig.keys(), expected);
    fs::set_permissions(rig.top.join("a"), fs::Permissions::from_mode(0o700)).expect("set");
}
