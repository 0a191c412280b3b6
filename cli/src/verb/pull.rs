//! `sidestream pull`: records of a dnpipe to the standard output.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sidestream_client::{
    Bytes, Client, ClientError, DataKey, From, GroupConfig, Pulled, ReaderConfig, Refusal,
};

use crate::{
    key::KeyFile,
    output::complain,
    place::Place,
    server::{Failed, Server},
};

/// What to pull, from where.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The dnpipe: `orders`, or with its namespace `shop/orders`
    dnpipe: String,
    /// Where to begin: `start`, `end`, an offset, a time such as `2026-11-21T20:00:00Z`, or how long ago, such as `5m`
    #[arg(long, value_name = "PLACE", default_value = "start", conflicts_with_all = ["last", "group"])]
    from: Place,
    /// Begin that many records before the end
    #[arg(long, value_name = "N", conflicts_with = "group")]
    last: Option<u64>,
    /// Wait for more at the end
    #[arg(short, long)]
    follow: bool,
    /// Read as a member of this group: the server remembers what was printed
    #[arg(long, value_name = "NAME", conflicts_with = "partition")]
    group: Option<String>,
    /// The most records to print
    #[arg(short = 'n', long, value_name = "N")]
    records: Option<u64>,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Decrypt with the 32 bytes of this file
    #[arg(long, value_name = "FILE")]
    decrypt: Option<KeyFile>,
    /// How to print a record
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// Its value, and a line break.
    #[default]
    Value,
    /// All of it, a JSON object a line.
    Json,
}

impl Pull {
    pub(crate) fn run(mut self) -> ExitCode {
        let key = self.decrypt.take().map(|file| file.0);
        let server = std::mem::take(&mut self.server);
        server.with(async |client: Client| match &self.group {
            Some(group) => self.pull_in_group(&client, group, key).await,
            None => self.pull(&client, key).await,
        })
    }

    async fn pull(&self, client: &Client, key: Option<DataKey>) -> Result<ExitCode, Failed> {
        let from = self.last.map_or_else(|| self.from.from(client.now()), From::Last);
        let partitions = self.partition.map(|partition| vec![partition]);
        let config = ReaderConfig { partitions, follow: self.follow, key, ..ReaderConfig::default() };
        let mut reader = client.reader(&self.dnpipe, from, config).await?;
        let (mut output, mut is_whole) = (Output::new(self), true);
        while output.wants_more() {
            let ready = if output.is_behind() { reader.ready() } else { None };
            // What is printed is seen before anything is waited for.
            if ready.is_none() && output.is_behind() && output.flush()?.is_gone() {
                break;
            }
            let next = match ready {
                Some(record) => Ok(Some(record)),
                None => reader.next().await,
            };
            let record = match next {
                Ok(Some(record)) => record,
                Ok(None) => break,
                // What is behind it is there, and so is what the other partitions have.
                Err(ClientError::Refused(damaged @ Refusal::Damaged { .. })) => {
                    complain(format_args!("error: {}: {damaged}", self.dnpipe));
                    is_whole = false;
                    continue;
                }
                Err(unread @ ClientError::Unreadable { .. }) => {
                    // What is printed comes before what is said of it.
                    if output.flush()?.is_gone() {
                        break;
                    }
                    complain(format_args!("error: {}: {unread}", self.dnpipe));
                    is_whole = false;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if output.print(&record)?.is_gone() {
                break;
            }
        }
        output.flush()?;
        Ok(if is_whole { super::DONE } else { super::failed() })
    }

    /// A record is acknowledged when it is printed, so that none is lost.
    async fn pull_in_group(
        &self,
        client: &Client,
        group: &str,
        key: Option<DataKey>,
    ) -> Result<ExitCode, Failed> {
        let config = GroupConfig { key, ..GroupConfig::default() };
        let mut reader = client.join(&self.dnpipe, group, config).await?;
        let (mut output, mut is_whole) = (Output::new(self), true);
        while output.wants_more() {
            let wait = if self.follow { FOLLOW_MILLIS } else { SETTLE_MILLIS };
            // What is handed out and not printed would count as a delivery.
            reader.claim_at_most(output.claims());
            let delivery = match reader.next_within(wait).await {
                Ok(Some(delivery)) => delivery,
                Ok(None) if self.follow => continue,
                Ok(None) => break,
                // It is not acknowledged, so others get it when this one leaves.
                Err(unread @ ClientError::Unreadable { .. }) => {
                    complain(format_args!("error: {}: {unread}", self.dnpipe));
                    is_whole = false;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if output.print(&delivery.record)?.is_gone() || output.flush()?.is_gone() {
                break;
            }
            reader.ack(&delivery).await?;
        }
        match reader.leave().await {
            // The server may be gone: then it knows without being told.
            Ok(()) | Err(ClientError::Lost(_) | ClientError::Unreachable { .. }) => {
                Ok(if is_whole { super::DONE } else { super::failed() })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Records on their way to the standard output, as many as were asked for.
struct Output {
    format: Format,
    left: Option<u64>,
    lines: io::BufWriter<io::Stdout>,
    is_behind: bool,
}

/// Whether anybody reads.
#[derive(PartialEq)]
enum Reader {
    Reads,
    Gone,
}

impl Reader {
    fn is_gone(&self) -> bool {
        *self == Reader::Gone
    }
}

impl Output {
    fn new(pull: &Pull) -> Output {
        Output {
            format: pull.format,
            left: pull.records,
            lines: io::BufWriter::new(io::stdout()),
            is_behind: false,
        }
    }

    fn wants_more(&self) -> bool {
        self.left != Some(0)
    }

    /// How many records to claim from a group at once.
    fn claims(&self) -> u32 {
        let most = GroupConfig::default().max_records;
        self.left.map_or(most, |left| u32::try_from(left).unwrap_or(most).min(most))
    }

    /// Whether something is printed that is not on its way yet.
    fn is_behind(&self) -> bool {
        self.is_behind
    }

    fn print(&mut self, record: &Pulled) -> Result<Reader, Failed> {
        self.left = self.left.map(|left| left - 1);
        self.is_behind = true;
        let written = match self.format {
            Format::Value => self.lines.write_all(&record.value).and_then(|()| self.lines.write_all(b"\n")),
            Format::Json => writeln!(self.lines, "{}", as_json(record)),
        };
        outcome(written)
    }

    fn flush(&mut self) -> Result<Reader, Failed> {
        self.is_behind = false;
        outcome(self.lines.flush())
    }
}

fn outcome(written: io::Result<()>) -> Result<Reader, Failed> {
    match written {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failed::Refused(format!("cannot write to the standard output: {error}"))),
    }
}

fn as_json(record: &Pulled) -> Value {
    let headers: serde_json::Map<String, Value> =
        record.headers.iter().map(|(name, value)| (name.clone(), readable(value))).collect();
    json!({
        "partition": record.partition,
        "offset": record.offset,
        "epoch": record.epoch,
        "time": record.time,
        "key": record.key.as_ref().map(readable),
        "headers": headers,
        "value": readable(&record.value),
    })
}

/// Text as it is, other bytes as a list of numbers.
fn readable(bytes: &Bytes) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!(bytes.as_ref()), Value::from)
}

/// How long a group without `--follow` waits for its share: another member may just have left.
const SETTLE_MILLIS: u32 = 300;
const FOLLOW_MILLIS: u32 = 10_000;
