//! Many lives of a broker, each ended by a power cut or a kill at any operation of its disk, beside a model of what was
//! answered.
//!
//! One seed owns everything: what is asked, in which order the journal commits, when the disk is cut and what is left of it.
//! Producers push again what they heard nothing of, members handle records or give them back, somebody resets. After each
//! life: what was answered is there, once, in order; no offset ever names another record; nothing acknowledged is delivered
//! again; at most once is at most once; every poisoned record is a dead letter.
//!
//! `SIDESTREAM_PROVE_N` says how many seeds (40 by default), `SIDESTREAM_PROVE_SEED` the first.

mod local;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use local::{batch, name, values};
use sidestream_broker::{
    Broker, DnpipeSpec, GroupError, GroupSpec, JoinOptions, Limits, Membership, PullError, Pulled, PushError,
    Pushed, ResetError,
};
use sidestream_conformance::{From, Push};
use sidestream_host::{
    Clock, Random, SimulatedClock,
    disk::{SimDisk, sim::Fault},
};
use sidestream_log::{Journal, Settings, Steps};
use tokio::task::JoinHandle;

const PARTITIONS: u32 = 2;
const PRODUCERS: u64 = 3;
const MAX_DELIVERIES: u32 = 2;
const CAREFUL: &str = "at-least-once";
const HASTY: &str = "at-most-once";

#[test]
fn many_lives_of_a_broker_keep_every_promise() {
    let setting =
        |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let (seeds, first) = (setting("SIDESTREAM_PROVE_N", 40), setting("SIDESTREAM_PROVE_SEED", 1));
    let mut total = Counts::default();
    for seed in first * 1_000_000..first * 1_000_000 + seeds {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(live(seed))));
        let counts = lived.unwrap_or_else(|cause| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause)
        });
        total.pushed += counts.pushed;
        total.resets += counts.resets;
        total.acked += counts.acked;
        total.letters += counts.letters;
        total.crashes += counts.crashes;
    }
    println!("{seeds} seeds: {total:?}");
    let Counts { pushed, resets, acked, letters, crashes } = total;
    assert!(
        [pushed, resets, acked, letters, crashes].into_iter().all(|count| count > seeds),
        "too little happened"
    );
}

#[derive(Debug, Default)]
struct Counts {
    pushed: u64,
    resets: u64,
    acked: u64,
    letters: u64,
    crashes: u64,
}

async fn live(seed: u64) -> Counts {
    let (clock, hand) = Clock::simulated(1_000_000_000);
    let mut world = World::new(seed, clock, hand).await;
    for _ in 0..5 {
        if world.random.below(4) > 0 {
            let operations = world.random.below(150);
            world.disk.fail(operations, Fault::PowerCut);
        }
        for _ in 0..world.random.below(150) {
            world.act().await;
        }
        world.crash().await;
    }
    world.finish().await;
    world.counts
}

/// Something that was asked for, with what was known when it was.
enum Asked {
    Push { producer: usize, sequence: u64, done: JoinHandle<Result<Pushed, PushError>> },
    Pull { partition: u32, known: u32, done: JoinHandle<Result<Pulled, PullError>> },
    Reset { done: JoinHandle<Result<u32, ResetError>> },
    Ack { partition: u32, offset: u64, done: JoinHandle<Result<(), GroupError>> },
    GiveBack { done: JoinHandle<Result<(), GroupError>> },
    Next { group: &'static str, known: BTreeSet<(u32, u64)>, done: JoinHandle<Next> },
    Maintain { done: JoinHandle<()> },
}

type Next = Result<(Membership, Vec<(u32, u64, String, u32)>), GroupError>;

#[derive(Default)]
struct Producer {
    /// How many were sent at least once.
    sent: u64,
    /// By number: where, in which epoch.
    answered: BTreeMap<u64, (u64, u32)>,
    in_flight: usize,
    /// Something was refused: all must have ended before what was not answered is sent again.
    waits: bool,
    /// The next to be sent in this life.
    cursor: u64,
}

impl Producer {
    fn lowest_unanswered(&self) -> u64 {
        (0..self.sent).find(|sequence| !self.answered.contains_key(sequence)).unwrap_or(self.sent)
    }
}

struct World {
    random: Random,
    disk: SimDisk,
    clock: Clock,
    hand: SimulatedClock,
    steps: Option<Steps>,
    broker: Broker,
    asked: Vec<Asked>,
    producers: Vec<Producer>,
    /// The highest epoch that a reset answered, and resets that may have happened beside those.
    epoch: u32,
    epochs_unknown: u32,
    /// What every offset of a partition was ever seen to be.
    seen: BTreeMap<(u32, u64), String>,
    members: BTreeMap<&'static str, Membership>,
    /// Out with the careful member, to be acknowledged or given back.
    out: Vec<(u32, u64, String, u32)>,
    acked: BTreeSet<(u32, u64)>,
    /// These, and those whose acknowledgement was not answered.
    asked_to_ack: BTreeSet<(u32, u64)>,
    /// Delivered to the hasty member.
    hasty: BTreeSet<(u32, u64)>,
    counts: Counts,
}

fn settings() -> Settings {
    Settings {
        segment_bytes: 64 << 10,
        reserve_bytes: 64 << 10,
        cache_bytes: 64 << 10,
        zero_ahead_bytes: 8 << 10,
        ..Settings::default()
    }
}

/// Producers push to partitions in turn; each seventh record can't be handled by anybody.
fn push(producer: usize, sequence: u64) -> Push {
    Push {
        partition: producer as u32 % PARTITIONS,
        producer: Some((producer as u64 + 1, 0, sequence)),
        ..Push::one("orders", format!("{producer}:{sequence}"))
    }
}

fn is_poison(value: &str) -> bool {
    value.split_once(':').is_some_and(|(_, sequence)| sequence.parse::<u64>().unwrap() % 7 == 3)
}

impl World {
    async fn new(seed: u64, clock: Clock, hand: SimulatedClock) -> Self {
        let disk = SimDisk::new();
        let (steps, broker) = open(&disk, &clock).await;
        let mut world = Self {
            random: Random::seeded(seed),
            disk,
            clock,
            hand,
            steps: Some(steps),
            broker,
            asked: Vec::new(),
            producers: (0..PRODUCERS).map(|_| Producer::default()).collect(),
            epoch: 0,
            epochs_unknown: 0,
            seen: BTreeMap::new(),
            members: BTreeMap::new(),
            out: Vec::new(),
            acked: BTreeSet::new(),
            asked_to_ack: BTreeSet::new(),
            hasty: BTreeSet::new(),
            counts: Counts::default(),
        };
        let careful = GroupSpec {
            max_deliveries: Some(MAX_DELIVERIES),
            dead_letter: Some(name("dead")),
            backoff: Duration::from_millis(50),
            ..GroupSpec::new(CAREFUL)
        };
        let groups = vec![careful, GroupSpec::new(HASTY)];
        for spec in [
            DnpipeSpec::new(name("dead")),
            DnpipeSpec { partitions: PARTITIONS, groups, ..DnpipeSpec::new(name("orders")) },
        ] {
            let broker = world.broker.clone();
            world.until(tokio::spawn(async move { broker.apply(spec).await })).await.unwrap().unwrap();
        }
        world
    }

    /// Has the journal work until `done` is.
    async fn until<T>(&mut self, done: JoinHandle<T>) -> Option<T> {
        for _ in 0..10_000 {
            if done.is_finished() {
                return done.await.ok();
            }
            self.work().await;
        }
        panic!("it never ends");
    }

    async fn work(&mut self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.steps.as_mut().expect("open").commit();
        self.steps.as_mut().expect("open").keep();
        tokio::task::yield_now().await;
    }

    async fn act(&mut self) {
        match self.random.below(100) {
            0..=34 => {
                let producer = self.random.below(PRODUCERS) as usize;
                self.ask_push(producer, true);
            }
            35..=44 => self.ask_pull(),
            45..=46 => {
                let broker = self.broker.clone();
                self.epochs_unknown += 1;
                self.asked.push(Asked::Reset {
                    done: tokio::spawn(async move { broker.reset(&name("orders")).await }),
                });
            }
            47..=58 => self.ask_next(CAREFUL),
            59..=63 => self.ask_next(HASTY),
            64..=74 => self.ask_answer(),
            75..=77 => {
                self.hand.advance(Duration::from_millis(self.random.below(400)));
                let broker = self.broker.clone();
                self.asked
                    .push(Asked::Maintain { done: tokio::spawn(async move { broker.maintain().await }) });
            }
            78..=80 => drop(self.steps.as_mut().expect("open").settle()),
            _ => self.work().await,
        }
        tokio::task::yield_now().await;
        self.hear().await;
    }

    /// `is_new`: also what was never sent before.
    fn ask_push(&mut self, at: usize, is_new: bool) {
        let producer = &mut self.producers[at];
        if producer.waits {
            if producer.in_flight > 0 {
                return;
            }
            (producer.waits, producer.cursor) = (false, producer.lowest_unanswered());
        }
        let sequence = producer.cursor;
        if sequence == producer.sent && !is_new {
            return;
        }
        let push = push(at, sequence);
        let pushing = self.broker.push(&name("orders"), push.partition, batch(&push), push.only_if);
        producer.sent = producer.sent.max(sequence + 1);
        producer.cursor += 1;
        match pushing {
            Ok(pushing) => {
                producer.in_flight += 1;
                self.asked.push(Asked::Push { producer: at, sequence, done: tokio::spawn(pushing) });
            }
            Err(
                PushError::Busy
                | PushError::Failed { .. }
                | PushError::Full { .. }
                | PushError::OutOfSequence { .. },
            ) => {
                producer.waits = true;
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn ask_pull(&mut self) {
        let (partition, broker, known) =
            (self.random.below(PARTITIONS.into()) as u32, self.broker.clone(), self.epoch);
        let done = tokio::spawn(async move {
            broker.pull(&name("orders"), partition, From::First(0), Limits::default(), None).await
        });
        self.asked.push(Asked::Pull { partition, known, done });
    }

    fn ask_next(&mut self, group: &'static str) {
        if self.asked.iter().any(|asked| matches!(asked, Asked::Next { group: own, .. } if *own == group)) {
            return;
        }
        let (broker, member) = (self.broker.clone(), self.members.get(group).cloned());
        let records_max = 1 + self.random.below(4);
        let done = tokio::spawn(async move {
            let options = JoinOptions { auto_ack: group == HASTY, ..JoinOptions::default() };
            let member = match member {
                Some(member) => member,
                None => broker.join(&name("orders"), group, "only", options).await?,
            };
            let limits = Limits { max_bytes: 1 << 20, max_records: records_max };
            let claimed = broker.next(&member, limits, None).await?;
            let given = claimed.deliveries.iter().flat_map(|delivery| {
                let records = values(&delivery.batches, &delivery.ranges).into_iter();
                records.map(|(offset, value, number)| (delivery.partition, offset, value, number))
            });
            Ok((member, given.collect()))
        });
        let known = if group == HASTY { self.hasty.clone() } else { self.acked.clone() };
        self.asked.push(Asked::Next { group, known, done });
    }

    fn ask_answer(&mut self) {
        let Some(member) = self.members.get(CAREFUL).cloned() else { return };
        if self.out.is_empty() {
            return;
        }
        let at = self.random.below(self.out.len() as u64) as usize;
        let (partition, offset, value, _) = self.out.swap_remove(at);
        let (broker, range) = (self.broker.clone(), offset..offset + 1);
        let asked = if is_poison(&value) {
            Asked::GiveBack {
                done: tokio::spawn(async move {
                    broker.give_back(&member, partition, std::slice::from_ref(&range)).await
                }),
            }
        } else {
            self.asked_to_ack.insert((partition, offset));
            let done =
                tokio::spawn(
                    async move { broker.ack(&member, partition, std::slice::from_ref(&range)).await },
                );
            Asked::Ack { partition, offset, done }
        };
        self.asked.push(asked);
    }

    /// Notes what was answered.
    async fn hear(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            match asked {
                Asked::Push { producer, sequence, done } if done.is_finished() => {
                    let outcome = done.await.unwrap();
                    self.producers[producer].in_flight -= 1;
                    self.heard_push(producer, sequence, outcome);
                }
                Asked::Pull { partition, known, done } if done.is_finished() => match done.await.unwrap() {
                    Ok(pulled) => self.heard_pull(partition, known, &pulled),
                    Err(PullError::Failed { .. } | PullError::Closed) => (),
                    Err(other) => panic!("{other}"),
                },
                Asked::Reset { done } if done.is_finished() => {
                    if let Ok(epoch) = done.await.unwrap() {
                        assert!(epoch > self.epoch, "epoch {epoch} after {}", self.epoch);
                        self.epochs_unknown -= (epoch - self.epoch).min(self.epochs_unknown);
                        (self.epoch, self.counts.resets) = (epoch, self.counts.resets + 1);
                    }
                }
                Asked::Ack { partition, offset, done } if done.is_finished() => {
                    if done.await.unwrap().is_ok() {
                        self.acked.insert((partition, offset));
                        self.counts.acked += 1;
                    }
                }
                Asked::GiveBack { done } if done.is_finished() => drop(done.await.unwrap()),
                Asked::Next { group, known, done } if done.is_finished() => match done.await.unwrap() {
                    Ok((member, given)) => self.heard_next(group, &known, member, given),
                    Err(_) => drop(self.members.remove(group)),
                },
                Asked::Maintain { done } if done.is_finished() => done.await.unwrap(),
                waiting => self.asked.push(waiting),
            }
        }
    }

    fn heard_push(&mut self, at: usize, sequence: u64, outcome: Result<Pushed, PushError>) {
        let producer = &mut self.producers[at];
        match outcome {
            Ok(pushed) => {
                let place = (pushed.base_offset, pushed.epoch);
                let before = producer.answered.insert(sequence, place);
                assert!(before.is_none_or(|before| before == place), "{before:?} and then {place:?}");
                self.see(pushed.partition, pushed.base_offset, &format!("{at}:{sequence}"));
                self.counts.pushed += 1;
            }
            Err(PushError::Failed { .. } | PushError::Closed) => producer.waits = true,
            Err(other) => panic!("{other}"),
        }
    }

    /// An offset is one record for ever.
    fn see(&mut self, partition: u32, offset: u64, value: &str) {
        let known = self.seen.entry((partition, offset)).or_insert_with(|| value.to_owned());
        assert_eq!(known, value, "offset {offset} of partition {partition} is another record now");
    }

    fn heard_pull(&mut self, partition: u32, known: u32, pulled: &Pulled) {
        let most = self.epoch + self.epochs_unknown;
        assert!((known..=most).contains(&pulled.epoch), "epoch {} and not {known} to {most}", pulled.epoch);
        assert!(
            pulled.batches.iter().all(|batch| batch.header.reset_epoch == pulled.epoch),
            "older than the reset"
        );
        for (offset, value, _) in values(&pulled.batches, &[(pulled.from, pulled.next, 0)]) {
            self.see(partition, offset, &value);
        }
    }

    fn heard_next(
        &mut self,
        group: &'static str,
        known: &BTreeSet<(u32, u64)>,
        member: Membership,
        given: Vec<(u32, u64, String, u32)>,
    ) {
        self.members.insert(group, member);
        for (partition, offset, value, delivery) in given {
            self.see(partition, offset, &value);
            assert!(!known.contains(&(partition, offset)), "{value} was done for {group} and came again");
            if group == HASTY {
                assert!(self.hasty.insert((partition, offset)), "{value} came twice to {group}");
            } else {
                assert!(delivery <= MAX_DELIVERIES, "{value} came for the {delivery}th time");
                self.out.push((partition, offset, value, delivery));
            }
        }
    }

    /// Ends this life, and looks at what is left in the next.
    async fn crash(&mut self) {
        self.counts.crashes += 1;
        self.hear().await;
        for asked in self.asked.drain(..) {
            match asked {
                Asked::Push { done, .. } => done.abort(),
                Asked::Pull { done, .. } => done.abort(),
                Asked::Reset { done } => done.abort(),
                Asked::Ack { done, .. } => done.abort(),
                Asked::GiveBack { done } => done.abort(),
                Asked::Next { done, .. } => done.abort(),
                Asked::Maintain { done } => done.abort(),
            }
        }
        let random = &mut self.random;
        self.disk = if random.below(3) == 0 {
            self.disk.kill()
        } else {
            self.disk.cut(|states| random.below(states))
        };
        let (steps, broker) = open(&self.disk, &self.clock).await;
        (self.steps, self.broker) = (Some(steps), broker);
        self.members.clear();
        self.out.clear();
        for producer in &mut self.producers {
            (producer.in_flight, producer.waits, producer.cursor) = (0, false, producer.lowest_unanswered());
        }
        self.check().await;
    }

    /// Everything that was answered and not reset is there, each record once and in order.
    async fn check(&mut self) {
        let mut epochs = BTreeSet::new();
        for partition in 0..PARTITIONS {
            let found = self.all("orders", partition).await;
            epochs.insert(found.0);
            let (epoch, records) = found;
            let most = self.epoch + self.epochs_unknown;
            assert!((self.epoch..=most).contains(&epoch), "epoch {epoch} and not {} to {most}", self.epoch);
            for at in 0..PRODUCERS as usize {
                let own: Vec<(u64, u64)> = records
                    .iter()
                    .filter_map(|(offset, value)| {
                        Some((*offset, value.strip_prefix(&format!("{at}:"))?.parse().ok()?))
                    })
                    .collect();
                let producer = &self.producers[at];
                assert!(own.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1), "producer {at}: {own:?}");
                assert!(own.iter().all(|(_, sequence)| *sequence < producer.sent));
                let is_of = |place: &(u64, u32)| place.1 == epoch && at as u32 % PARTITIONS == partition;
                for (sequence, (offset, _)) in producer.answered.iter().filter(|(_, place)| is_of(place)) {
                    assert!(
                        own.contains(&(*offset, *sequence)),
                        "{at}:{sequence} was answered and is not at {offset}"
                    );
                }
            }
            for (offset, value) in &records {
                self.see(partition, *offset, value);
            }
        }
        assert_eq!(epochs.len(), 1, "a reset is of all partitions or of none");
        // What a crash took with it can't happen any more: the epoch is what it is now.
        (self.epoch, self.epochs_unknown) = (*epochs.first().unwrap(), 0);
        let letters: Vec<String> = self.all("dead", 0).await.1.into_iter().map(|(_, value)| value).collect();
        let once: BTreeSet<&String> = letters.iter().collect();
        assert_eq!(once.len(), letters.len(), "a letter twice: {letters:?}");
    }

    async fn all(&mut self, dnpipe: &str, partition: u32) -> (u32, Vec<(u64, String)>) {
        let limits = Limits { max_bytes: 64 << 20, max_records: u64::MAX };
        let (mut from, mut records) = (From::First(0), Vec::new());
        loop {
            let (broker, dnpipe) = (self.broker.clone(), name(dnpipe));
            let pull = async move { broker.pull(&dnpipe, partition, from, limits, None).await };
            let pulled = self.until(tokio::spawn(pull)).await.unwrap().unwrap();
            let found = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
            assert!(
                found.iter().map(|(offset, ..)| *offset).eq(pulled.from..pulled.next),
                "offsets are dense"
            );
            records.extend(found.into_iter().map(|(offset, value, _)| (offset, value)));
            if pulled.next == pulled.end {
                return (pulled.epoch, records);
            }
            from = From::Offset(pulled.next);
        }
    }

    /// A last life in which nothing fails: everything is pushed, handled or buried.
    async fn finish(&mut self) {
        for _ in 0..5_000 {
            self.hear().await;
            // What was sent and not answered, nothing new.
            (0..PRODUCERS as usize).for_each(|producer| self.ask_push(producer, false));
            self.ask_next(CAREFUL);
            self.ask_answer();
            self.hand.advance(Duration::from_millis(20));
            let broker = self.broker.clone();
            self.until(tokio::spawn(async move { broker.maintain().await })).await;
            self.work().await;
            self.hear().await;
            let pushed = self.producers.iter().all(|producer| producer.lowest_unanswered() == producer.sent);
            if pushed && self.out.is_empty() && self.lag().await == 0 {
                break;
            }
        }
        assert_eq!(self.lag().await, 0, "the group never gets to the end");
        self.check().await;
        let letters: BTreeSet<String> =
            self.all("dead", 0).await.1.into_iter().map(|(_, value)| value).collect();
        for partition in 0..PARTITIONS {
            for (offset, value) in self.all("orders", partition).await.1 {
                let is_letter = letters.contains(&value);
                // What was out in two crashes was delivered twice and handled by nobody: it may be a letter too.
                let is_handled = self.asked_to_ack.contains(&(partition, offset));
                assert!(
                    is_letter || (is_handled && !is_poison(&value)),
                    "{value} is neither handled nor a letter"
                );
                let is_both = is_letter && self.acked.contains(&(partition, offset));
                assert!(!is_both, "{value} was acknowledged and is a letter");
            }
        }
        self.counts.letters += letters.len() as u64;
    }

    async fn lag(&mut self) -> u64 {
        let broker = self.broker.clone();
        let group = tokio::spawn(async move { broker.group(&name("orders"), CAREFUL).await });
        self.until(group).await.unwrap().unwrap().lag_records
    }
}

/// A journal that works when it is told to, and its broker.
async fn open(disk: &SimDisk, clock: &Clock) -> (Steps, Broker) {
    let (journal, mut steps, recovered) =
        Journal::open_stepped(Arc::new(disk.clone()), settings(), clock.clone()).unwrap();
    assert_eq!(recovered.damage, [], "a crash damages nothing");
    let clock = clock.clone();
    let opening = tokio::spawn(async move { Broker::open(journal, &recovered, clock).await });
    while !opening.is_finished() {
        tokio::task::yield_now().await;
        steps.commit();
    }
    (steps, opening.await.unwrap().unwrap())
}
