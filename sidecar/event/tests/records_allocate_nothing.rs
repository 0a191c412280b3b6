//! Reading a batch makes nothing, whatever it claims: what a stranger sends can't take memory.

use std::{alloc::System, hint::black_box};

use bytes::Bytes;
use sidestream_event::record::{BatchWriter, Flags, HEADER_BYTES, Header, records, split};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn read(batch: &Bytes) {
    let Ok((header, body)) = split(batch) else { return };
    for record in records(&header, &body).flatten() {
        black_box((record.key, record.value, record.headers.get("trace"), record.headers.iter().count()));
    }
}

fn wrap(body: &[u8], count: u32) -> Bytes {
    let mut header = [0; HEADER_BYTES];
    let length = (HEADER_BYTES + body.len()) as u32;
    Header { length, count, flags: Flags::PLAIN, body_crc: crc32c::crc32c(body), ..Header::default() }
        .write(&mut header);
    [&header[..], body].concat().into()
}

#[test]
fn no_batch_costs_an_allocation_to_read() {
    let mut writer = BatchWriter::new();
    for n in 0..1000 {
        writer.push(n, Some(b"key"), &[("trace", b"value")], b"a value of some length").unwrap();
    }
    let mut batches =
        vec![writer.finish(Header::default()).unwrap(), Bytes::new(), Bytes::from(vec![0xff; 4096])];
    // Lengths, counts of headers and sizes of keys that promise the world.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for prefix in [&[][..], &[60], &[60, 0], &[60, 0, 0], &[60, 0, 0, 1]] {
        let mut body = prefix.to_vec();
        body.extend_from_slice(&huge);
        body.resize(64, 0);
        batches.push(wrap(&body, 16));
    }
    let region = Region::new(ALLOCATOR);
    batches.iter().for_each(read);
    let change = region.change();
    // A whole `Bytes` made of a `Vec` gets its shared count when it is first sliced.
    assert!(
        change.allocations <= batches.len() && change.bytes_allocated <= 64 * batches.len(),
        "{change:?}"
    );
}
