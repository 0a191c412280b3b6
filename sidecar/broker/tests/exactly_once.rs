//! What a pipeline from dnpipe to dnpipe needs to give each result once: results and source position in one batch, and a
//! producer that one process at a time has.

mod local;

use local::{Local, name, values};
use sidestream_broker::{Broker, JoinOptions, Limits, OpenProducer, PushError};
use sidestream_conformance::{Client, Dnpipe, From, Push, Service};
use sidestream_event::{
    native::Conditions,
    record::{BatchWriter, Header},
};
use sidestream_host::Random;

const PRODUCER: u64 = 0x51de;
const EVENTS: u64 = 120;

/// Two results of each third source record, none of the others: a pipeline that filters and multiplies.
fn results(offset: u64) -> Vec<String> {
    if offset.is_multiple_of(3) { vec![format!("{offset}a"), format!("{offset}b")] } else { Vec::new() }
}

/// Works like a pipeline's sink until its broker is gone: reads on from the position it finds in the output.
async fn work(broker: &Broker, random: &mut Random, steps: u64) -> Result<(), PushError> {
    let (input, output) = (name("input"), name("output"));
    let OpenProducer { epoch, mut next_sequence, position } =
        broker.open_producer(&output, 0, PRODUCER).await?;
    let mut at = position;
    for _ in 0..steps {
        let limits = Limits { max_bytes: 1 << 20, max_records: 1 + random.below(9) };
        let Ok(pulled) = broker.pull(&input, 0, From::Offset(at), limits, None).await else { return Ok(()) };
        let mut writer = BatchWriter::new();
        let none: [(&str, &[u8]); 0] = [];
        for (offset, _, _) in values(&pulled.batches, &[(pulled.from, pulled.next, 0)]) {
            for result in results(offset) {
                writer.push(0, None, &none, result.as_bytes()).unwrap();
            }
        }
        let count = writer.len() as u64;
        at = pulled.next;
        if count == 0 {
            continue;
        }
        let header = Header {
            producer_id: PRODUCER,
            producer_epoch: epoch,
            first_sequence: next_sequence,
            position: pulled.next,
            ..Header::default()
        };
        let batch = writer.finish(header).unwrap();
        let pushing = broker.push(&output, 0, batch, Conditions::default())?;
        // Sometimes the answer is not waited for: the crash comes before it.
        if random.below(3) > 0 {
            pushing.await?;
        }
        next_sequence += count;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_result_is_there_once_through_many_crashes() {
    let mut service = Local::simulated(7).await;
    let mut random = Random::seeded(7);
    service.create(Dnpipe::named("input")).await;
    service.create(Dnpipe::named("output")).await;
    for n in 0..EVENTS {
        service.client().await.push(Push::one("input", n)).await.unwrap();
    }
    for _ in 0..25 {
        let steps = random.below(4);
        // Refused or not, what it did not hear of is found in the output.
        let _ = work(service.broker(), &mut random, steps).await;
        service = service.crash().await;
    }
    work(service.broker(), &mut random, EVENTS * 2).await.unwrap();
    let expected: Vec<String> = (0..EVENTS).flat_map(results).collect();
    let client = service.client().await;
    let mut found = Vec::new();
    let mut from = From::First(0);
    loop {
        let pulled = client.pull("output", 0, from, u64::MAX, std::time::Duration::ZERO).await.unwrap();
        if pulled.records.is_empty() {
            break;
        }
        from = From::Offset(pulled.next);
        found.extend(pulled.records.into_iter().map(|(_, value)| value));
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_process_that_was_taken_over_can_push_no_more() {
    let service = Local::simulated(8).await;
    service.create(Dnpipe::named("output")).await;
    let (broker, output) = (service.broker().clone(), name("output"));
    let push = |broker: &Broker, opened: OpenProducer, position| {
        let mut writer = BatchWriter::new();
        let none: [(&str, &[u8]); 0] = [];
        writer.push(0, None, &none, b"result").unwrap();
        let header = Header {
            producer_id: PRODUCER,
            producer_epoch: opened.epoch,
            first_sequence: opened.next_sequence,
            position,
            ..Header::default()
        };
        broker.push(&output, 0, writer.finish(header).unwrap(), Conditions::default())
    };
    let first = broker.open_producer(&output, 0, PRODUCER).await.unwrap();
    assert_eq!(first, OpenProducer { epoch: 1, next_sequence: 0, position: 0 });
    push(&broker, first, 40).unwrap().await.unwrap();
    assert_eq!(broker.position(&output, 0, PRODUCER), Ok(40));
    let second = broker.open_producer(&output, 0, PRODUCER).await.unwrap();
    assert_eq!(second, OpenProducer { epoch: 2, next_sequence: 1, position: 40 });
    assert_eq!(push(&broker, first, 50).err(), Some(PushError::Fenced { current: 2 }));
    // Also through a crash: the fence is as durable as a push, though nothing was pushed under it.
    let service = service.crash().await;
    let broker = service.broker();
    assert_eq!(push(broker, first, 50).err(), Some(PushError::Fenced { current: 2 }));
    push(broker, second, 50).unwrap().await.unwrap();
    assert_eq!(broker.position(&output, 0, PRODUCER), Ok(50));
}

#[tokio::test]
async fn what_comes_again_comes_in_its_order_however_little_of_it_an_answer_has_room_for() {
    let service = Local::simulated(9).await;
    service.create(Dnpipe::named("orders")).await;
    let kib = [128, 100, 75, 12, 50, 175, 12, 5];
    for size in kib {
        service.client().await.push(Push::one("orders", "x".repeat(size << 10))).await.unwrap();
    }
    let (broker, orders) = (service.broker(), name("orders"));
    let member = broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    // Handed out in pieces of several batches, and not acknowledged.
    for max_records in [3, 1, 2, 1, 1] {
        let limits = Limits { max_bytes: 8 << 20, max_records };
        broker.next(&member, limits, None).await.unwrap();
    }
    let member = broker.join(&orders, "billing", "a", JoinOptions::default()).await.unwrap();
    let (mut found, mut answers) = (Vec::new(), 0);
    while found.len() < kib.len() {
        let limits = Limits { max_bytes: 256 << 10, ..Limits::default() };
        let claimed = broker.next(&member, limits, None).await.unwrap();
        let ranges = claimed.deliveries.iter().flat_map(|given| &given.ranges);
        let before = found.len();
        found.extend(ranges.flat_map(|(from, to, _)| *from..*to));
        assert!(found.len() > before, "{found:?}");
        answers += 1;
    }
    assert_eq!(found, (0..kib.len() as u64).collect::<Vec<_>>(), "{answers} answers");
    assert!(answers > 1);
}
