use proptest::prelude::*;

use super::*;
use crate::{Mark, Meta};

fn write(events: &[Event]) -> Bytes {
    let (mut writer, mut out) = (Writer::default(), Vec::new());
    writer.begin(&mut out);
    events.iter().for_each(|event| writer.write(event, &mut out).unwrap());
    out.into()
}

fn read_all(frame: &Bytes) -> Result<Vec<Event>, FrameError> {
    let mut batch = Batch::default();
    read(frame, &mut batch).map(|()| batch.drain().collect())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_filter("NaN is not equal to itself", |n| !n.is_nan()).prop_map(Value::Float),
        ".{0,40}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Bytes(bytes.into())),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec(("[a-d]{1,20}", inner), 0..8)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

prop_compose! {
    fn event()(
        body in value(),
        time in any::<i64>(),
        key in prop::option::of(".{0,20}"),
        source in "[a-b]{1,20}",
        headers in prop::option::of(prop::collection::vec((".{0,9}", ".{0,9}"), 0..3)),
        traceparent in prop::option::of(".{0,60}"),
    ) -> Event {
        let mut meta = Meta {
            time: Timestamp::from_nanos(time),
            key: key.map(Into::into),
            source: source.into(),
            ..Meta::default()
        };
        if let Some(headers) = headers {
            meta.context_mut().headers = headers.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
            meta.context_mut().traceparent = traceparent.map(Into::into);
        }
        Event { meta, body }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(events in prop::collection::vec(event(), 0..12)) {
        prop_assert_eq!(read_all(&write(&events)), Ok(events));
    }

    #[test]
    fn a_frame_read_into_used_storage_says_the_same(
        before in prop::collection::vec(event(), 0..6),
        events in prop::collection::vec(event(), 0..6),
    ) {
        let mut batch = Batch::of(before, Mark::none());
        batch.finish();
        read(&write(&events), &mut batch).unwrap();
        prop_assert_eq!(batch.events(), &events[..]);
    }

    #[test]
    fn a_damaged_frame_is_read_or_refused_and_never_panics(
        events in prop::collection::vec(event(), 1..6),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = write(&events).to_vec();
        for (place, byte) in places {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = read_all(&bytes.into());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_all(&[&[VERSION], &bytes[..]].concat().into());
    }
}

#[test]
fn a_name_that_comes_again_is_a_byte() {
    let body = |n: i64| -> Value { [("status", n), ("duration", n)].into_iter().collect() };
    let one = write(&[Event::new(body(1))]).len();
    let two = write(&[Event::new(body(1)), Event::new(body(2))]).len();
    assert_eq!(two - one, 1 + 1 + 2 + 2 * (1 + 2));
}

#[test]
fn counts_and_depths_that_lie_are_refused_before_anything_is_made() {
    let refused = |bytes: &[u8]| read_all(&Bytes::copy_from_slice(bytes)).unwrap_err();
    assert_eq!(refused(&[]), FrameError::Cut);
    assert_eq!(refused(&[9]), FrameError::Version { found: 9 });
    assert_eq!(refused(&[VERSION, 0, 0, LIST, 0xff, 0xff, 0xff, 0xff, 0x0f]), FrameError::Cut);
    assert_eq!(refused(&[VERSION, 0, 0, TEXT, 0x05, b'a']), FrameError::Cut);
    assert_eq!(refused(&[VERSION, 0, 0, TEXT, 1, 0xff]), FrameError::NotText);
    assert_eq!(refused(&[VERSION, 0, 0, 9]), FrameError::Nonsense { at: 3 });
    assert_eq!(refused(&[VERSION, 8, 0, 0]), FrameError::Nonsense { at: 1 });
    assert_eq!(refused(&[VERSION, 0, 0, MAP, 1, 1, NULL]), FrameError::Nonsense { at: 5 });
    assert_eq!(
        refused(&[VERSION, 0, 0, INT, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        FrameError::Nonsense { at: 4 }
    );
    let deep = [&[VERSION, 0, 0][..], &[LIST, 1].repeat(129), &[NULL]].concat();
    assert_eq!(refused(&deep), FrameError::TooDeep);
    let empty_events = [&[VERSION][..], &[0, 0, NULL].repeat(1 << 20)].concat();
    assert_eq!(refused(&empty_events), FrameError::TooLarge);
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| Value::from(vec![inner]))
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let deepest = Event::new(nested(128));
    assert_eq!(read_all(&write(std::slice::from_ref(&deepest))), Ok(vec![deepest]));
    let (mut writer, mut out) = (Writer::default(), Vec::new());
    let wide = Event::new(vec![Value::Null; BYTES_MAX / size_of::<Value>()]);
    for (event, error) in [(Event::new(nested(129)), FrameError::TooDeep), (wide, FrameError::TooLarge)] {
        writer.begin(&mut out);
        let before = out.clone();
        assert_eq!(writer.write(&event, &mut out), Err(error));
        assert_eq!(out, before);
    }
    writer.begin(&mut out);
    let half = Event::new(vec![Value::Null; BYTES_MAX / size_of::<Value>() * 2 / 3]);
    assert_eq!(writer.write(&half, &mut out), Ok(()));
    assert_eq!(writer.write(&half, &mut out), Err(FrameError::TooLarge), "the sum of a frame counts");
}
