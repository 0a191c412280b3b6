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
use sidestream_event::{Batch, Text, Timestamp, Value};
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
};
use crate::{AsyncSource, BoxFuture, BuildError, Environment, Failure, Intake, Stopped};

/// The source.
pub(crate) struct Pulls {
    client: Client,
    dnpipe: DnpipeName,
    group: String,
    /// Since it has joined.
    member: Option<Member>,
}

struct Member {
    reader: GroupReader,
    in_flight: Arc<InFlight>,
    /// The task that acknowledges; it ends with this.
    settling: JoinSet<()>,
}

impl Pulls {
    /// The source that `stage` describes. It joins its group when it runs.
    pub(crate) fn new(stage: &DnpipeSource, env: &Environment) -> Result<Self, BuildError> {
        let dnpipe = named(&stage.name, stage.namespace.as_deref(), env)?;
        Ok(Self { client: client(env)?, dnpipe, group: stage.group.clone(), member: None })
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
        settling.spawn(settle(acknowledger, in_flight.clone(), positions, called));
        Ok(Member { reader, in_flight, settling })
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
                first = member.reader.next_within(WAIT_MILLIS) => first?,
                // What is handed out meanwhile comes again, to whomever.
                () = &mut stopped => return Ok(()),
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
            let Err(error) = self.pull(intake).await else { return Ok(()) };
            let is_about_records =
                matches!(error, ClientError::Record(_) | ClientError::Sealed(_) | ClientError::Protocol(_));
            if is_about_records && let Some(member) = self.member.take() {
                // They were handed out and could not be read: only who joins anew gets them again.
                member.leave().await;
            }
            Err(Failure(format!("cannot pull from dnpipe {}: {error}", self.dnpipe)))
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

/// Acknowledges what the position has passed, and shows that the member is there.
async fn settle(
    acknowledger: Acknowledger,
    in_flight: Arc<InFlight>,
    mut positions: watch::Receiver<u64>,
    called: String,
) {
    loop {
        let committed = *positions.borrow_and_update();
        let passed = in_flight.passed(committed);
        let count = passed.len();
        if count > 0 {
            let (mut done, mut lost) = (Vec::new(), Vec::new());
            for (partition, offsets, receipt) in passed {
                let is_lost = match receipt {
                    // It settled before the position passed it.
                    Some(receipt) => !receipt.await.is_ok_and(|settled| !settled.is_lost),
                    None => false,
                };
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
    event.meta.time = Timestamp::from_nanos(record.time);
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
