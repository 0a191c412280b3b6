//! The `dnpipe` source: a member of a group that holds what it is handed out.
//!
//! ```text
//!   server ──records──▶ run ──batch──▶ stages ──▶ ...
//!     ▲                  └─▶ InFlight                │ positions: no stage, sink or state needs these any more
//!     └─── acknowledged ──── settle ◀────────────────┘
//! ```
//!
//! A record is acknowledged when nothing here needs it any more; so after a crash, and only then, some come again. While the
//! connection is broken what is on its way goes on, and is not taken in twice when it is handed out anew. A source that has
//! ended stays a member until what it brought in has ended too.

use std::{ops::Range, sync::Arc, time::Duration};

use sidestream_client::{
    Acknowledger, Client, ClientError, Delivery, DnpipeName, GroupConfig, GroupReader, Pulled,
};
use sidestream_event::{Batch, Settled, Text, Timestamp, Value};
use sidestream_plan::stage::DnpipeSource;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    TRACEPARENT, client,
    in_flight::{InFlight, Sent, joined},
    named,
    places::{Places, Row},
};
use crate::{AsyncSource, BoxFuture, BuildError, Environment, Failure, Intake, Stopped};

/// The source.
pub(crate) struct Pulls {
    client: Client,
    dnpipe: DnpipeName,
    group: String,
    /// Since it has joined.
    member: Option<Member>,
    /// Where sinks look up what it has brought in, in a pipeline that delivers exactly once.
    places: Option<Arc<Places>>,
}

struct Member {
    reader: GroupReader,
    in_flight: Arc<InFlight>,
    /// The task that acknowledges; it ends with this, or where what it is to acknowledge is lost and must come again.
    settling: JoinSet<()>,
    places: Option<Arc<Places>>,
}

impl Pulls {
    /// The source that `stage` describes. It joins its group when it runs.
    pub(crate) fn new(stage: &DnpipeSource, env: &Environment) -> Result<Self, BuildError> {
        let dnpipe = named(&stage.name, stage.namespace.as_deref(), env)?;
        let client = || client(&dnpipe, stage.pool.as_deref(), env);
        // Asked by sinks over a line of its own: that of the source ends with it, and with that its membership.
        let once = env.exactly_once.as_ref();
        let places = once.map(|once| Ok(once.reads(client()?, &dnpipe, &stage.group))).transpose()?;
        let client = client()?;
        Ok(Self { client, dnpipe, group: stage.group.clone(), member: None, places })
    }

    async fn join(&self, intake: &Intake) -> Result<Member, ClientError> {
        let config = GroupConfig {
            holds: true,
            max_records: BATCH_RECORDS,
            max_bytes: BATCH_BYTES,
            ..GroupConfig::default()
        };
        let reader = self.client.join(&self.dnpipe.to_string(), &self.group, config).await?;
        let in_flight = Arc::<InFlight>::default();
        let mut settling = JoinSet::new();
        let (acknowledger, positions) = (reader.acknowledger(), intake.positions());
        let called = format!("{} of {}", self.group, self.dnpipe);
        let places = self.places.clone();
        settling.spawn(settle(acknowledger, in_flight.clone(), positions, called, places.clone()));
        Ok(Member { reader, in_flight, settling, places })
    }

    /// A record that the group buries and redrives would come behind others that were to come after it.
    async fn check_group(&self) -> Result<(), Failure> {
        let groups = self.client.groups(&self.dnpipe.to_string()).await;
        let groups = groups.map_err(|error| self.failure(&error))?;
        let own = groups.iter().find(|own| own.name == self.group);
        if own.is_some_and(|own| own.dead_letter.is_some()) {
            let (group, dnpipe) = (&self.group, &self.dnpipe);
            return Err(Failure(format!(
                "group {group} of dnpipe {dnpipe} has dead letters, and a pipeline that delivers exactly once takes every record in \
                 its turn; take `maxDeliveries` and `deadLetter` out of the group, or name another"
            )));
        }
        Ok(())
    }

    /// Whether nothing is acknowledged any more.
    fn has_lost(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.settling.is_empty())
    }

    fn failure(&self, error: &ClientError) -> Failure {
        Failure(format!("cannot pull from dnpipe {}: {error}", self.dnpipe))
    }

    async fn pull(&mut self, intake: &mut Intake) -> Result<(), ClientError> {
        let stopped = intake.stopped();
        tokio::pin!(stopped);
        if self.member.is_none() {
            let joining = self.join(intake);
            self.member = tokio::select! {
                member = joining => Some(member?),
                () = &mut stopped => None,
            };
        }
        let Some(member) = &mut self.member else { return Ok(()) };
        loop {
            let first = tokio::select! {
                first = member.reader.next_within(WAIT_MILLIS) => first,
                // Something was lost: see `run`.
                _ = member.settling.join_next() => return Ok(()),
                // What is handed out meanwhile comes again, to whomever.
                () = &mut stopped => return Ok(()),
            };
            let first = match first {
                // It must not hold up what is behind it; where the group has dead letters, it becomes one.
                Err(ClientError::Unreadable { partition, offsets, reason }) if member.places.is_none() => {
                    let called = format!("{} of {}", self.group, self.dnpipe);
                    tracing::error!(group = called, partition, ?offsets, "records are given back: {reason}");
                    let acknowledger = member.reader.acknowledger();
                    let give_back = || acknowledger.give_back(partition, offsets.clone());
                    tokio::select! {
                        () = until_answered(give_back, &called, "given back") => continue,
                        () = &mut stopped => return Ok(()),
                    }
                }
                first => first?,
            };
            let Some(first) = first else { continue };
            let mut deliveries = vec![first];
            deliveries.extend(std::iter::from_fn(|| member.reader.ready()));
            if member.bring(deliveries, intake).await.is_err() {
                return Ok(());
            }
        }
    }
}

impl Member {
    /// Brings records in, as a batch for each row of offsets.
    async fn bring(&self, deliveries: Vec<Delivery>, intake: &mut Intake) -> Result<(), Stopped> {
        let mut batch = intake.batch();
        let mut row: Option<(u32, Range<u64>)> = None;
        for Delivery { record, .. } in deliveries {
            if self.in_flight.has(record.partition, record.offset) {
                continue;
            }
            match &mut row {
                Some((partition, offsets))
                    if *partition == record.partition && offsets.end == record.offset =>
                {
                    offsets.end += 1;
                }
                _ => {
                    self.send(std::mem::replace(&mut batch, intake.batch()), row.take(), intake).await?;
                    row = Some((record.partition, record.offset..record.offset + 1));
                }
            }
            add(&mut batch, record);
        }
        self.send(batch, row, intake).await
    }

    async fn send(
        &self,
        batch: Batch,
        row: Option<(u32, Range<u64>)>,
        intake: &mut Intake,
    ) -> Result<(), Stopped> {
        let Some((partition, offsets)) = row else { return Ok(()) };
        if let Some(places) = &self.places {
            let (first, count) = (intake.next_sequence(), offsets.end - offsets.start);
            places.add(Row { first, count, partition, offset: offsets.start });
        }
        match intake.send_for_receipt(batch).await {
            Ok(receipt) => {
                let (next, receipt) = (intake.next_sequence(), Some(receipt));
                self.in_flight.add(Sent { next, partition, offsets, receipt });
                Ok(())
            }
            // Not accepted: the records come again, to whomever.
            Err(Stopped(mut batch)) => {
                batch.clear();
                Err(Stopped(batch))
            }
        }
    }
}

impl Member {
    async fn leave(self) {
        // Or it would come back as one that takes nothing.
        drop(self.settling);
        // Who is gone without a word is missed only after half a minute.
        let _ = timeout(LEAVES_WITHIN, self.reader.leave()).await;
    }
}

impl AsyncSource for Pulls {
    fn run<'a>(&'a mut self, intake: &'a mut Intake) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            // What is lost on its way is given back, and holds up nothing behind it.
            intake.relay();
            if self.places.is_some() && self.member.is_none() {
                self.check_group().await?;
            }
            let error = match self.pull(intake).await {
                Ok(()) if intake.is_stopped() || !self.has_lost() => return Ok(()),
                Ok(()) => {
                    let dnpipe = &self.dnpipe;
                    return Err(Failure(format!(
                        "records of dnpipe {dnpipe} were lost inside the pipeline, so none behind them is acknowledged; start it anew"
                    )));
                }
                Err(error) => error,
            };
            let is_about_records = matches!(error, ClientError::Unreadable { .. } | ClientError::Protocol(_));
            if is_about_records && let Some(member) = self.member.take() {
                // They were handed out and could not be read: only who joins anew gets them again.
                member.leave().await;
            }
            Err(self.failure(&error))
        })
    }

    fn drained<'a>(&'a mut self, given_up: BoxFuture<'a, ()>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(member) = self.member.take() else { return };
            tokio::select! {
                () = member.in_flight.emptied() => {}
                () = given_up => {}
            }
            member.leave().await;
        })
    }
}

/// Acknowledges what the position has passed, and shows that the member is there. Where each result is to be there once, a
/// record that was lost would come behind those after it: then nothing more is acknowledged, and this ends.
async fn settle(
    acknowledger: Acknowledger,
    in_flight: Arc<InFlight>,
    mut positions: watch::Receiver<u64>,
    called: String,
    places: Option<Arc<Places>>,
) {
    loop {
        let committed = *positions.borrow_and_update();
        places.iter().for_each(|places| places.forget(committed));
        let passed = in_flight.passed(committed);
        let count = passed.len();
        if count > 0 {
            let (mut done, mut lost) = (Vec::new(), Vec::new());
            for (partition, offsets, receipt) in passed {
                let is_lost = match receipt {
                    // It settled before the position passed it.
                    Some(receipt) => !receipt.await.is_ok_and(|settled| is_done(&settled, places.is_some())),
                    None => false,
                };
                if is_lost && places.is_some() {
                    return;
                }
                if is_lost { &mut lost } else { &mut done }.push((partition, offsets));
            }
            for (partition, offsets) in joined(done) {
                let ack = || acknowledger.ack(partition, offsets.clone());
                until_answered(ack, &called, "acknowledged").await;
            }
            in_flight.forget(count);
            for (partition, offsets) in joined(lost) {
                let give_back = || acknowledger.give_back(partition, offsets.clone());
                until_answered(give_back, &called, "given back").await;
            }
        }
        tokio::select! {
            changed = positions.changed() => if changed.is_err() {
                // Nothing moves it any more, and it may have moved since the last look.
                if *positions.borrow() == committed {
                    return;
                }
            },
            () = sleep(STAYS_EVERY) => {
                // Where that fails, the next request joins again.
                let _ = acknowledger.stay().await;
            }
        }
    }
}

/// Whether the records need not come again: where all of them are to have had their turn, none may have been dropped that might
/// fare better another time.
fn is_done(settled: &Settled, is_all: bool) -> bool {
    let might_fare_better = is_all && (settled.expired > 0 || settled.dropped > settled.unfit);
    !settled.is_lost && !might_fare_better
}

/// Asks until there is an answer. A refusal is one: then the records are somebody else's.
async fn until_answered<F: Future<Output = Result<(), ClientError>>>(
    ask: impl Fn() -> F,
    called: &str,
    what: &str,
) {
    while let Err(error) = ask().await {
        if !error.is_worth_retrying() && !matches!(&error, ClientError::Refused(refusal) if may_pass(refusal))
        {
            tracing::warn!(group = called, "records are not {what}, and may come again: {error}");
            return;
        }
        tracing::warn!(group = called, "records are not yet {what}: {error}");
        sleep(ASKS_AGAIN_AFTER).await;
    }
}

/// Whether a refusal is about the moment, not about what is asked.
fn may_pass(refusal: &sidestream_client::Refusal) -> bool {
    use sidestream_client::Refusal;
    matches!(refusal, Refusal::Full { .. } | Refusal::Failed { .. } | Refusal::NotMember { .. })
}

/// A record as an event.
fn add(batch: &mut Batch, record: Pulled) {
    let event = match std::str::from_utf8(&record.value) {
        Ok(text) => batch.next_text(text),
        Err(_) => {
            let event = batch.next();
            event.body = Value::Bytes(record.value);
            event
        }
    };
    // 0 would be taken for no time, and become that of this moment.
    event.meta.time = Timestamp::from_nanos(if record.time == 0 { 1 } else { record.time });
    event.meta.key = record.key.map(|key| text(&key));
    for (name, value) in record.headers {
        let context = event.meta.context_mut();
        match name.eq_ignore_ascii_case(TRACEPARENT) {
            true => context.traceparent = Some(text(&value)),
            false => context.headers.push((name.into(), text(&value))),
        }
    }
}

/// As text, which keys and headers of events are.
fn text(bytes: &[u8]) -> Text {
    String::from_utf8_lossy(bytes).as_ref().into()
}

/// Records and bytes of one answer, which becomes a batch.
const BATCH_RECORDS: u32 = 512;
const BATCH_BYTES: u32 = 1 << 20;
/// As long as a server lets a request wait.
const WAIT_MILLIS: u32 = 20_000;
/// Well before a server takes a silent member for gone, at half a minute.
const STAYS_EVERY: Duration = Duration::from_secs(8);
const ASKS_AGAIN_AFTER: Duration = Duration::from_secs(1);
const LEAVES_WITHIN: Duration = Duration::from_secs(2);
