//! What the native protocol says in its frames and before them: requests and answers, which postcard writes, greetings, and
//! where the records of a push are.
//!
//! The first byte of an input says what the rest is.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sidestream_event::native::{
    Answer, Conditions, DnpipeName, Frame, Frames, From, HEAD_BYTES_MAX, Member, PREAMBLE_BYTES, Preamble,
    Request, Share, VERSION_MAX, VERSION_MIN, Verdict, choose, read_places, write_frame, write_places,
};
use sidestream_event::native::{Claimed, MoveRequest, Refusal};

use crate::bounded;

/// Tries one input.
pub fn run(bytes: &[u8]) {
    let Some((what, bytes)) = bytes.split_first() else { return };
    match what % 5 {
        0 => head::<Request>(bytes),
        1 => head::<Answer>(bytes),
        2 => preamble(bytes),
        3 => places(bytes),
        _ => name(bytes),
    }
}

/// Sound ones of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let dnpipe: DnpipeName = "shop/orders".parse().expect("a name");
    let member = Member { dnpipe: dnpipe.clone(), group: "billing".into(), name: "one".into() };
    let requests = [
        Request::Ping,
        Request::Push {
            dnpipe: dnpipe.clone(),
            partition: 2,
            only_if: Conditions { epoch: Some(3), next_offset: Some(300) },
        },
        Request::Pull {
            dnpipe: dnpipe.clone(),
            partition: 2,
            from: From::Time(-1),
            max_bytes: 1 << 20,
            max_records: 500,
            wait_millis: 1000,
        },
        Request::Join { member: member.clone(), auto_ack: true },
        Request::Ack { member: member.clone(), partition: 1, ranges: vec![(4, 6), (9, 10)] },
        Request::Seek {
            dnpipe: dnpipe.clone(),
            group: "billing".into(),
            partition: Some(1),
            to: From::Last(7),
        },
        Request::Verify { dnpipe: None },
        Request::Move(MoveRequest::Copy {
            dnpipe: dnpipe.clone(),
            partition: 2,
            from: Some(300),
            max_bytes: 1,
        }),
    ];
    let share = Share { partition: 2, epoch: 3, bytes: 400, ranges: vec![(4, 9, 1), (12, 13, 2)] };
    let answers = [
        Answer::Pong,
        Answer::Pushed { base_offset: 300, epoch: 3 },
        Answer::Joined { partitions: vec![1, 2] },
        Answer::Claimed(Claimed { shares: vec![share], partitions: vec![2] }),
        Answer::Refused(Refusal::UnknownDnpipe(dnpipe)),
        Answer::Refused(Refusal::NotOwner { owner: Some("one:7420".into()) }),
    ];
    let mut seeds: Vec<Vec<u8>> =
        requests.iter().map(|request| [&[0], &encoded(request)[..]].concat()).collect();
    seeds.extend(answers.iter().map(|answer| [&[1], &encoded(answer)[..]].concat()));
    seeds.push([&[2], &Preamble { oldest: 1, newest: 3 }.write()[..]].concat());
    seeds.push([&[3, 4], &7u64.to_le_bytes()[..], &write_places(&[(7, 1), (20, 3)])].concat());
    seeds.push(b"\x04shop/orders".to_vec());
    seeds
}

/// What is read is written in as many bytes or fewer, and read as the same.
fn head<T: for<'a> Deserialize<'a> + Serialize>(bytes: &[u8]) {
    let frame = Frame { request: 1, head: Bytes::copy_from_slice(bytes), tail: Bytes::new() };
    // A list of so many elements may follow; each is a byte here and a few hundred in memory.
    let Ok(read) = bounded(bytes.len() * 1024 + 4096, || frame.read::<T>()) else { return };
    if bytes.len() > HEAD_BYTES_MAX {
        return;
    }
    let once = encoded(&read);
    assert!(once.len() <= bytes.len(), "{} bytes were written of {}", once.len(), bytes.len());
    let frame = Frame { request: 1, head: once.clone(), tail: Bytes::new() };
    let again = frame.read::<T>().expect("what was written can be read");
    // Not the values, for NaN is nothing's equal.
    assert_eq!(once, encoded(&again));
}

/// As it stands in a frame.
fn encoded(head: &impl Serialize) -> Bytes {
    let mut wire = Vec::new();
    write_frame(1, head, 0, &mut wire).expect("it fits into a frame");
    let mut frames = Frames::default();
    frames.buffer().extend_from_slice(&wire);
    frames.next_frame().expect("a sound frame").expect("a whole frame").head
}

fn preamble(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<PREAMBLE_BYTES>() else { return };
    let Ok(client) = Preamble::read(bytes) else {
        assert!(Verdict::read(bytes).is_err(), "both begin with the same eight bytes");
        return;
    };
    assert_eq!(client.write(), *bytes);
    let verdict = Verdict::read(bytes).expect("both begin with the same eight bytes");
    assert_eq!(Verdict::read(&verdict.write()), Ok(verdict));
    match choose(client, VERSION_MIN, VERSION_MAX) {
        Verdict::Welcome { version } => {
            assert!(
                (client.oldest..=client.newest).contains(&version)
                    && (VERSION_MIN..=VERSION_MAX).contains(&version)
            );
        }
        verdict => {
            let is_common =
                (VERSION_MIN..=VERSION_MAX).any(|version| (client.oldest..=client.newest).contains(&version));
            assert!(!is_common, "{verdict}, and both speak the same version");
        }
    }
}

/// How many records, the first offset, and then the tail.
fn places(bytes: &[u8]) {
    let Some((&count, bytes)) = bytes.split_first() else { return };
    let Some((base, tail)) = bytes.split_first_chunk() else { return };
    let (count, base) = (usize::from(count), u64::from_le_bytes(*base));
    if tail.is_empty() && base.checked_add(count as u64).is_none() {
        // A header that was read says no such thing.
        return;
    }
    let found = bounded(count * 8 + 64, || read_places(tail, base, count));
    let (runs, rest) = tail.as_chunks::<12>();
    let plain: Vec<u64> = runs
        .iter()
        .flat_map(|run| {
            let (first, counted) = run.split_at(8);
            let first = u64::from_le_bytes(first.try_into().expect("eight bytes"));
            let counted = u32::from_le_bytes(counted.try_into().expect("four bytes"));
            // One more than there may be is as wrong as any.
            (0..u64::from(counted).min(257)).map(move |n| first.wrapping_add(n))
        })
        .take(count + 1)
        .collect();
    match (tail.is_empty(), found) {
        (true, found) => assert_eq!(found, Some((base..base + count as u64).collect())),
        (false, Some(found)) => assert_eq!((&found, rest.len()), (&plain, 0)),
        (false, None) => assert!(plain.len() != count || !rest.is_empty()),
    }
}

/// A name is one by a rule that any program can say, and is written as it was read.
fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let is_label = |label: &str, most: usize| {
        (1..=most).contains(&label.len())
            && label.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let (namespace, own) = text.split_once('/').unwrap_or(("default", text));
    match text.parse::<DnpipeName>() {
        Ok(name) => {
            assert!(is_label(namespace, 63) && is_label(own, 59), "{text:?}");
            assert_eq!(name.to_string(), format!("{namespace}/{own}"));
        }
        Err(bad) => {
            assert!(!is_label(namespace, 63) || !is_label(own, 59), "{text:?}");
            assert!(bad.text.chars().count() <= 100 && text.starts_with(&bad.text));
        }
    }
}
