//! The MD5s of several short messages that are there as a whole: no thread takes them from another.

use std::sync::OnceLock;

use super::Md5;
use super::lanes::{BLOCK, Kernel, MOST, START};
use super::service::wanted_kernel;

/// Takes each message into an MD5 of its own, as many beside each other as there are lanes.
pub fn md5_of_each(messages: &[&[u8]]) -> Vec<Md5> {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    let kernel = KERNEL.get_or_init(|| wanted_kernel().unwrap_or(Kernel::Portable));
    of_each(*kernel, messages)
}

pub(super) fn of_each(kernel: Kernel, messages: &[&[u8]]) -> Vec<Md5> {
    let mut md5s = vec![Md5::default(); messages.len()];
    // Messages of about one length share the lanes: the longer ones' rests are taken one by one.
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|at| messages[*at].len());
    for group in order.chunks(MOST) {
        let shortest = messages[group[0]].len();
        let length = shortest - shortest % BLOCK;
        let mut states = [START; MOST];
        let mut heads: [&[u8]; MOST] = [&[]; MOST];
        for (head, at) in heads.iter_mut().zip(group) {
            *head = &messages[*at][..length];
        }
        kernel.compress(&mut states[..group.len()], &heads[..group.len()]);
        for (state, at) in states.into_iter().zip(group) {
            let md5 = &mut md5s[*at];
            (md5.state, md5.length) = (state, length as u64);
            md5.update(&messages[*at][length..]);
        }
    }
    md5s
}
