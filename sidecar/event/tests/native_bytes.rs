//! The bytes of every message of version 1 of the native protocol are those of `native-v1.txt`, for ever: programs of other releases
//! and in other languages read them. `UPDATE_BYTES=1` adds what is new.

use std::fmt::Write;

use sidestream_event::native::{
    Answer, Claimed, Conditions, DamageView, DiskView, DnpipeName, DnpipeView, Frames, From, GroupView,
    Incarnation, Member, MemberView, MoveAnswer, MoveRequest, PartitionView, Refusal, Request, Share,
    Verified, write_frame,
};

fn name() -> DnpipeName {
    "shop/orders".parse().unwrap()
}

fn member() -> Member {
    Member { dnpipe: name(), group: "billing".into(), name: "one".into() }
}

fn requests() -> Vec<Request> {
    let only_if = Conditions { epoch: Some(3), next_offset: None };
    let pull = |from| Request::Pull {
        dnpipe: name(),
        partition: 2,
        from,
        max_bytes: 1 << 20,
        max_records: 500,
        wait_millis: 1000,
    };
    vec![
        Request::Ping,
        Request::List,
        Request::Describe { dnpipe: name() },
        Request::Push { dnpipe: name(), partition: 2, only_if },
        Request::Push { dnpipe: name(), partition: 0, only_if: Conditions::default() },
        pull(From::Offset(300)),
        pull(From::Time(-1)),
        pull(From::First(0)),
        pull(From::Last(7)),
        Request::Join { member: member(), auto_ack: true },
        Request::Next { member: member(), max_bytes: 1, max_records: 2, wait_millis: 3 },
        Request::Ack { member: member(), partition: 1, ranges: vec![(4, 6), (9, 10)] },
        Request::Return { member: member(), partition: 1, ranges: vec![(4, 6)] },
        Request::Leave { member: member() },
        Request::Groups { dnpipe: name() },
        Request::Seek { dnpipe: name(), group: "billing".into(), partition: Some(1), to: From::First(0) },
        Request::Redrive { dnpipe: name(), group: "billing".into() },
        Request::Reset { dnpipe: name() },
        Request::Verify { dnpipe: None },
        Request::ListBehind { dnpipe: name() },
        Request::JoinToHold { member: member() },
        Request::Open { dnpipe: name(), partition: 2, producer: 300 },
        Request::Move(MoveRequest::Copy {
            dnpipe: name(),
            partition: 2,
            from: Some(300),
            max_bytes: 1 << 20,
        }),
        Request::Move(MoveRequest::Freeze { dnpipe: name(), to: 1 }),
        Request::Move(MoveRequest::State { dnpipe: name(), token: 300, from: 4, max_bytes: 1 << 20 }),
        Request::Move(MoveRequest::Release { dnpipe: name(), token: 300, to: 1 }),
        Request::Move(MoveRequest::Thaw { dnpipe: name(), token: 300 }),
    ]
}

fn answers() -> Vec<Answer> {
    let dnpipe = DnpipeView {
        name: name(),
        epoch: 1,
        durability: "Device".into(),
        quota_bytes: Some(1 << 30),
        used_bytes: 4096,
        retention_millis: None,
        retention_bytes: None,
        partitions: vec![PartitionView { owner: None, first: 0, end: 9 }],
        disk: DiskView { driver: "file".into(), reason: "why".into() },
    };
    let group = GroupView {
        name: "billing".into(),
        members: vec![MemberView { name: "one".into(), partitions: vec![0] }],
        cursors: vec![3],
        lag_records: 6,
        lag_seconds: 1.5,
        dead_letter: Some(name()),
    };
    let share = Share { partition: 0, epoch: 1, bytes: 200, ranges: vec![(3, 5, 1)] };
    let damage =
        DamageView { dnpipe: Some(name()), partition: Some(0), offsets: Some((3, 5)), reason: "why".into() };
    let mut answers = vec![
        Answer::Pong,
        Answer::Done,
        Answer::Dnpipes(vec![dnpipe.clone()]),
        Answer::Dnpipe(dnpipe),
        Answer::Pushed { base_offset: 300, epoch: 1 },
        Answer::Pulled { from: 1, next: 2, epoch: 3, first: 0, end: 9 },
        Answer::Joined { partitions: vec![0, 2] },
        Answer::Claimed(Claimed { shares: vec![share], partitions: vec![0] }),
        Answer::Groups(vec![group]),
        Answer::Redriven { records: 4, gone: 1 },
        Answer::Reset { epoch: 2 },
        Answer::Verified(Verified { batches: 2, bytes: 400, damage: vec![damage] }),
    ];
    answers.extend(refusals().into_iter().map(Answer::Refused));
    answers.push(Answer::Opened(Incarnation { epoch: 2, next_sequence: 300, position: 7 }));
    let owner = Some("dnpipes-default-1.dnpipes-default.shop.svc:7420".into());
    answers.extend([owner, None].map(|owner| Answer::Refused(Refusal::NotOwner { owner })));
    let moves = [
        MoveAnswer::Copied { life: 300, first: 1, end: 9 },
        MoveAnswer::Frozen {
            token: 300,
            term: 2,
            ends: vec![9, 300],
            lives: vec![300, 1 << 64],
            state_bytes: 1000,
        },
        MoveAnswer::State,
        MoveAnswer::Done,
        MoveAnswer::Stale { what: "why".into() },
        MoveAnswer::Busy { what: "why".into() },
    ];
    answers.extend(moves.map(Answer::Move));
    answers
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::UnknownDnpipe(name()),
        Refusal::UnknownPartition { partition: 8, partitions: 8 },
        Refusal::UnknownGroup { group: "billing".into() },
        Refusal::NotMember { group: "billing".into() },
        Refusal::NotAllowed { who: "spiffe://d/ns/a/sa/b".into(), what: "push".into() },
        Refusal::BadBatch { reason: "why".into() },
        Refusal::TooLarge { bytes: 5, max: 4 },
        Refusal::WrongEpoch { current: 1 },
        Refusal::WrongOffset { next: 300 },
        Refusal::OutOfRange { first: 1, end: 2 },
        Refusal::Full { what: "quota".into(), limit: 1024 },
        Refusal::OutOfSequence { expected: 3 },
        Refusal::Fenced,
        Refusal::Damaged { from: 1, to: 2 },
        Refusal::Locked { secret: "orders-key".into(), key: "key".into(), reason: "is missing".into() },
        Refusal::Busy,
        Refusal::Stopping,
        Refusal::Failed { reason: "why".into() },
        Refusal::Bad { reason: "why".into() },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to memory does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn every_message_has_the_bytes_it_always_had_and_reads_back() {
    let mut text = String::new();
    for (number, request) in requests().into_iter().enumerate() {
        let bytes = frame(number, &request);
        let mut frames = Frames::default();
        frames.buffer().extend_from_slice(&bytes);
        assert_eq!(frames.next_frame().unwrap().unwrap().read::<Request>().unwrap(), request);
        let _ = writeln!(text, "{request:?}\n    {}", hex(&bytes));
    }
    for (number, answer) in answers().into_iter().enumerate() {
        let bytes = frame(number, &answer);
        let mut frames = Frames::default();
        frames.buffer().extend_from_slice(&bytes);
        assert_eq!(frames.next_frame().unwrap().unwrap().read::<Answer>().unwrap(), answer);
        let _ = writeln!(text, "{answer:?}\n    {}", hex(&bytes));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/native-v1.txt");
    if std::env::var_os("UPDATE_BYTES").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == text, "the bytes of the protocol have changed; that takes a new version. Now:\n{text}");
}

fn frame<T: serde::Serialize>(number: usize, message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(number as u32, message, 0, &mut bytes).unwrap();
    bytes
}
