//! Queues on a simulated disk: what is handed out after crashes, refusals and damage.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sidestream_event::{Batch, Event, Mark, Settle, Settled, Span, frame};
use sidestream_host::{
    Clock, Random,
    disk::{SimDisk, sim::Fault},
};
use sidestream_log::{Journal, Settings};
use sidestream_spill::{Limits, Name, Reader, Spills, Spool, View};
use tokio::{runtime::Handle, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const GIB: Limits = Limits { bytes_max: 1 << 30 };

fn settings() -> Settings {
    Settings { segment_bytes: 256 << 10, reserve_bytes: 0, zero_ahead_bytes: 8 << 10, ..Settings::default() }
}

async fn open(disk: &SimDisk, limits: Limits) -> (Journal, Spills) {
    let clock = Clock::machine();
    let (journal, _) = Journal::open(Arc::new(disk.clone()), settings(), clock.clone()).unwrap();
    let spills = Spills::open(journal.clone(), limits, clock, Handle::current()).await.unwrap();
    (journal, spills)
}

fn name() -> Name {
    Name { pipeline: "plant/meter".into(), stage: "tell".into() }
}

/// Who sent the events; it hears of each batch once.
#[derive(Default)]
struct Source(std::sync::Mutex<Vec<Settled>>);

impl Settle for Source {
    fn settled(&self, settled: Settled) {
        self.0.lock().unwrap().push(settled);
    }
    fn released(&self, _: Span) {}
}

impl Source {
    fn batch(self: &Arc<Self>, numbers: std::ops::Range<u64>) -> Batch {
        let span = Span { first: numbers.start, count: (numbers.end - numbers.start) as u32 };
        let events = numbers.clone().map(|number| Event::new(number as i64)).collect();
        let mut batch = Batch::of(events, Mark::new(span, self.clone()));
        for (number, event) in numbers.zip(batch.events_mut()) {
            event.meta.sequence = number;
        }
        batch
    }

    fn answered(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|settled| u64::from(settled.span.count)).sum()
    }

    /// The first events of the batches that were answered, in order.
    fn firsts(&self) -> Vec<u64> {
        let mut firsts: Vec<u64> = self.0.lock().unwrap().iter().map(|settled| settled.span.first).collect();
        firsts.sort_unstable();
        firsts
    }

    /// Waits until the events of so many were answered.
    async fn until(&self, events: u64) {
        until(async || self.answered() >= events).await;
    }
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let looks = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, looks).await.expect("it does not come to pass");
}

fn numbers(frame: &Bytes) -> Vec<u64> {
    let mut batch = Batch::default();
    frame::read(frame, &mut batch).unwrap();
    let numbers = batch.events().iter().map(|event| event.body.as_f64().unwrap() as u64).collect();
    batch.finish();
    numbers
}

/// Takes `count` events as a stage does that delivers them; says what it was handed.
async fn deliver(spool: &Arc<Spool>, reader: &mut Reader, position: &mut u64, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let handed = timeout(PATIENCE, reader.next()).await.expect("nothing comes").unwrap().unwrap();
        let events = numbers(&handed.frame);
        let span = Span { first: *position, count: events.len() as u32 };
        *position += events.len() as u64;
        let id = reader.sent(handed, *position);
        spool.settled(id, &Settled { span, ..Settled::default() });
        spool.passed(reader.number(), *position);
        seen.extend(events);
    }
    seen
}

async fn view(spills: &Spills) -> View {
    spills.views().await.remove(0)
}

/// The stage is slow, the power goes whenever it does, and the source sends again what it was not answered for.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_handed_out_in_order_though_the_power_goes_again_and_again() {
    let mut random = Random::seeded(7);
    let mut disk = SimDisk::new();
    let (mut answered, mut seen) = (0, Vec::new());
    for round in 0..12 {
        let (_journal, spills) = open(&disk, GIB).await;
        let (spool, source) = (spills.spool(&name(), 100), Arc::<Source>::default());
        let (mut writer, mut reader, mut position) =
            (spool.writer(spool.new_writer()), spool.reader(spool.newest_writer()), 0);
        for n in 0..20 {
            let numbers = answered + 50 * n..answered + 50 * n + 50;
            assert!(timeout(PATIENCE, writer.push(&source.batch(numbers))).await.unwrap().is_empty());
        }
        seen.extend(deliver(&spool, &mut reader, &mut position, 300).await);
        if round % 3 == 0 {
            timeout(PATIENCE, writer.finish()).await.unwrap();
            assert_eq!(source.answered(), 1000);
        }
        let until_now = source.firsts();
        disk = disk.cut(|upto| random.below(upto));
        let expected: Vec<u64> = (0..until_now.len() as u64).map(|n| answered + 50 * n).collect();
        assert_eq!(until_now, expected, "none is answered before one that came earlier");
        answered += 50 * until_now.len() as u64;
    }
    let (_journal, spills) = open(&disk, GIB).await;
    let stored = view(&spills).await.stored_events;
    let spool = spills.spool(&name(), 100);
    let (mut reader, mut position) = (spool.reader(spool.newest_writer()), 0);
    seen.extend(deliver(&spool, &mut reader, &mut position, stored as usize).await);
    let mut next = 0;
    for number in seen {
        assert!(number <= next, "{number} came before {next}");
        next = next.max(number + 1);
    }
    assert!(next >= answered, "{answered} were answered, and {next} were handed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_makes_the_writer_wait_until_something_is_delivered_and_drops_nothing() {
    let disk = SimDisk::new();
    let (_journal, spills) = open(&disk, Limits { bytes_max: 20_000 }).await;
    let (spool, source) = (spills.spool(&name(), 100), Arc::<Source>::default());
    let (mut writer, mut reader) = (spool.writer(spool.new_writer()), spool.reader(spool.newest_writer()));
    let pushing = {
        let source = source.clone();
        tokio::spawn(async move {
            for n in 0..200 {
                assert!(writer.push(&source.batch(50 * n..50 * n + 50)).await.is_empty());
            }
            writer.finish().await;
        })
    };
    until(async || view(&spills).await.is_full).await;
    let full = view(&spills).await;
    assert!(full.stored_bytes <= 20_000 && full.lost_events == 0, "{full:?}");
    assert!(!pushing.is_finished() && source.answered() < 10_000);
    let mut position = 0;
    let seen = deliver(&spool, &mut reader, &mut position, 10_000).await;
    assert_eq!(seen, (0..10_000).collect::<Vec<_>>());
    timeout(PATIENCE, pushing).await.unwrap().unwrap();
    assert_eq!(source.answered(), 10_000);
    assert!(timeout(PATIENCE, reader.next()).await.unwrap().unwrap().is_none(), "that was all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_answers_nobody_and_what_it_refused_is_there_in_its_place_later() {
    let disk = SimDisk::new();
    let (_journal, spills) = open(&disk, GIB).await;
    let (spool, source) = (spills.spool(&name(), 10), Arc::<Source>::default());
    let mut writer = spool.writer(spool.new_writer());
    writer.push(&source.batch(0..50)).await;
    source.until(50).await;
    disk.fail(0, Fault::Io);
    writer.push(&source.batch(50..100)).await;
    source.until(100).await;
    writer.push(&source.batch(100..150)).await;
    source.until(150).await;
    let (mut reader, mut position) = (spool.reader(spool.newest_writer()), 0);
    let seen = deliver(&spool, &mut reader, &mut position, 150).await;
    assert_eq!(seen, (0..150).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_lost_is_counted_and_what_is_behind_it_is_handed_out() {
    let disk = SimDisk::new();
    let (journal, spills) = open(&disk, GIB).await;
    let (spool, source) = (spills.spool(&name(), 1), Arc::<Source>::default());
    let mut writer = spool.writer(spool.new_writer());
    for n in 0..8 {
        writer.push(&source.batch(50 * n..50 * n + 50)).await;
        source.until(50 * n + 50).await;
    }
    drop((writer, spool));
    spills.close().await;
    journal.close().await;
    let segment = segment_of(&disk);
    let mut damaged = 0;
    disk.corrupt(&segment, |bytes| {
        // Somewhere in the body of the fourth batch.
        let name = b"plant/meter";
        let mut found = bytes.windows(name.len()).enumerate().filter(|(_, window)| window == name);
        let (at, _) = found.nth(3).expect("it is there");
        bytes[at + 40] ^= 1;
        damaged = at;
    });
    assert!(damaged > 0);
    let (_journal, spills) = open(&disk, GIB).await;
    let spool = spills.spool(&name(), 1);
    let (mut reader, mut position) = (spool.reader(spool.newest_writer()), 0);
    let seen = deliver(&spool, &mut reader, &mut position, 350).await;
    assert_eq!(seen, (0..150).chain(200..400).collect::<Vec<_>>());
    assert_eq!(view(&spills).await.lost_events, 50);
}

fn segment_of(disk: &SimDisk) -> String {
    use sidestream_host::disk::Disk;
    let name = b"plant/meter";
    let files = disk.list().unwrap();
    let holds = |file: &String| {
        disk.bytes(file).is_some_and(|bytes| bytes.windows(name.len()).any(|window| window == name))
    };
    files.into_iter().find(holds).expect("a segment has it")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_stage_that_is_no_more_stays_until_it_is_back_or_dropped() {
    let disk = SimDisk::new();
    {
        let (journal, spills) = open(&disk, GIB).await;
        let (spool, source) = (spills.spool(&name(), 1), Arc::<Source>::default());
        let mut writer = spool.writer(spool.new_writer());
        writer.push(&source.batch(0..50)).await;
        source.until(50).await;
        drop(writer);
        spills.close().await;
        journal.close().await;
    }
    {
        let (journal, spills) = open(&disk, GIB).await;
        let left = view(&spills).await;
        assert_eq!((left.name.clone(), left.stored_events, left.is_left), (name(), 50, true));
        assert!(left.oldest_seconds >= 0.0 && left.stored_bytes > 0);
        let other = spills.spool(&Name { stage: "other".into(), ..name() }, 1);
        let _reader = other.reader(other.newest_writer());
        assert_eq!(spills.unsettled("plant/meter"), 50, "nobody takes it, and it has not ended");
        spills.close().await;
        journal.close().await;
    }
    let (journal, spills) = open(&disk, GIB).await;
    let spool = spills.spool(&name(), 1);
    let (mut reader, mut position) = (spool.reader(spool.newest_writer()), 0);
    assert_eq!(deliver(&spool, &mut reader, &mut position, 50).await, (0..50).collect::<Vec<_>>());
    assert_eq!(spills.forget(&name()).await, None, "it is in use");
    drop(reader);
    assert_eq!(spills.forget(&name()).await, Some(0));
    assert!(journal.partitions().iter().all(|own| *own < sidestream_log::PartitionId::SPILLS));
}
