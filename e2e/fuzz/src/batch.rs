//! Record batches: a header, and the records of a body, as a server takes them from a client and a client from a server.
//!
//! An input is tried as it is, and once more with its lengths and sums made right, for no change of a byte gets past a sum.

use bytes::Bytes;
use sidestream_event::record::{
    BATCH_BYTES_MAX, BatchWriter, Flags, HEADER_BYTES, Header, RECORD_BYTES_MAX, Record, RecordError,
    VERSION, records, split,
};

use crate::bounded;

/// Tries one input.
pub fn run(bytes: &[u8]) {
    check(bytes);
    if let Some(sealed) = sealed(bytes) {
        check(&sealed);
    }
}

/// Sound batches.
pub fn seeds() -> Vec<Vec<u8>> {
    let batch = |count: i64, header: Header| {
        let mut writer = BatchWriter::new();
        for n in 0..count {
            let (key, headers) = (format!("key-{n}"), [("message-id", b"7".as_slice()), ("h", b"\xff")]);
            let headers = &headers[..n as usize % 3];
            writer
                .push(1_000 * n, Some(key.as_bytes()).filter(|_| n % 2 == 0), headers, b"value")
                .expect("it is short");
        }
        writer.finish(header).expect("there are records").to_vec()
    };
    let numbered =
        Header { producer_id: 7, producer_epoch: 1, first_sequence: 40, position: 9, ..Header::default() };
    vec![batch(1, Header::default()), batch(5, numbered), batch(200, Header::default())]
}

/// The same with lengths and sums that fit; none where it is shorter than a header.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = bytes.to_vec();
    let length = sealed.len() as u32;
    let (header, body) = sealed.split_first_chunk_mut::<HEADER_BYTES>()?;
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[4] = VERSION;
    header[6..8].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
    header[68..72].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let sum = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
    header[HEADER_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    Some(sealed)
}

fn check(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    // Nothing is made for what a header claims, nor for what a body holds: that it is shared is noted.
    let (header, body) = match bounded(64, || split(&bytes)) {
        Ok(split) => split,
        Err(_) => return,
    };
    assert!(header.length as usize == bytes.len() && bytes.len() <= BATCH_BYTES_MAX);
    assert!(header.next_offset() >= header.base_offset && header.next_sequence() >= header.first_sequence);
    let mut again = [0; HEADER_BYTES];
    header.write(&mut again);
    assert_eq!(Header::read(&again), Ok(header));
    // The spare room is the only thing that is not kept.
    assert_eq!(again[..SPARE], bytes[..SPARE]);
    let (count, ending) = bounded(0, || {
        let (mut count, mut ending) = (0, None);
        for record in records(&header, &body) {
            match record {
                Ok(record) => {
                    assert_eq!((record.offset, ending), (header.base_offset + count, None));
                    assert_eq!(record.headers.iter().count(), record.headers.len());
                    count += 1;
                }
                Err(error) => ending = Some(error),
            }
        }
        (count, ending)
    });
    if header.flags != Flags::PLAIN {
        assert_eq!((count, ending), (0, Some(RecordError::Wrapped { flags: header.flags })));
        return;
    }
    let plain = naive(&body, header.count);
    match ending {
        None => assert_eq!(count, u64::from(header.count)),
        Some(_) => assert!(plain.is_none(), "only one of two readers takes it: {ending:?}"),
    }
    let read: Result<Vec<Record<'_>>, _> = records(&header, &body).collect();
    let (Ok(read), Some(plain)) = (read, plain) else {
        assert!(ending.is_some(), "only one of two readers takes it");
        return;
    };
    let mut writer = BatchWriter::new();
    for (record, plain) in read.iter().zip(&plain) {
        let headers: Vec<(&str, &[u8])> = record.headers.iter().collect();
        assert_eq!(record.time, header.base_time.wrapping_add(plain.time));
        assert_eq!((record.key, &headers, record.value), (plain.key, &plain.headers, plain.value));
        writer.push(record.time, record.key, &headers, record.value).expect("what was read can be written");
    }
    let written = writer.finish(header).expect("there are records");
    let (other, written) = split(&written).expect("what was written can be read");
    for (one, two) in read.iter().zip(records(&other, &written)) {
        let two = two.expect("what was written can be read");
        assert_eq!((one.time, one.key, one.value), (two.time, two.key, two.value));
        assert!(one.headers.iter().eq(two.headers.iter()));
    }
}

/// A record as the other reader reads it.
struct Plain<'a> {
    time: i64,
    key: Option<&'a [u8]>,
    headers: Vec<(&'a str, &'a [u8])>,
    value: &'a [u8],
}

/// The format once more, as short as it can be said: whoever reads it otherwise is wrong.
fn naive(mut body: &[u8], count: u32) -> Option<Vec<Plain<'_>>> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let length = usize::try_from(number(&mut body)?).ok().filter(|length| *length <= RECORD_BYTES_MAX)?;
        let mut record = bytes(&mut body, length as u64)?;
        let time = number(&mut record)?;
        let time = (time >> 1) as i64 ^ -((time & 1) as i64);
        let key = match number(&mut record)? {
            0 => None,
            length => Some(bytes(&mut record, length - 1)?),
        };
        let mut headers = Vec::new();
        for _ in 0..number(&mut record)? {
            let length = number(&mut record)?;
            let name = std::str::from_utf8(bytes(&mut record, length)?).ok()?;
            let length = number(&mut record)?;
            headers.push((name, bytes(&mut record, length)?));
        }
        found.push(Plain { time, key, headers, value: record });
    }
    (found.len() == count as usize).then_some(found)
}

fn bytes<'a>(from: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(taken)
}

/// Seven bits to a byte, the lowest first, 64 at most.
fn number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u128;
    for place in 0..10 {
        let byte = bytes(from, 1)?[0];
        number |= u128::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return u64::try_from(number).ok();
        }
    }
    None
}

/// Where the spare room of a header begins.
const SPARE: usize = 100;
