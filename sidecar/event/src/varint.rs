//! Numbers of variable length, as in Protocol Buffers: seven bits to a byte, the lowest first; a byte of 128 or more is not
//! the last. Numbers that may be negative are folded first, so that small ones stay short.

/// Writes `number`, in at most ten bytes.
pub(crate) fn write(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// How many bytes [`write`] takes for it.
pub(crate) fn length(number: u64) -> usize {
    (64 - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// The number whose bytes `byte` gives one after the other; none where they are more than 64 bits.
#[inline]
pub(crate) fn read<E>(mut byte: impl FnMut() -> Result<u8, E>) -> Result<Option<u64>, E> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// 0, -1, 1, -2 … become 0, 1, 2, 3 …
pub(crate) fn fold(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// What [`fold`] was given.
pub(crate) fn unfold(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
