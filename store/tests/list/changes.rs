//! What changes between two pages.

use super::*;

#[test]
fn a_new_name_shows_at_once_in_a_directory_that_was_just_listed() {
    let rig = Rig::new();
    for n in 0..200 {
        rig.file(&format!("{n:03}"));
        assert_eq!(rig.keys().len(), n + 1);
    }
    fs::rename(rig.top.join("000"), rig.top.join("x")).expect("renamed");
    assert_eq!(rig.keys().last().map(String::as_str), Some("x"));
}

#[test]
fn what_pages_knew_of_a_file_is_forgotten_when_the_file_changes() {
    let rig = Rig::new();
    let names = [
        "append",
        "chmod",
        "disguised",
        "gone",
        "mark",
        "put",
        "same",
    ];
    names.iter().for_each(|name| rig.file(name));
    let listed = || -> BTreeMap<String, String> {
        let page = rig.page(&query("", "", "", 99));
        let tags = page
            .objects()
            .map(|entry| (entry.key.to_owned(), entry.etag.to_string()));
        tags.collect()
    };
    let opened = |name: &str| {
        let key = ObjectKey::parse(name).expect("a key");
        let object = rig.bucket.open(&key, Access::Blocking).expect("opened");
        object.info.etag.to_string()
    };
    // Pages keep what they know of files only when these have been quiet for some ticks of the clock,
    // which may show whole seconds.
    let made = fs::metadata(rig.top.join("same"))
        .and_then(|stat| stat.modified())
        .expect("a time");
    let since = made.duration_since(std::time::UNIX_EPOCH);
    let quiet = match since.expect("a time of today").subsec_nanos() {
        0 => std::time::Duration::from_secs(3),
        _ => std::time::Duration::from_millis(120),
    };
    let mut before = listed();
    while made.elapsed().expect("time goes on") < quiet {
        before = listed();
    }
    assert_eq!(listed(), before);

    let path = |name: &str| rig.top.join(name);
    fs::OpenOptions::new()
        .append(true)
        .open(path("append"))
        .and_then(|mut file| file.write_all(b"y"))
        .expect("appended");
    fs::set_permissions(path("chmod"), fs::Permissions::from_mode(0o600)).expect("set");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path("disguised"))
        .expect("opened");
    let time = file
        .metadata()
        .and_then(|stat| stat.modified())
        .expect("a time");
    file.write_all_at(b"z", 0)
        .and_then(|()| file.set_modified(time))
        .expect("changed");
    fs::remove_file(path("gone")).expect("removed");
    xattr::set(path("mark"), "user.twintree", b"no record").expect("set");
    let key = ObjectKey::parse("put").expect("a key");
    let stage = rig.bucket.stage(&key, Some(0)).expect("staged");
    let put = Put {
        digests: Digester::new(&[]).finish(),
        meta: Meta::default(),
        checksum: None,
        conditions: WriteConditions::default(),
    };
    rig.bucket.publish(&key, stage, put).expect("published");

    let after = listed();
    let changed: Vec<&str> = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .collect();
    assert_eq!(
        changed,
        ["append", "chmod", "disguised", "gone", "mark", "put"]
    );
    assert_eq!(after["put"], "d41d8cd98f00b204e9800998ecf8427e");
    for (name, tag) in &after {
        assert_eq!(*tag, opened(name), "{name}");
    }
}
