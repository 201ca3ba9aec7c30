//! Pages: their order, their size, and where the next one goes on.

use super::*;

#[test]
fn keys_come_in_byte_order_of_the_whole_key() {
    let rig = Rig::new();
    for path in ["a/x", "a-b", "a.b", "a0", "a/y/z", "b"] {
        rig.file(path);
    }
    assert_eq!(rig.keys(), ["a-b", "a.b", "a/x", "a/y/z", "a0", "b"]);
    assert_eq!(rig.pages("", "/", 2), ["a-b", "a.b", "a/", "a0", "b"]);
    assert_eq!(rig.pages("a/", "/", 1), ["a/x", "a/y/"]);
    assert_eq!(rig.pages("a/", "y/", 1), ["a/x", "a/y/"]);
    assert_eq!(rig.pages("", "a", 1), ["a", "b"]);
}

#[test]
fn max_keys_zero_is_an_empty_page_without_a_successor() {
    let rig = Rig::new();
    rig.file("a");
    let page = rig.page(&query("", "", "", 0));
    assert!(page.objects().len() == 0 && page.next.is_none());
}

#[test]
fn a_marker_need_not_exist_and_a_common_prefix_skips_its_group() {
    let rig = Rig::new();
    for path in ["a/1", "a/2", "b", "c/1"] {
        rig.file(path);
    }
    let after = |marker: &str, delimiter: &str| texts(&rig.page(&query("", delimiter, marker, 9)));
    assert_eq!(after("a/", "/"), ["b", "c/"]);
    assert_eq!(after("a/1", "/"), ["b", "c/"]);
    assert_eq!(after("a/", ""), ["a/1", "a/2", "b", "c/1"]);
    assert_eq!(after("a/1", ""), ["a/2", "b", "c/1"]);
    assert_eq!(after("a/1/deep/below", ""), ["a/2", "b", "c/1"]);
    assert_eq!(after("a0", ""), ["b", "c/1"]);
    assert_eq!(after("zzz", ""), [""; 0]);
}

#[test]
fn paging_goes_on_after_its_marker_was_deleted() {
    let rig = Rig::new();
    for n in 0..20 {
        rig.file(&format!("d{}/f{n:02}", n / 10));
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = rig.page(&query("", "", &after, 3));
        seen.extend(texts(&page));
        let Some(next) = page.next else { break };
        fs::remove_file(rig.top.join(&next)).expect("removed");
        if next == "d0/f08" {
            fs::remove_dir_all(rig.top.join("d0")).expect("removed");
        }
        after = next;
    }
    let expected: Vec<String> = (0..20).map(|n| format!("d{}/f{n:02}", n / 10)).collect();
    assert_eq!(
        seen,
        expected
            .iter()
            .filter(|key| *key != "d0/f09")
            .cloned()
            .collect::<Vec<_>>()
    );
}

#[test]
fn twenty_thousand_files_listed_page_by_page_are_the_sorted_set() {
    let rig = Rig::new();
    let mut expected = Vec::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..20_000u64 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(n | 1);
        let name = format!("report-{:08x}-{n}", seed >> 32);
        fs::write(rig.top.join(&name), b"").expect("written");
        expected.push(name);
    }
    expected.sort();
    assert_eq!(rig.pages("", "", 1000), expected);
    assert_eq!(
        rig.pages("report-", "-", 999),
        naive(&expected, "report-", "-", "", 99_999).0
    );
}
