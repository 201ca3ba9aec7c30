//! Names at the edge: long, deep, not UTF-8.

use super::*;

#[test]
fn long_annex_names_come_in_key_order() {
    let rig = Rig::new();
    let stem = |length: usize| "x".repeat(length);
    let keys = [
        stem(300),
        stem(300) + "/y",
        stem(300) + "!",
        stem(299) + "é",
        stem(199) + "%" + &stem(100),
        stem(199) + "é" + &stem(100),
        stem(198) + "\u{1}" + &stem(100),
        stem(700),
        stem(300) + "/",
    ];
    for key in &keys {
        rig.annex(key);
    }
    let mut expected = keys.to_vec();
    expected.sort();
    assert_eq!(rig.keys(), expected);
    assert_eq!(rig.pages("", "", 1), expected);
    assert_eq!(rig.pages("x", "é", 1), naive(&expected, "x", "é", "", 99).0);
}

#[test]
fn names_that_are_not_utf8_sort_by_their_key_text() {
    let rig = Rig::new();
    for name in [
        &b"\xff"[..],
        b"\xf4\x8f\xb8\x80",
        b"z",
        "\u{10ffff}".as_bytes(),
        b"d\x80/f",
        b"d/\x81",
    ] {
        rig.raw_file(name);
    }
    let keys = rig.keys();
    assert_eq!(
        keys,
        [
            "d/\u{10fe81}",
            "d\u{10fe80}/f",
            "z",
            "\u{10fef4}\u{10fe8f}\u{10feb8}\u{10fe80}",
            "\u{10feff}",
            "\u{10ffff}",
        ]
    );
    assert_eq!(rig.pages("", "", 1), keys);
    assert_eq!(rig.pages("d\u{10fe80}/", "/", 1), ["d\u{10fe80}/f"]);
}

#[test]
fn a_deep_tree_neither_overflows_nor_shows_what_no_key_can_name() {
    let rig = Rig::new();
    let mut path = String::new();
    for _ in 0..600 {
        path.push_str("d/");
    }
    // Longer than PATH_MAX allows in one call is not needed: 1,200 bytes are past the longest key.
    rig.file(&format!("{path}file"));
    rig.file(&format!("{}file", &path[..800]));
    assert_eq!(rig.keys(), [format!("{}file", &path[..800])]);
    assert_eq!(rig.pages("", "/", 1), ["d/"]);
    assert_eq!(rig.pages(&path[..900], "/", 1), [""; 0]);
}
