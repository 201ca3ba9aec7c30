use std::sync::{OnceLock, mpsc};

use bytes::Bytes;
use md5::Digest as _;
use proptest::prelude::*;

use super::lanes::{BLOCK, Kernel, MOST, START};
use super::*;

fn reference(bytes: &[u8]) -> [u8; 16] {
    md5::Md5::digest(bytes).into()
}

/// Bytes that no two lanes share.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn the_answers_of_the_rfc() {
    let hex = |bytes: &[u8]| {
        let mut md5 = Md5::default();
        md5.update(bytes);
        let digest = md5.finish();
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(hex(b"abc"), "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(
        hex(b"12345678901234567890123456789012345678901234567890123456789012345678901234567890"),
        "57edf4a22be3c955ac49da2e2107b67a"
    );
}

#[test]
fn every_length_around_a_block_agrees_with_another_implementation() {
    for length in 0..=4 * BLOCK + 1 {
        let bytes = noise(length as u64, length);
        for split in [0, 1, length / 2, length.saturating_sub(1), length] {
            let split = split.min(length);
            let mut md5 = Md5::default();
            md5.update(&bytes[..split]);
            md5.update(&bytes[split..]);
            assert_eq!(md5.finish(), reference(&bytes), "{length} at {split}");
        }
    }
}

#[test]
fn every_kernel_agrees_with_another_implementation_in_every_number_of_lanes() {
    for kernel in Kernel::all() {
        for count in 1..=MOST {
            for blocks in [0, 1, 2, 33] {
                let messages: Vec<Vec<u8>> = (0..count)
                    .map(|lane| noise((lane * 100 + blocks) as u64, blocks * BLOCK))
                    .collect();
                let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
                let mut states = vec![START; count];
                kernel.compress(&mut states, &slices);
                for (state, message) in states.into_iter().zip(&messages) {
                    let md5 = Md5 {
                        state,
                        length: message.len() as u64,
                        begun: [0; BLOCK],
                    };
                    let found = md5.finish();
                    assert_eq!(found, reference(message), "{kernel:?}, {count} of {blocks}");
                }
            }
        }
    }
}

#[test]
fn the_kernels_of_this_processor_are_chosen_by_name_and_no_others() {
    for kernel in Kernel::all() {
        let name = format!("{kernel:?}").to_lowercase();
        assert_eq!(Kernel::chosen(Some(&name)), kernel);
    }
    let best = Kernel::all().pop().expect("the portable one at least");
    assert_eq!(Kernel::chosen(None), best);
    assert_eq!(Kernel::chosen(Some("sse9")), best);
}

/// One for each kernel; their threads end with the tests.
fn services() -> &'static [(Kernel, HashService)] {
    static ALL: OnceLock<Vec<(Kernel, HashService)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let start = |kernel| (kernel, HashService::start(kernel).expect("a thread"));
        Kernel::all().into_iter().map(start).collect()
    })
}

/// Hands bodies over cut as told, each in several jobs, all at once, and gives their digests.
fn through(
    service: &HashService,
    bodies: &[Vec<u8>],
    cuts: &[usize],
    each: usize,
) -> Vec<[u8; 16]> {
    let mut waiting: Vec<(usize, Md5, Vec<Vec<Bytes>>)> = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let mut pieces = Vec::new();
        let mut rest = Bytes::from(body.clone());
        for cut in cuts.iter().cycle().skip(number) {
            if rest.is_empty() {
                break;
            }
            pieces.push(rest.split_to((*cut).clamp(1, rest.len())));
        }
        let mut jobs: Vec<Vec<Bytes>> = pieces.chunks(each).map(<[Bytes]>::to_vec).collect();
        jobs.reverse();
        waiting.push((number, Md5::default(), jobs));
    }
    let (send, receive) = mpsc::channel();
    let mut digests = vec![[0; 16]; bodies.len()];
    let mut out = 0;
    while let Some((number, md5, mut jobs)) = waiting.pop().or_else(|| {
        (out > 0).then(|| {
            out -= 1;
            receive.recv().expect("it comes back")
        })
    }) {
        let Some(bytes) = jobs.pop() else {
            digests[number] = md5.finish();
            continue;
        };
        out += 1;
        let send = send.clone();
        service.submit(HashJob {
            md5,
            bytes,
            done: Box::new(move |md5| send.send((number, md5, jobs)).expect("somebody waits")),
        });
    }
    digests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bodies_cut_anywhere_and_hashed_beside_each_other_keep_their_digests(
        lengths in prop::collection::vec(0..9_000_usize, 1..40),
        cuts in prop::collection::vec(1..700_usize, 1..9),
        each in 1..6_usize,
    ) {
        let bodies: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(seed, length)| noise(seed as u64 + 7, *length))
            .collect();
        for (kernel, service) in services() {
            let found = through(service, &bodies, &cuts, each);
            for (found, body) in found.iter().zip(&bodies) {
                prop_assert_eq!(found, &reference(body), "{:?}", kernel);
            }
        }
    }
}

proptest! {
    #[test]
    fn short_messages_beside_each_other_get_the_digest_that_each_has_alone(
        lengths in proptest::collection::vec(0usize..700, 0..40)
    ) {
        let messages: Vec<Vec<u8>> = (1..).zip(lengths).map(|(seed, length)| noise(seed, length)).collect();
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        for kernel in Kernel::all() {
            let digests: Vec<[u8; 16]> = short::of_each(kernel, &slices).into_iter().map(Md5::finish).collect();
            let expected: Vec<[u8; 16]> = messages.iter().map(|message| reference(message)).collect();
            prop_assert_eq!(digests, expected, "{:?}", kernel);
        }
    }
}
