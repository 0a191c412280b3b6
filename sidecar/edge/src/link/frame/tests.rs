use proptest::prelude::*;

use super::*;

fn all() -> Vec<Frame> {
    vec![
        Frame::Hello(Hello {
            version: 1,
            session: 7,
            first: 3,
            pipeline: "shop/orders".into(),
            edge: "a->b".into(),
        }),
        Frame::Welcome(Welcome {
            version: 1,
            session: u128::MAX,
            next: 3,
            settled: 2,
            released: 1,
            credit: 9,
            node: "node-1".into(),
        }),
        Frame::Refuse(Refused::NotAllowed),
        Frame::Batch { sequence: 5, events: Bytes::from_static(b"events") },
        Frame::Batch { sequence: 6, events: Bytes::new() },
        Frame::Acknowledge { settled: 4, released: 2, credit: u64::MAX },
        Frame::Ping { token: 1 },
        Frame::Pong { token: 2 },
        Frame::Bye,
        Frame::Ended {
            sequence: 6,
            ended: Ended { expired: 1, dropped: 2, unfit: 3, dead_lettered: u32::MAX },
        },
    ]
}

fn reader_of(bytes: &[u8]) -> FrameReader {
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    reader.buffer().extend_from_slice(bytes);
    reader
}

#[test]
fn every_frame_is_read_as_it_was_written_however_its_bytes_come() {
    let mut bytes = Vec::new();
    all().iter().for_each(|frame| frame.write(&mut bytes));
    for step in [1, 2, 3, 7, bytes.len()] {
        let (mut reader, mut read) = (FrameReader::new(FRAME_BYTES_MAX), Vec::new());
        for piece in bytes.chunks(step) {
            reader.buffer().extend_from_slice(piece);
            while let Some(frame) = reader.next_frame().unwrap() {
                read.push(frame);
            }
        }
        assert_eq!(read, all());
    }
}

#[test]
fn hostile_frames_are_refused_before_memory_is_taken_for_them() {
    let refused = |bytes: &[u8]| reader_of(bytes).next_frame().unwrap_err();
    assert_eq!(refused(&[0xff; 4]), ProtocolError::Length { bytes: u32::MAX });
    assert_eq!(refused(&[0; 4]), ProtocolError::Length { bytes: 0 });
    assert_eq!(refused(b"GET / HTTP/1.1\r\n"), ProtocolError::Length { bytes: 0x2054_4547 });
    assert_eq!(refused(&[1, 0, 0, 0, 99]), ProtocolError::Kind { kind: 99 });
    assert_eq!(refused(&[2, 0, 0, 0, PING, 0]), ProtocolError::Body { kind: PING });
    assert_eq!(refused(&[2, 0, 0, 0, BYE, 0]), ProtocolError::Body { kind: BYE });
    let mut hello = Vec::new();
    all()[0].write(&mut hello);
    let at = hello.len() - 4 - 2;
    hello[at] = 0xff;
    assert_eq!(refused(&hello), ProtocolError::Body { kind: HELLO });
    let mut short = FrameReader::new(100);
    short.buffer().extend_from_slice(&101u32.to_le_bytes());
    assert_eq!(short.next_frame().unwrap_err(), ProtocolError::Length { bytes: 101 });
    // What is announced and may come is not made room for before it does.
    let mut long = FrameReader::new(FRAME_BYTES_MAX);
    long.buffer().extend_from_slice(&(FRAME_BYTES_MAX as u32).to_le_bytes());
    assert_eq!(long.next_frame(), Ok(None));
    assert!(long.buffer().capacity() <= 2 * READ_BYTES, "{} bytes", long.buffer().capacity());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let _ = reader_of(&framed).next_frame();
        let _ = reader_of(&bytes).next_frame();
    }
}
