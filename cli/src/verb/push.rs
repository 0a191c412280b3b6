//! `sidestream push`: lines of the standard input, or files, into a dnpipe.

mod input;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use sidestream_client::{Bytes, Client, ClientError, Producer, ProducerConfig, Promise, Receipt, Record};
use tokio::sync::mpsc;

use crate::{
    files::plural,
    key::KeyFile,
    output::{complain, print},
    server::{Failed, Server},
};

/// What to push, and where.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The dnpipe: `orders`, or with its namespace `shop/orders`
    dnpipe: String,
    /// Files, each a record of its own; by default every line of the standard input is a record
    files: Vec<PathBuf>,
    /// The key: records of one key are in order
    #[arg(long, value_name = "KEY", conflicts_with = "partition")]
    key: Option<String>,
    /// A header; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The partition; by default that of the key, or any
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Encrypt with the 32 bytes of this file before anything leaves this program
    #[arg(long, value_name = "FILE")]
    encrypt: Option<KeyFile>,
    /// Compress batches before they leave this program, where that makes them smaller
    #[arg(long)]
    compress: bool,
    /// Print where each record is stored
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    server: Server,
}

impl Push {
    pub(crate) fn run(mut self) -> ExitCode {
        // What cannot be read is told before anything is pushed.
        let mut values = Vec::new();
        for file in &self.files {
            match input::file(file) {
                Ok(value) => values.push(value),
                Err(error) => {
                    complain(format_args!("error: {error}"));
                    return super::failed();
                }
            }
        }
        let key = self.encrypt.take().map(|file| file.0);
        let server = std::mem::take(&mut self.server);
        let is_compressed = self.compress;
        server.with(async |client: Client| {
            let config = ProducerConfig { key, is_compressed, ..ProducerConfig::default() };
            let producer = client.producer(&self.dnpipe, config).await?;
            self.push_all(&producer, values).await
        })
    }

    async fn push_all(&self, producer: &Producer, values: Vec<Vec<u8>>) -> Result<ExitCode, Failed> {
        let (sender, promises) = mpsc::channel(PROMISES_WAITING);
        let pushing = async {
            let sender = sender;
            if self.files.is_empty() {
                let mut lines = input::lines();
                while let Some(line) = lines.recv().await {
                    self.push(producer, line?, &sender).await?;
                }
            }
            for value in values {
                self.push(producer, value, &sender).await?;
            }
            Ok::<_, Failed>(())
        };
        let telling = self.tell(promises);
        tokio::pin!(pushing, telling);
        tokio::select! {
            // A broken promise ends it, also where nobody writes to the standard input any more.
            told = &mut telling => {
                told?;
                pushing.await?;
            }
            pushed = &mut pushing => {
                let stored = telling.await?;
                if !self.verbose && (pushed.is_ok() || stored.records > 0) {
                    print(format_args!("{}\n", stored.text()));
                }
                pushed?;
            }
        }
        Ok(super::DONE)
    }

    async fn push(
        &self,
        producer: &Producer,
        value: Vec<u8>,
        promises: &mpsc::Sender<Promise>,
    ) -> Result<(), Failed> {
        let mut record = Record::new(value);
        record.key = self.key.clone().map(Bytes::from);
        record.headers =
            self.headers.iter().map(|(name, value)| (name.clone(), Bytes::from(value.clone()))).collect();
        let promise = match self.partition {
            Some(partition) => producer.push_to(partition, record).await?,
            None => producer.push(record).await?,
        };
        // Whoever waits for the promises has seen one broken: then nothing more need be pushed.
        promises.send(promise).await.map_err(|_| Failed::Refused("it ends here".into()))
    }

    /// Waits for the receipts, and says what became of all.
    async fn tell(&self, mut promises: mpsc::Receiver<Promise>) -> Result<Stored, Failed> {
        let mut stored = Stored::default();
        while let Some(promise) = promises.recv().await {
            match promise.await {
                Ok(receipt) => {
                    if self.verbose {
                        print(format_args!("{} {}\n", receipt.partition, receipt.offset));
                    }
                    stored.add(receipt);
                }
                Err(error) => return Err(stored.but(&error)),
            }
        }
        Ok(stored)
    }
}

/// What is stored so far.
#[derive(Default)]
struct Stored {
    records: usize,
    offsets: Option<(u64, u64)>,
    partitions: std::collections::BTreeSet<u32>,
}

impl Stored {
    fn add(&mut self, receipt: Receipt) {
        self.records += 1;
        self.partitions.insert(receipt.partition);
        let (first, last) = self.offsets.unwrap_or((receipt.offset, receipt.offset));
        self.offsets = Some((first.min(receipt.offset), last.max(receipt.offset)));
    }

    fn text(&self) -> String {
        let records = plural(self.records, "record");
        match (self.offsets, self.partitions.len()) {
            (Some((first, last)), 1) if first == last => format!("{records}, offset {first}"),
            (Some((first, last)), 1) => format!("{records}, offsets {first} to {last}"),
            (_, partitions) if partitions > 1 => format!("{records}, in {}", plural(partitions, "partition")),
            _ => "nothing to push".into(),
        }
    }

    fn but(&self, error: &ClientError) -> Failed {
        match self.records {
            0 => Failed::Refused(error.to_string()),
            _ => Failed::Refused(format!("after {}: {error}", self.text())),
        }
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("this is no header; write NAME=VALUE, such as `source=till-3`".into()),
    }
}

const PROMISES_WAITING: usize = 4096;
