//! The MD5 of bodies: of one by itself, and of many beside each other (`service.rs`), in the lanes of the vector
//! registers (`lanes.rs`). A crate of its own, so that it is optimised in debug builds, too.

pub mod lanes;
mod service;
mod short;
#[cfg(test)]
mod tests;

pub use service::{HashJob, HashService};
pub use short::md5_of_each;

use lanes::{BLOCK, START, State};

/// An MD5 under way.
#[derive(Clone)]
pub struct Md5 {
    state: State,
    length: u64,
    /// What there is of the block under way; `length` says how much.
    begun: [u8; BLOCK],
}

impl Default for Md5 {
    fn default() -> Self {
        Self {
            state: START,
            length: 0,
            begun: [0; BLOCK],
        }
    }
}

impl Md5 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let bytes = self.fill(bytes);
        let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
        lanes::portable(&mut self.state, blocks);
        self.length += blocks.len() as u64;
        self.fill(rest);
    }

    /// Ends.
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8).to_le_bytes();
        let mut end = [0; BLOCK];
        end[0] = 0x80;
        // One bit, then zeros until the length ends a block (RFC 1321, 3.1 and 3.2).
        let zeros = (2 * BLOCK - 8 - 1 - self.held()) % BLOCK;
        self.update(&end[..=zeros]);
        self.update(&bits);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }

    /// How many bytes of the block under way there are.
    fn held(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// Takes bytes until a block is whole, all of them where none is, and none where none is begun and they are a
    /// block or more; gives the rest.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let held = self.held();
        if held == 0 && bytes.len() >= BLOCK {
            return bytes;
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK - held));
        self.begun[held..held + taken.len()].copy_from_slice(taken);
        self.length += taken.len() as u64;
        if held + taken.len() == BLOCK {
            lanes::portable(&mut self.state, &self.begun);
        }
        rest
    }
}
