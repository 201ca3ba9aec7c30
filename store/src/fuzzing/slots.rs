//! The slots of an upload's `parts` file: what is damaged is known as damaged, what is whole comes back.

use super::draw::Draw;
use crate::multipart::slot::{Decoded, Head, SLOT, Slot};

/// A slot and a head of any bytes, with the right sum and with a wrong one.
pub fn slots(data: &[u8]) {
    let mut draw = Draw::new(data);
    let number = draw.number() as u16;
    let (flipped, bit) = (draw.below(SLOT), draw.below(8));
    let mut bytes: [u8; SLOT] = draw.array();
    if draw.flag() {
        bytes[0] = 1;
    }
    Slot::decode(number, &bytes);
    Head::decode(&bytes);
    seal(&mut bytes);
    let mut damaged = bytes;
    damaged[flipped] ^= 1 << bit;
    if let Decoded::Stored(slot) = Slot::decode(number, &bytes) {
        let again = slot.encode(number);
        assert_eq!(Slot::decode(number, &again), Decoded::Stored(slot));
        assert_eq!(Slot::decode(number, &damaged), Decoded::Damaged);
        assert_eq!(
            Slot::decode(number.wrapping_add(1), &bytes),
            Decoded::Damaged,
            "a slot of another place"
        );
    }
    if let Decoded::Stored(head) = Head::decode(&bytes) {
        assert_eq!(Head::decode(&head.encode()), Decoded::Stored(head));
        assert_eq!(Head::decode(&damaged), Decoded::Damaged);
    }
}

fn seal(bytes: &mut [u8; SLOT]) {
    let (content, sum) = bytes.split_at_mut(SLOT - 4);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, content) as u32;
    sum.copy_from_slice(&crc.to_le_bytes());
}
