//! The records of an answer, one by one, for the doors that do not hand out whole batches: what is compressed is expanded, a
//! batch at a time and only as far as somebody has room for it.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use sidestream_event::{
    native::{From, Refusal},
    record::{Header, Record, RecordError, expand, records},
};

/// How much of anything there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Records.
    pub(crate) records: u64,
    /// As [`bytes`] counts them; one record there is however large it is.
    pub(crate) bytes: u64,
}

/// What `make` makes of the records with offsets in `range`, and the offset to go on at.
///
/// # Errors
/// Where the first of them cannot be read: it is encrypted by who pushed it, most likely.
pub(crate) fn pulled<T>(
    tail: &[Bytes],
    range: Range<u64>,
    most: Most,
    make: impl Fn(&Record<'_>, &Bytes) -> T,
) -> Result<(Vec<T>, u64), Refusal> {
    let (mut found, mut left, mut next) = (Vec::new(), most.bytes, range.start);
    let walked = each(tail, |record, body| {
        if !range.contains(&record.offset) {
            return ControlFlow::Continue(());
        }
        let bytes = bytes(record);
        // What was compressed is many times what was pulled.
        if found.len() as u64 >= most.records || (bytes > left && !found.is_empty()) {
            return ControlFlow::Break(());
        }
        left = left.saturating_sub(bytes);
        next = record.offset + 1;
        found.push(make(record, body));
        ControlFlow::Continue(())
    });
    match walked {
        Ok(ControlFlow::Continue(())) => Ok((found, range.end)),
        Err(refusal) if found.is_empty() => Err(refusal),
        // What cannot be read is told to who asks for it.
        Ok(ControlFlow::Break(())) | Err(_) => Ok((found, next)),
    }
}

/// Shows every record of the batches in `tail`, headers and bodies in turn, until it is broken off.
pub(crate) fn each(
    tail: &[Bytes],
    mut see: impl FnMut(&Record<'_>, &Bytes) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Refusal> {
    for batch in tail.chunks_exact(2) {
        let header = Header::read(&batch[0]).map_err(unreadable)?;
        let wrapped = |_| (header, batch[1].clone());
        let (header, body) = expand(&header, &batch[1]).unwrap_or_else(wrapped);
        for record in records(&header, &body) {
            if see(&record.map_err(unreadable)?, &body).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What a record takes of a limit: the bytes of its value, key and headers, and for each header what one takes while an answer is
/// made. An empty one is two bytes of a batch, and next to none of one that is compressed.
pub(crate) fn bytes(record: &Record<'_>) -> u64 {
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.len());
    count(record.value.len() + record.key.map_or(0, <[u8]>::len), headers)
}

/// The same of a record whose value and key are so long together, and whose headers are.
pub(crate) fn count(own: usize, headers: impl Iterator<Item = usize>) -> u64 {
    (own + headers.map(|length| length + HEADER_COUNTS).sum::<usize>()) as u64
}

/// Whether somebody who pulled before asks for a place that is gone, because the first there is is behind it: a reset took it.
pub(crate) fn is_gone(is_back: bool, from: From, first: u64) -> bool {
    is_back && matches!(from, From::Offset(place) if place < first)
}

/// What a header counts beside its bytes.
const HEADER_COUNTS: usize = 64;

fn unreadable(error: RecordError) -> Refusal {
    Refusal::BadBatch { reason: format!("{error}; use a client of the native protocol") }
}
