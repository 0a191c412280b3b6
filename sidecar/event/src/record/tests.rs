use proptest::prelude::*;

use super::*;

/// A record to be written: its time, key, headers and value.
type Given = (i64, Option<Vec<u8>>, Vec<(String, Vec<u8>)>, Vec<u8>);

fn given() -> impl Strategy<Value = Given> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    (
        any::<i64>(),
        prop::option::of(bytes(30)),
        prop::collection::vec((".{0,9}", bytes(20)), 0..4),
        bytes(300),
    )
}

fn write(records: &[Given], header: Header) -> Bytes {
    let mut writer = BatchWriter::new();
    for (time, key, headers, value) in records {
        writer.push(*time, key.as_deref(), headers, value).unwrap();
    }
    writer.finish(header).unwrap()
}

fn read(batch: &Bytes) -> Result<Vec<(u64, Given)>, RecordError> {
    let (header, body) = split(batch)?;
    let owned = |record: Record<'_>| {
        let headers = record.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
        (record.offset, (record.time, record.key.map(<[u8]>::to_vec), headers, record.value.to_vec()))
    };
    records(&header, &body).map(|record| record.map(owned)).collect()
}

/// A batch whose header and sums are right whatever the body is.
fn wrap(body: &[u8], count: u32, flags: Flags) -> Bytes {
    let mut header = [0; HEADER_BYTES];
    let length = (HEADER_BYTES + body.len()) as u32;
    Header { length, count, flags, body_crc: crc32c::crc32c(body), ..Header::default() }.write(&mut header);
    [&header[..], body].concat().into()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        given in prop::collection::vec(given(), 1..20),
        base_offset in 0..u64::MAX - 20,
        (producer_id, first_sequence) in (any::<u64>(), 0..u64::MAX - 20),
    ) {
        let header = Header { base_offset, producer_id, first_sequence, ..Header::default() };
        let batch = write(&given, header);
        let found = split(&batch).unwrap().0;
        prop_assert_eq!((found.producer_id, found.next_sequence()), (producer_id, first_sequence + given.len() as u64));
        let expected: Vec<_> = given.into_iter().enumerate().map(|(n, given)| (base_offset + n as u64, given)).collect();
        prop_assert_eq!(read(&batch).unwrap(), expected);
    }

    #[test]
    fn headers_are_read_as_they_were_written(
        numbers in prop::array::uniform8(any::<u32>()),
        longs in prop::array::uniform8(0..u64::MAX >> 1),
        times in any::<(i64, i64)>(),
        flags in 0u8..8,
    ) {
        let header = Header {
            length: (HEADER_BYTES + 400) as u32,
            flags: Flags(flags),
            partition: numbers[0],
            leader_epoch: numbers[1],
            base_offset: longs[0],
            reset_epoch: numbers[2],
            count: 1 + numbers[3] % 100,
            base_time: times.0,
            producer_id: longs[1],
            producer_epoch: numbers[4],
            skipped: numbers[5],
            first_sequence: longs[2],
            chain: numbers[6],
            body_crc: numbers[7],
            append_time: times.1,
            position: longs[3],
            place: longs[4],
            frontier: numbers[0] ^ numbers[7],
            salt: numbers[1] ^ numbers[6],
        };
        let mut bytes = [0; HEADER_BYTES];
        header.write(&mut bytes);
        prop_assert_eq!(Header::read(&bytes), Ok(header));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(split(&bytes.into()).is_err(), "a sum of 32 bits was guessed");
    }

    /// Whoever sends a batch can make its sums right: then only the reader stands between its body and the program.
    #[test]
    fn any_body_under_right_sums_is_read_or_refused(
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..4, Just(0xff)], 4..200),
        count in 1u32..50,
    ) {
        let batch = wrap(&body, count, Flags::PLAIN);
        let Ok((header, body)) = split(&batch) else { return Ok(()) };
        let found: Vec<_> = records(&header, &body).collect();
        let sound: Vec<_> = found.iter().flatten().collect();
        let errors = found.len() - sound.len();
        prop_assert!(sound.len() <= count as usize && errors <= 1);
        prop_assert!(errors == 1 || sound.len() == count as usize, "records are missing and nobody says so");
        prop_assert!(errors == 0 || found.last().is_some_and(Result::is_err), "nothing comes after an error");
        let bytes: usize = sound.iter().map(|record| record.raw.len()).sum();
        prop_assert!(bytes <= body.len());
    }

    #[test]
    fn a_record_taken_from_one_batch_into_another_is_the_same(given in prop::collection::vec(given(), 2..12)) {
        let batch = write(&given, Header::default());
        let (header, body) = split(&batch).unwrap();
        let mut writer = BatchWriter::new();
        for record in records(&header, &body).skip(1) {
            writer.push_raw(header.base_time, record.unwrap().raw).unwrap();
        }
        let rest = read(&writer.finish(Header::default()).unwrap()).unwrap();
        let rest: Vec<_> = rest.into_iter().map(|(_, given)| given).collect();
        prop_assert_eq!(rest, &given[1..]);
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let headers = [("trace", b"\x00\xff".to_vec())];
    let mut writer = BatchWriter::new();
    for n in 0..5 {
        writer.push(n, Some(b"key"), &headers, b"a value of some length").unwrap();
    }
    let batch = writer.finish(Header::default()).unwrap();
    for bit in 0..batch.len() * 8 {
        let mut flipped = batch.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(split(&flipped.into()).is_err(), "bit {bit}");
    }
    for length in 0..batch.len() {
        assert!(split(&batch.slice(..length)).is_err(), "cut at {length}");
    }
    let longer: Bytes = [&batch[..], b"x"].concat().into();
    assert_eq!(
        split(&longer),
        Err(RecordError::Cut { wanted: batch.len() - HEADER_BYTES, found: batch.len() - HEADER_BYTES + 1 })
    );
}

/// Made by a program that shares nothing with this one, from the drawing at the top of `record.rs`. It must be read for ever.
#[test]
fn a_batch_of_version_1_looks_like_this() {
    let fixture = concat!(
        "1401000001007000070000000300000000000000020000000200000003000000000053a886dc791888776655443322110900000001000000",
        "0000000000010000efbeadde2d661e1b050053a886dc79184d000000000000000010000004000000a00f00000000000000000000cf9d2b3d",
        "1300036b31010574726163650200ff68656c6c6f04b7170000890180a8d6b9070100",
    );
    let mut bytes: Vec<u8> = (0..fixture.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&fixture[at..at + 2], 16).unwrap())
        .collect();
    bytes.extend_from_slice(&[b'x'; 130]);
    let batch = Bytes::from(bytes);
    let base_time = 1_763_683_200_000_000_000;
    let (header, body) = split(&batch).unwrap();
    let expected = Header {
        length: 276,
        flags: Flags::PLAIN,
        partition: 7,
        leader_epoch: 3,
        base_offset: 1 << 33,
        reset_epoch: 2,
        count: 3,
        base_time,
        producer_id: 0x1122_3344_5566_7788,
        producer_epoch: 9,
        skipped: 1,
        first_sequence: 1 << 40,
        chain: 0xdead_beef,
        body_crc: 0x1b1e_662d,
        append_time: base_time + 5,
        position: 77,
        place: 4 << 32 | 4096,
        frontier: 4000,
        salt: 0,
    };
    assert_eq!(header, expected);
    let given: Vec<Given> = vec![
        (base_time, Some(b"k1".to_vec()), vec![("trace".into(), b"\x00\xff".to_vec())], b"hello".to_vec()),
        (base_time - 1500, None, vec![], vec![]),
        (base_time + 1_000_000_000, Some(vec![]), vec![], vec![b'x'; 130]),
    ];
    let expected: Vec<_> =
        given.iter().cloned().enumerate().map(|(n, given)| ((1 << 33) + n as u64, given)).collect();
    assert_eq!(read(&batch).unwrap(), expected);
    let written = write(&given, Header { count: 0, ..header });
    assert_eq!(written.slice(HEADER_BYTES..), body);
    assert_eq!(written.slice(..HEADER_BYTES), batch.slice(..HEADER_BYTES));
}

#[test]
fn what_a_header_claims_is_bounded_before_anybody_believes_it() {
    let header = Header { length: HEADER_BYTES as u32 + 40, count: 1, ..Header::default() };
    let read = |change: &dyn Fn(&mut Header)| {
        let (mut header, mut bytes) = (header, [0; HEADER_BYTES]);
        change(&mut header);
        header.write(&mut bytes);
        Header::read(&bytes)
    };
    assert!(read(&|_| ()).is_ok());
    for length in [0, HEADER_BYTES as u32 - 1, BATCH_BYTES_MAX as u32 + 1, u32::MAX] {
        assert_eq!(read(&|header| header.length = length), Err(RecordError::Length { found: length }));
    }
    assert_eq!(read(&|header| header.count = 0), Err(RecordError::Empty));
    assert_eq!(read(&|header| header.count = 11), Err(RecordError::Count { found: 11 }));
    assert!(read(&|header| header.count = 10).is_ok());
    assert_eq!(read(&|header| header.base_offset = u64::MAX), Err(RecordError::Count { found: 1 }));
    assert_eq!(read(&|header| header.first_sequence = u64::MAX), Err(RecordError::Count { found: 1 }));
    assert_eq!(read(&|header| header.flags = Flags(8)), Err(RecordError::UnknownFlags { found: 8 }));
    // A compressed body may hold more records than it has bytes, within what a batch may.
    assert!(read(&|header| (header.count, header.flags) = (1000, Flags::COMPRESSED)).is_ok());
    let (most, flags) = ((BATCH_BYTES_MAX / 4) as u32, Flags::COMPRESSED);
    assert_eq!(
        read(&|header| (header.count, header.flags) = (most + 1, flags)),
        Err(RecordError::Count { found: most + 1 })
    );
}

#[test]
fn another_version_is_named_whatever_its_sums() {
    let mut bytes = [0; HEADER_BYTES];
    Header { length: HEADER_BYTES as u32 + 4, count: 1, ..Header::default() }.write(&mut bytes);
    bytes[4] = 2;
    assert_eq!(Header::read(&bytes), Err(RecordError::Version { found: 2 }));
    (bytes[4], bytes[6]) = (1, 96);
    assert_eq!(Header::read(&bytes), Err(RecordError::HeaderLength { found: 96 }));
    assert_eq!(Header::read(&[]), Err(RecordError::Cut { wanted: HEADER_BYTES, found: 0 }));
}

#[test]
fn a_body_that_lies_about_its_records_is_found_out() {
    let errors = |body: &[u8], count| {
        let batch = wrap(body, count, Flags::PLAIN);
        let (header, body) = split(&batch).unwrap();
        records(&header, &body).find_map(Result::err)
    };
    let one = [4, 0, 0, 0, b'v'];
    assert_eq!(errors(&one, 1), None);
    assert_eq!(errors(&one.repeat(2), 1), Some(RecordError::Miscounted { claimed: 1 }));
    let (two, cut) = (one.repeat(2), [one.repeat(2), vec![9, 0, 0]].concat());
    assert_eq!(errors(&[two.clone(), vec![0; 2]].concat(), 3), Some(RecordError::Nonsense { at: 11 }));
    assert_eq!(errors(&cut, 3), Some(RecordError::Nonsense { at: 10 }));
    // A length of 2^63, one that does not end, a record that is too large, a key and headers beyond the record.
    for body in [
        [&[0xff; 8][..], &[0x7f, 0, 0]].concat(),
        vec![0xff; 12],
        vec![4, 0, 9, 0, b'v'],
        vec![5, 0, 0, 9, b'n', b'v'],
        vec![5, 0, 0, 1, 9, b'v'],
    ] {
        assert!(matches!(errors(&body, 1), Some(RecordError::Nonsense { .. })), "{body:?}");
    }
    assert_eq!(errors(&[6, 0, 0, 1, 1, 0xff, 0], 1), Some(RecordError::NotText { at: 4 }));
    let mut large = vec![0; RECORD_BYTES_MAX + 4];
    large[..3].copy_from_slice(&[0x81, 0x80, 0x40]);
    assert_eq!(errors(&large, 1), Some(RecordError::RecordTooLarge { bytes: RECORD_BYTES_MAX + 1 }));
}

#[test]
fn records_that_are_wrapped_are_not_guessed_at() {
    let batch = wrap(b"whatever this is", 3, Flags::ENCRYPTED.and(Flags::COMPRESSED));
    let (header, body) = split(&batch).unwrap();
    let found: Vec<_> = records(&header, &body).collect();
    assert_eq!(found, [Err(RecordError::Wrapped { flags: header.flags })]);
}

#[test]
fn a_writer_refuses_what_no_reader_would_take_and_goes_on() {
    let mut writer = BatchWriter::new();
    let none: [(&str, &[u8]); 0] = [];
    assert_eq!(writer.finish(Header::default()), Err(RecordError::Empty));
    // Length of the record without time, key and headers, each of one byte.
    let largest = vec![7; RECORD_BYTES_MAX - 3];
    let larger = vec![7; RECORD_BYTES_MAX - 2];
    assert_eq!(
        writer.push(0, None, &none, &larger),
        Err(RecordError::RecordTooLarge { bytes: RECORD_BYTES_MAX + 1 })
    );
    let mut pushed = 0;
    let refused = loop {
        match writer.push(0, None, &none, &largest) {
            Ok(()) => pushed += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, RecordError::BatchFull { bytes, left } if bytes > left));
    assert_eq!((pushed, writer.len()), (3, 3));
    let batch = writer.finish(Header::default()).unwrap();
    assert!(batch.len() <= BATCH_BYTES_MAX && writer.is_empty());
    assert_eq!(read(&batch).unwrap().len(), 3);
    writer.push(0, None, &none, &largest).unwrap();
    assert_eq!(read(&writer.finish(Header::default()).unwrap()).unwrap().len(), 1);
}

#[test]
fn a_small_bound_still_lets_one_record_in() {
    let mut writer = BatchWriter::bounded(10);
    let none: [(&str, &[u8]); 0] = [];
    writer.push(0, None, &none, &[1; 500]).unwrap();
    assert!(matches!(writer.push(0, None, &none, b""), Err(RecordError::BatchFull { .. })));
}

#[test]
fn an_error_is_a_clause_that_says_what_to_do_where_something_can_be_done() {
    let error = RecordError::RecordTooLarge { bytes: 2 << 20 };
    assert_eq!(
        error.to_string(),
        "a record of 2097152 bytes; one has 1048576 at most: push it in parts, or where it is"
    );
}
