//! Runs a target on the stable toolchain, within seconds: on every input that was kept, then on seeded
//! changes of those and on noise. What libFuzzer found once stays found.

use std::path::PathBuf;

/// Changed and random inputs of one target; `TWINTREE_FUZZ_ROUNDS` says otherwise.
const ROUNDS: usize = 3000;
/// No input that is made here is longer.
const LONGEST: usize = 2048;

/// Runs one target on all of its inputs.
pub(crate) fn replay(name: &str, target: fn(&[u8])) {
    let kept = kept(name);
    assert!(!kept.is_empty(), "no input of {name} was committed");
    for input in &kept {
        run(target, input);
    }
    let rounds = std::env::var("TWINTREE_FUZZ_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ name.len() as u64);
    for _ in 0..rounds {
        run(target, &changed(&kept, &mut dice));
    }
}

/// Runs a target on one input, and shows the input where the property does not hold.
fn run(target: fn(&[u8]), input: &[u8]) {
    struct Shown<'a>(&'a [u8]);
    impl Drop for Shown<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input: \"{}\"", self.0.escape_ascii());
            }
        }
    }
    let shown = Shown(input);
    target(input);
    drop(shown);
}

/// The packed corpus (each input behind its length, four bytes little endian), and the inputs that have
/// a name of their own because they were written by hand or broke something once.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    let mut kept = Vec::new();
    let pack = std::fs::read(home.join("corpus").join(format!("{name}.pack"))).unwrap_or_default();
    let mut rest = &pack[..];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (input, after) = after.split_at_checked(length).expect("the pack is whole");
        kept.push(input.to_vec());
        rest = after;
    }
    assert!(rest.is_empty(), "the pack of {name} is cut short");
    let named = std::fs::read_dir(home.join("inputs").join(name));
    for entry in named.into_iter().flatten() {
        let path = entry.expect("the folder can be listed").path();
        kept.push(std::fs::read(path).expect("an input can be read"));
    }
    kept.sort();
    kept
}

/// Noise one time in eight, else a kept input with a few changes.
fn changed(kept: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    if dice.below(8) == 0 {
        let length = dice.below(256);
        return (0..length).map(|_| dice.next() as u8).collect();
    }
    let mut input = kept[dice.below(kept.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let end = (at + 1 + dice.below(16)).min(input.len());
        match dice.below(6) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.next() as u8,
            2 => input.insert(at, dice.next() as u8),
            3 => drop(input.drain(at..end.max(at))),
            4 => input.extend_from_within(at..end.max(at)),
            _ => {
                let other = &kept[dice.below(kept.len())];
                input.truncate(at);
                input.extend_from_slice(&other[dice.below(other.len() + 1)..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

/// Seeded, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
