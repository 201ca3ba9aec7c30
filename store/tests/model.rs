//! The reference model: random runs of S3 operations and of a direct writer's, and after every step all
//! objects, entity tags and listings compared with what a `BTreeMap` says.
//!
//! The reference itself is in `model/reference.rs` and imports nothing of the store; of the store nothing is
//! used but its door. `TWINTREE_MODEL_RUNS` sets the number of runs (200).

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

#[path = "model/compare.rs"]
mod compare;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/run.rs"]
mod run;

use compare::Look;
use run::{Reached, Run, Step, Target, When, count};

/// Steps of a run.
const STEPS: usize = 40;
/// How often each hard state must be reached in all runs together.
const ENOUGH: u64 = 50;

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "-", "a.", "a-", ".b"]);
    let depth = prop::sample::select(vec![1usize, 2, 2, 3, 3]);
    depth
        .prop_flat_map(move |depth| prop::collection::vec(name.clone(), depth))
        .prop_map(|names| names.join("/"))
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => path(),
        2 => path().prop_map(|path| path + "/"),
        3 => "[ab./-]{1,5}",
    ]
}

fn target(named: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = Target> {
    prop_oneof![
        3 => any::<prop::sample::Index>().prop_map(Target::Some),
        2 => named.prop_map(Target::Named),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![&b""[..], b"x", b"y", b"xy", b"yyy"]).prop_map(<[u8]>::to_vec)
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => Just(When::Always),
        1 => Just(When::IfAbsent),
        1 => Just(When::IfThere),
        1 => Just(When::IfCurrent),
        1 => Just(When::IfFormer),
        1 => Just(When::IfRecorded),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let file = || target(path());
    let there = || any::<prop::sample::Index>().prop_map(Target::Some);
    prop_oneof![
        1 => Just(Step::Nothing),
        10 => (any_key().prop_map(Target::Named), bytes(), Just(When::Always)).prop_map(|(t, b, w)| Step::Put(t, b, w)),
        10 => (target(any_key()), bytes(), when()).prop_map(|(t, b, w)| Step::Put(t, b, w)),
        6 => (target(any_key()), when()).prop_map(|(t, w)| Step::Delete(t, w)),
        2 => (target(any_key()), any_key()).prop_map(|(t, to)| Step::Copy(t, to)),
        1 => Just(Step::Restart),
        5 => (file(), bytes()).prop_map(|(t, b)| Step::Write(t, b)),
        3 => (file(), bytes()).prop_map(|(t, b)| Step::Replace(t, b)),
        4 => (there(), any::<bool>()).prop_map(|(t, d)| Step::SameSize(t, d)),
        2 => there().prop_map(Step::Append),
        2 => there().prop_map(Step::Truncate),
        2 => there().prop_map(Step::Chmod),
        2 => there().prop_map(Step::Unlink),
        3 => there().prop_map(Step::FileToDir),
        2 => path().prop_map(Step::Mkdir),
        1 => there().prop_map(Step::RemoveDir),
        2 => (there(), path()).prop_map(|(t, to)| Step::RenameFile(t, to)),
        2 => (there(), path()).prop_map(|(t, to)| Step::RenameDir(t, to)),
    ]
}

fn look() -> impl Strategy<Value = Look> {
    let prefix = prop_oneof![2 => Just(String::new()), 3 => "[ab./-]{1,3}", 1 => path()];
    let delimiter =
        prop_oneof![3 => Just("/".to_owned()), 2 => Just(String::new()), 2 => "[ab./-]{1,2}"];
    (prefix, delimiter, 1usize..5).prop_map(|(prefix, delimiter, page)| Look {
        prefix,
        delimiter,
        page,
    })
}

/// Do changes that follow a look each show another ctime here?
fn has_fine_times() -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let file = fs::File::create(dir.path().join("f")).expect("made");
    let look = || file.metadata().expect("looked at");
    (0..50u8).all(|n| {
        let before = look();
        file.write_all_at(&[n], 0).expect("written");
        (before.ctime(), before.ctime_nsec()) != (look().ctime(), look().ctime_nsec())
    })
}

/// Can directories be marked here?
fn has_xattrs() -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    xattr::set(dir.path(), "user.test", b"x").is_ok()
}

#[test]
fn a_bucket_is_what_the_reference_says_after_every_step() {
    let number =
        |name, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let runs = number("TWINTREE_MODEL_RUNS", 200);
    let seeds =
        FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model.seeds"));
    let config = Config {
        cases: runs,
        failure_persistence: Some(Box::new(seeds)),
        max_shrink_iters: number("PROPTEST_MAX_SHRINK_ITERS", 4_000),
        ..Config::default()
    };
    let reached = Reached::default();
    let (fine, unmarked) = (has_fine_times(), !has_xattrs());
    let strategy = prop::collection::vec((step(), prop::collection::vec(look(), 2)), STEPS);
    let result = TestRunner::new(config).run(&strategy, |steps| {
        let mut run = Run::new(&reached, fine, unmarked);
        for (step, looks) in &steps {
            run.step(step)?;
            run.compare(looks)?;
            count(&reached.steps);
        }
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
    println!("{runs} runs: {reached:?}");
    let states = [
        &reached.annex_hits,
        &reached.files_turned_directories,
        &reached.pages_ending_inside_a_prefix,
        &reached.overwrites_of_equal_size,
        &reached.conditions_refused,
    ];
    let least = states.iter().map(|state| state.get()).min().unwrap_or(0);
    assert!(
        least >= ENOUGH,
        "a hard state was hardly reached: {reached:?}"
    );
}
