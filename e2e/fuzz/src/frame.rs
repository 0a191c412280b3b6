//! Frames: those of events between two sidecars, and those of the native protocol however a socket cuts them.
//!
//! The first byte of an input says which of the two the rest is.

use bytes::Bytes;
use sidestream_event::{
    Batch, Event, Meta, Text, Timestamp, Value,
    frame::{self, Writer},
    native::{
        FRAME_BYTES_MAX, Frame, FrameError, Frames, HEAD_BYTES_MAX, PREFIX_BYTES, Request, write_frame,
    },
};

use crate::bounded;

/// Tries one input.
pub fn run(bytes: &[u8]) {
    match bytes.split_first() {
        Some((first, wire)) if first % 2 == 0 => native(usize::from(first / 2) + 1, wire),
        Some((_, wire)) => events(wire),
        None => {}
    }
}

/// Sound frames of both.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut wire = vec![0];
    for (request, tail) in [(7, &b"batch"[..]), (8, b"")] {
        write_frame(request, &Request::Ping, tail.len(), &mut wire).expect("it is short");
        wire.extend_from_slice(tail);
    }
    let cut = [&[60], &wire[1..], &[0xff; 3]].concat();
    vec![wire, cut, [&[1], &written(&sound())[..]].concat(), vec![1, 1]]
}

/// The same frames and the same error come out, in whatever pieces it goes in; and what is written of them is what came.
fn native(piece: usize, wire: &[u8]) {
    let whole = taken(wire, wire.len().max(1));
    assert_eq!(whole, taken(wire, piece), "pieces of {piece}");
    let mut again = Vec::new();
    for frame in &whole.0 {
        let length = frame.head.len() + frame.tail.len() + PREFIX_BYTES - 4;
        assert!(length + 4 <= FRAME_BYTES_MAX && frame.head.len() <= HEAD_BYTES_MAX);
        for number in [length as u32, frame.request, frame.head.len() as u32] {
            again.extend_from_slice(&number.to_le_bytes());
        }
        again.extend_from_slice(&frame.head);
        again.extend_from_slice(&frame.tail);
    }
    assert!(wire.starts_with(&again));
    // What is left over is no whole frame.
    let rest = &wire[again.len()..];
    let length = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize + 4);
    assert!(whole.1.is_some() || length.is_none_or(|length| length > rest.len()));
}

/// As a connection reads: it makes room, takes what comes, and looks what is whole.
fn taken(wire: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>) {
    // Reads of 16 KiB at least, and buffers that are twice as large each time.
    bounded(wire.len() * 64 + (256 << 10), || {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        for piece in wire.chunks(piece) {
            frames.make_room();
            frames.buffer().extend_from_slice(piece);
            loop {
                match frames.next_frame() {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
            assert!(frames.wanted().is_none_or(|wanted| wanted <= FRAME_BYTES_MAX));
        }
        (found, None)
    })
}

/// Events that can be read can be written, and then read as the same ones.
fn events(wire: &[u8]) {
    let wire = Bytes::copy_from_slice(wire);
    let mut batch = Batch::default();
    let read = bounded(wire.len() * 1024 + 4096, || frame::read(&wire, &mut batch));
    // Those before the one that is none are there after an error, too.
    let once = written(batch.events());
    let mut again = Batch::default();
    frame::read(&once, &mut again).expect("what was written can be read");
    assert_eq!(batch.len(), again.len());
    // Not the events, for NaN is nothing's equal.
    assert_eq!(once, written(again.events()));
    assert!(read.is_err() || !wire.is_empty());
}

fn written(events: &[Event]) -> Bytes {
    let (mut writer, mut out) = (Writer::default(), Vec::new());
    writer.begin(&mut out);
    events.iter().for_each(|event| writer.write(event, &mut out).expect("what was read can be written"));
    out.into()
}

fn sound() -> Vec<Event> {
    let list =
        Value::from(vec![Value::Bool(true), Value::Float(0.5), Value::Bytes(Bytes::from_static(b"\xff"))]);
    let fields = [("a", Value::Int(-3)), ("b", Value::Null), ("c", list), ("d", Value::from("text"))];
    let body: Value = fields.map(|(name, value)| (Text::from(name), value)).into_iter().collect();
    let mut meta = Meta {
        time: Timestamp::from_nanos(1_700_000_000_000_000_000),
        key: Some("k".into()),
        ..Meta::default()
    };
    meta.source = "till".into();
    meta.context_mut().headers = vec![("h".into(), "v".into())];
    meta.context_mut().traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    vec![Event { meta, body: body.clone() }, Event { meta: Meta::default(), body }]
}
