//! Pulling: records from a place on, one answer ahead of whoever reads.
//!
//! Records of one partition come in their order; partitions are read side by side, in no order among them. A reset on the way
//! is no end: the reader goes on with what is there then, and the records' epoch says so.
//!
//! What came ahead is handed out for [`HANDED_OUT_WITHIN`] from when it was asked for; then the reader asks whether there was a
//! reset, and throws away what is older. The server answers a reset when that time is over: nothing older is handed out then.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sidestream_event::{
    Bytes,
    native::{Answer, DnpipeName, DnpipeView, From, HANDED_OUT_WITHIN, Refusal, Request},
    record::{Flags, Header, RecordError, expand, split},
};
use sidestream_host::Moment;

use crate::{
    Client, ClientError, DataKey, Pulled, client::unexpected, connection::Answered, record, seal::SealError,
};

/// How a reader behaves.
#[derive(Clone, Debug)]
pub struct ReaderConfig {
    /// Only these partitions; all by default.
    pub partitions: Option<Vec<u32>>,
    /// Whether to wait for more at the end; `false` by default, which ends where the dnpipe ended when it was opened.
    pub follow: bool,
    /// How much comes with one answer, in bytes; 1 MiB by default.
    pub max_bytes: u32,
    /// The key that records were encrypted with; none by default.
    pub key: Option<DataKey>,
}

impl Default for ReaderConfig {
    fn default() -> ReaderConfig {
        ReaderConfig { partitions: None, follow: false, max_bytes: 1 << 20, key: None }
    }
}

/// Whoever pulls from one dnpipe. It moves only its own place.
pub struct Reader {
    client: Client,
    name: DnpipeName,
    config: ReaderConfig,
    lanes: Vec<Lane>,
    pending: FuturesUnordered<Pulling>,
    /// The lane to look at first, so that each gets its turn.
    turn: usize,
    /// The newest epoch that it heard of, which all records here are of, and when it asked what last said so.
    epoch: u32,
    asked: Option<Moment>,
}

type Pulling = Pin<Box<dyn Future<Output = (usize, Moment, Result<Answered, ClientError>)> + Send>>;

struct Lane {
    partition: u32,
    from: From,
    /// Whether something was read: a place that has been there may vanish in a reset.
    has_read: bool,
    /// Where it ends, unless it follows.
    until: Option<u64>,
    records: VecDeque<Pulled>,
    /// What comes behind them and cannot be read.
    unread: Option<ClientError>,
    is_pulling: bool,
}

impl Reader {
    pub(crate) fn open(
        client: Client,
        dnpipe: &DnpipeView,
        from: From,
        config: ReaderConfig,
    ) -> Result<Reader, ClientError> {
        let partitions = dnpipe.partitions.len() as u32;
        let wanted = config.partitions.clone().unwrap_or_else(|| (0..partitions).collect());
        if let Some(partition) = wanted.iter().copied().find(|wanted| *wanted >= partitions) {
            return Err(Refusal::UnknownPartition { partition, partitions }.into());
        }
        let views = wanted.iter().map(|partition| &dnpipe.partitions[*partition as usize]);
        let end = views.clone().map(|view| view.end).max().unwrap_or_default();
        if let From::Offset(offset) = from
            && offset > end
            && !config.follow
        {
            // Of several partitions some may end before it.
            let first = views.map(|view| view.first).min().unwrap_or_default();
            return Err(Refusal::OutOfRange { first, end }.into());
        }
        let lane = |partition: u32| Lane {
            partition,
            from,
            has_read: false,
            until: (!config.follow).then(|| dnpipe.partitions[partition as usize].end),
            records: VecDeque::new(),
            unread: None,
            is_pulling: false,
        };
        let lanes = wanted.into_iter().map(lane).collect();
        Ok(Reader {
            client,
            name: dnpipe.name.clone(),
            config,
            lanes,
            pending: FuturesUnordered::new(),
            turn: 0,
            epoch: dnpipe.epoch,
            asked: None,
        })
    }

    /// The next record; none at the end of a reader that does not follow. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A place that is not there, damage in what is stored, [`Unreadable`](ClientError::Unreadable) where a key does not fit,
    /// and those of the connection when patience has ended. After damage, and what is not readable, the next call goes on behind
    /// it.
    pub async fn next(&mut self) -> Result<Option<Pulled>, ClientError> {
        loop {
            let unread = self.lanes.iter_mut().filter(|lane| lane.records.is_empty());
            if let Some(unread) = unread.filter_map(|lane| lane.unread.take()).next() {
                return Err(unread);
            }
            if let Some(record) = self.ready() {
                return Ok(Some(record));
            }
            if self.lanes.iter().any(|lane| !lane.records.is_empty()) {
                self.look().await?;
                continue;
            }
            self.pull();
            let Some((lane, asked, answer)) = self.pending.next().await else { return Ok(None) };
            self.take(lane, asked, answer)?;
        }
    }

    /// A record that is there already, if one is; none where it came so long ago that the server is to be asked first whether
    /// it was reset.
    pub fn ready(&mut self) -> Option<Pulled> {
        let now = self.client.clock().now();
        if self.asked.is_none_or(|asked| now.since(asked) >= HANDED_OUT_WITHIN) {
            return None;
        }
        let count = self.lanes.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if let Some(record) = self.lanes[index].records.pop_front() {
                self.turn = index + 1;
                if self.lanes[index].records.len() < AHEAD_RECORDS {
                    self.pull();
                }
                return Some(record);
            }
        }
        None
    }

    /// Asks for more wherever nothing is asked for and little is left.
    fn pull(&mut self) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let is_at_end = lane.until.is_some_and(|until| lane.place() >= until);
            let has_enough = lane.unread.is_some() || lane.records.len() >= AHEAD_RECORDS;
            if lane.is_pulling || is_at_end || has_enough {
                continue;
            }
            lane.is_pulling = true;
            let wait = if self.config.follow { LONG_POLL } else { Duration::ZERO };
            let request = Request::Pull {
                dnpipe: self.name.clone(),
                partition: lane.partition,
                from: lane.from,
                max_bytes: self.config.max_bytes,
                max_records: u32::MAX,
                wait_millis: wait.as_millis() as u32,
            };
            let client = self.client.clone();
            self.pending.push(Box::pin(async move {
                let asked = client.clock().now();
                (index, asked, client.ask_with_tail(request).await)
            }));
        }
    }

    /// Asks which epoch it is.
    async fn look(&mut self) -> Result<(), ClientError> {
        let asked = self.client.clock().now();
        let partition = self.lanes.first().map_or(0, |lane| lane.partition);
        let epoch = epoch_of(&self.client, self.name.clone(), partition).await?;
        self.learn(asked, epoch);
        Ok(())
    }

    /// Throws away what is older than the newest epoch that it heard of.
    fn learn(&mut self, asked: Moment, epoch: u32) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.lanes.iter_mut().for_each(|lane| lane.records.retain(|record| record.epoch >= epoch));
        }
        if epoch == self.epoch {
            self.asked = self.asked.max(Some(asked));
        }
    }

    fn take(
        &mut self,
        index: usize,
        asked: Moment,
        answer: Result<Answered, ClientError>,
    ) -> Result<(), ClientError> {
        if let Ok((Answer::Pulled { epoch, .. }, _)) = &answer {
            self.learn(asked, *epoch);
        }
        let newest = self.epoch;
        let lane = &mut self.lanes[index];
        lane.is_pulling = false;
        let (answer, tail) = match answer {
            Ok(answered) => answered,
            Err(error) => return lane.failed(error),
        };
        let Answer::Pulled { from, next, epoch, .. } = answer else { return Err(unexpected(&answer)) };
        // An answer that was overtaken is as if it had found nothing.
        let until = if epoch < newest { 0 } else { lane.until.unwrap_or(u64::MAX) };
        let is_wanted = |offset| offset >= from && offset < until;
        for batch in batches(tail) {
            let (header, batch) = batch?;
            let wanted = header.base_offset.max(from)..header.next_offset().min(until);
            if wanted.is_empty() {
                continue;
            }
            match record::of_batch(&batch, self.config.key.as_ref(), lane.partition, is_wanted) {
                Ok(records) => lane.records.extend(records),
                Err(reason) => {
                    (lane.from, lane.has_read) = (From::Offset(wanted.end), true);
                    let (partition, reason) = (lane.partition, Box::new(reason));
                    lane.unread = Some(ClientError::Unreadable { partition, offsets: wanted, reason });
                    return Ok(());
                }
            }
        }
        lane.from = From::Offset(next);
        if next == from && lane.until.is_some() {
            // Nothing is there, so this is the end, wherever it was before.
            lane.until = Some(next);
        }
        lane.has_read = true;
        Ok(())
    }
}

impl Lane {
    /// The next offset, as far as it is known.
    fn place(&self) -> u64 {
        match self.from {
            From::Offset(offset) => offset,
            _ => 0,
        }
    }

    fn failed(&mut self, error: ClientError) -> Result<(), ClientError> {
        match error {
            // It was there before: it went in a reset, or with what is not kept for ever.
            ClientError::Refused(Refusal::OutOfRange { first, .. })
                if self.has_read && self.place() < first =>
            {
                self.from = From::Offset(first);
                Ok(())
            }
            ClientError::Refused(Refusal::Damaged { from, to }) => {
                self.from = From::Offset(to);
                Err(Refusal::Damaged { from, to }.into())
            }
            error => Err(error),
        }
    }
}

/// The epoch that a dnpipe is in, as whoever may pull from it can ask.
pub(crate) async fn epoch_of(
    client: &Client,
    dnpipe: DnpipeName,
    partition: u32,
) -> Result<u32, ClientError> {
    let from = From::Last(0);
    let request = Request::Pull { dnpipe, partition, from, max_bytes: 0, max_records: 0, wait_millis: 0 };
    match client.ask(request).await? {
        Answer::Pulled { epoch, .. } => Ok(epoch),
        other => Err(unexpected(&other)),
    }
}

/// The batches of a tail, each with its header as it stands.
pub(crate) fn batches(mut tail: Bytes) -> impl Iterator<Item = Result<(Header, Bytes), RecordError>> {
    std::iter::from_fn(move || {
        if tail.is_empty() {
            return None;
        }
        let header = match Header::read(&tail) {
            Ok(header) => header,
            Err(error) => {
                tail.clear();
                return Some(Err(error));
            }
        };
        let length = header.length as usize;
        if length > tail.len() {
            let found = tail.len();
            tail.clear();
            return Some(Err(RecordError::Cut { wanted: length, found }));
        }
        Some(Ok((header, tail.split_to(length))))
    })
}

/// Header and records of a batch, decrypted and expanded where it is encrypted or compressed.
pub(crate) fn opened(batch: &Bytes, key: Option<&DataKey>) -> Result<(Header, Bytes), ClientError> {
    let (header, body) = split(batch)?;
    let (header, body) = match (header.flags.has(Flags::ENCRYPTED), key) {
        (false, None) => (header, body),
        (_, Some(key)) => key.open(&header, &body)?,
        (true, None) => return Err(SealError::NoKey.into()),
    };
    Ok(expand(&header, &body)?)
}

/// As long as a server lets a pull wait.
pub(crate) const LONG_POLL: Duration = Duration::from_secs(20);
/// With fewer records than this left, more are asked for.
const AHEAD_RECORDS: usize = 64;
