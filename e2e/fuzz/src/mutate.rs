//! Changes of inputs where there is no libFuzzer: what hostile and broken programs do most often.

use sidestream_host::Random;

/// One of `inputs`, with one to five changes.
pub(crate) fn changed(inputs: &[&Vec<u8>], random: &mut Random) -> Vec<u8> {
    let any = |random: &mut Random| inputs[random.below(inputs.len() as u64) as usize].clone();
    let mut bytes = any(random);
    for _ in 0..1 + random.below(5) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let left = bytes.len() - at;
        let count = (random.below(16) as usize + 1).min(left);
        match random.below(9) {
            0 if left > 0 => bytes[at] ^= 1 << random.below(8),
            1 if left > 0 => bytes[at] = random.next_u64() as u8,
            2 => number(&mut bytes[at..], random),
            3 => drop(bytes.drain(at..at + count)),
            4 => {
                let again: Vec<u8> = bytes[at..at + count].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let made = (0..count).map(|_| random.next_u64() as u8).collect::<Vec<_>>();
                bytes.splice(at..at, made);
            }
            6 => bytes.truncate(at),
            7 => {
                let other = any(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => bytes[at..at + count].fill(0xff),
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

/// A number that lengths are compared with, in four or eight bytes.
fn number(bytes: &mut [u8], random: &mut Random) {
    let numbers: [u64; 9] = [0, 1, 0x7f, 0xff, 0xffff, 1 << 20, u32::MAX as u64, 1 << 63, u64::MAX];
    let number = numbers[random.below(numbers.len() as u64) as usize];
    let number = number.wrapping_add(random.below(3)).wrapping_sub(1).to_le_bytes();
    let width = if random.below(2) == 0 { 4 } else { 8 };
    for (place, byte) in bytes.iter_mut().zip(&number[..width]) {
        *place = *byte;
    }
}

/// As libFuzzer is told.
const INPUT_BYTES_MAX: usize = 4096;
