//! A dnpipe as a file, and back.
//!
//! ```text
//!   {"sidestreamExport":1,"dnpipe":"shop/orders","partitions":2,"id":...}\n   a line of JSON
//!   partition u32 | batch | sum u32 ...                                       the sum of all before it in the file, CRC32C
//!   0xffffffff | batches u64 | sum u32                                        the end, so that a cut file is known for one
//! ```
//!
//! Batches are as they are stored, compressed where their pusher did so. Numbers are little endian. An import numbers its records
//! by the file's `id`: begun again after an interruption, it stores none twice. Nothing is pushed of which the sum is not right.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sidestream_client::{Client, ClientError, DnpipeName, DnpipeView, Numbers, Receipt, StoredBatch};
use sidestream_event::fnv1a;

use crate::{files::plural, server::Failed};

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    /// The version of the format.
    sidestream_export: u32,
    dnpipe: String,
    partitions: u32,
    /// Who numbers the records of an import.
    id: u64,
}

/// What was written or read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Moved {
    fn add(&mut self, batch: &StoredBatch) {
        self.batches += 1;
        self.records += u64::from(batch.count());
        self.bytes += batch.bytes().len() as u64;
    }
}

/// Writes all that a dnpipe has at this moment to `file`, or to the standard output.
pub(super) async fn export(client: &Client, dnpipe: &str, file: Option<&Path>) -> Result<Moved, Failed> {
    let found = client.describe(dnpipe).await?;
    // What was exported before is there until this is whole.
    let part = file.map(|path| path.with_added_extension("part"));
    let to: Box<dyn Write> = match &part {
        Some(path) => Box::new(File::create(path).map_err(|error| of_file(path, &error))?),
        None => Box::new(io::stdout().lock()),
    };
    let mut output = Summed { inner: BufWriter::new(to), sum: 0 };
    let failed = |error: io::Error| match file {
        Some(path) => of_file(path, &error),
        None => Failed::Refused(format!("cannot write: {error}")),
    };
    let head = Head {
        sidestream_export: VERSION,
        dnpipe: found.name.to_string(),
        partitions: found.partitions.len() as u32,
        id: new_id(client, &found.name),
    };
    serde_json::to_writer(&mut output, &head).map_err(io::Error::from).map_err(failed)?;
    output.write_all(b"\n").map_err(failed)?;
    let mut moved = Moved::default();
    for (number, partition) in (0_u32..).zip(&found.partitions) {
        let mut at = partition.first;
        while at < partition.end {
            let page = client.pull_stored(&found.name, number, at).await?;
            if page.epoch != found.epoch || page.next <= at {
                return Err(Failed::Refused(format!(
                    "{dnpipe} was reset, or lost records to its retention, while it was exported; export it again"
                )));
            }
            for batch in &page.batches {
                if batch.is_encrypted() {
                    return Err(Failed::Refused(format!(
                        "a pusher encrypted records of {dnpipe}, and bound them to his numbers, which an import changes: copy \
                         the data directory, or `pull --decrypt` them and push them again"
                    )));
                }
                output.write_all(&number.to_le_bytes()).map_err(failed)?;
                output.write_all(batch.bytes()).map_err(failed)?;
                output.sum().map_err(failed)?;
                moved.add(batch);
            }
            at = page.next;
        }
    }
    output.write_all(&END.to_le_bytes()).map_err(failed)?;
    output.write_all(&moved.batches.to_le_bytes()).map_err(failed)?;
    output.sum().map_err(failed)?;
    output.flush().map_err(failed)?;
    drop(output);
    if let (Some(path), Some(part)) = (file, part) {
        // A back-up that a power cut takes is none.
        let kept = File::open(&part).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&part, path));
        kept.map_err(failed)?;
    }
    Ok(moved)
}

/// Pushes what an export holds. A dnpipe that has records is left alone unless `append`.
pub(super) async fn import(
    client: &Client,
    dnpipe: &str,
    file: Option<&Path>,
    append: bool,
) -> Result<Moved, Failed> {
    let input: Box<dyn Read> = match file {
        Some(path) => Box::new(File::open(path).map_err(|error| of_file(path, &error))?),
        None => Box::new(io::stdin().lock()),
    };
    let mut input = Input { from: BufReader::new(input), sum: 0, name: file.map(Path::to_owned) };
    let head = input.head()?;
    let found = client.describe(dnpipe).await?;
    let has = found.partitions.len() as u32;
    if has != head.partitions {
        return Err(Failed::Wrong(format!(
            "the export of {} has {} partitions and {dnpipe} has {has}: import into a dnpipe that has as many",
            head.dnpipe, head.partitions
        )));
    }
    let records: u64 = found.partitions.iter().map(|own| own.end - own.first).sum();
    if records > 0 && !append {
        return Err(Failed::Wrong(format!(
            "{dnpipe} has {records} records already: add --append to push after them, and to go on with an import that was \
             interrupted; or reset it"
        )));
    }
    let mut moved = Moved::default();
    match push_all(client, &found, head.id, &mut input, &mut moved).await {
        // What was pushed of it stays: that is more than a wrong argument.
        Err(Failed::Wrong(reason)) if moved.batches > 0 => Err(Failed::Refused(format!(
            "{reason}; {} before that are imported: an import of the whole with --append goes on behind them",
            plural(moved.records as usize, "record")
        ))),
        done => done.map(|()| moved),
    }
}

/// Pushes the batches that follow the first line, and counts what was pushed.
async fn push_all(
    client: &Client,
    to: &DnpipeView,
    id: u64,
    input: &mut Input,
    moved: &mut Moved,
) -> Result<(), Failed> {
    let mut next = vec![0_u64; to.partitions.len()];
    loop {
        let number = u32::from_le_bytes(input.exactly()?);
        if number == END {
            let batches = u64::from_le_bytes(input.exactly()?);
            input.sum()?;
            return if batches == moved.batches { Ok(()) } else { Err(input.cut()) };
        }
        let batch = input.batch()?;
        input.sum()?;
        if batch.is_encrypted() {
            return Err(
                input.wrong(format_args!("a batch that its pusher encrypted, which only he can push"))
            );
        }
        let Some(first) = next.get_mut(number as usize) else {
            return Err(
                input.wrong(format_args!("a batch of partition {number}, of {}", to.partitions.len()))
            );
        };
        // What was imported before a reset is wanted again.
        let numbers = Numbers { producer: id, epoch: to.epoch, first: *first };
        let receipt = push(client, &to.name, number, &batch, numbers).await?;
        if receipt.epoch != to.epoch {
            return Err(Failed::Refused(format!(
                "{} was reset while it was imported into; import again",
                to.name
            )));
        }
        *first += u64::from(batch.count());
        moved.add(&batch);
    }
}

/// What a broken connection leaves open is asked again: the numbers have it stored once.
async fn push(
    client: &Client,
    dnpipe: &DnpipeName,
    partition: u32,
    batch: &StoredBatch,
    numbers: Numbers,
) -> Result<Receipt, ClientError> {
    let mut tries = 0;
    loop {
        match client.push_stored(dnpipe, partition, batch, numbers).await {
            Err(error) if error.is_worth_retrying() && tries < TRIES => tries += 1,
            done => return done,
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// A file that is written.
struct Summed<W> {
    inner: W,
    sum: u32,
}

impl<W: Write> Summed<W> {
    /// Writes the sum of all before it.
    fn sum(&mut self) -> io::Result<()> {
        let sum = self.sum.to_le_bytes();
        self.write_all(&sum)
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A file that is read.
struct Input {
    from: BufReader<Box<dyn Read>>,
    /// Of what was read.
    sum: u32,
    name: Option<PathBuf>,
}

impl Input {
    fn head(&mut self) -> Result<Head, Failed> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if line.len() == HEAD_BYTES_MAX {
                return Err(self.wrong(format_args!("it does not begin as an export does")));
            }
            line.push(self.exactly::<1>()?[0]);
        }
        let head: Head = serde_json::from_slice(&line)
            .map_err(|error| self.wrong(format_args!("it does not begin as an export does: {error}")))?;
        match head.sidestream_export {
            VERSION => Ok(head),
            found => {
                Err(self
                    .wrong(format_args!("an export of version {found}, and this program knows {VERSION}")))
            }
        }
    }

    fn batch(&mut self) -> Result<StoredBatch, Failed> {
        let begin: [u8; StoredBatch::LENGTH_BYTES] = self.exactly()?;
        let length = StoredBatch::length(begin).map_err(|error| self.wrong(format_args!("{error}")))?;
        let mut bytes = vec![0; length];
        bytes[..begin.len()].copy_from_slice(&begin);
        self.fill(&mut bytes[begin.len()..])?;
        StoredBatch::read(bytes.into()).map_err(|error| self.wrong(format_args!("{error}")))
    }

    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], Failed> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Failed> {
        self.from.read_exact(bytes).map_err(|error| self.unread(&error))?;
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        Ok(())
    }

    /// Reads the sum of all before it.
    fn sum(&mut self) -> Result<(), Failed> {
        let sum = self.sum;
        match u32::from_le_bytes(self.exactly()?) == sum {
            true => Ok(()),
            false => Err(self.wrong(format_args!("its sum is wrong: it was changed"))),
        }
    }

    fn unread(&self, error: &io::Error) -> Failed {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut(),
            _ => Failed::Refused(format!("cannot read {}: {error}", self.name())),
        }
    }

    fn cut(&self) -> Failed {
        self.wrong(format_args!("it is not whole: get it anew"))
    }

    fn wrong(&self, what: std::fmt::Arguments<'_>) -> Failed {
        Failed::Wrong(format!("{}: {what}", self.name()))
    }

    fn name(&self) -> String {
        self.name.as_ref().map_or_else(|| "the standard input".to_owned(), |path| path.display().to_string())
    }
}

fn of_file(path: &Path, error: &io::Error) -> Failed {
    Failed::Refused(format!("cannot use {}: {error}", path.display()))
}

/// A number that no other pusher has: FNV-1a of the dnpipe, the time and the process.
fn new_id(client: &Client, dnpipe: &DnpipeName) -> u64 {
    let what = format!("{dnpipe}\0{}\0{}", client.now(), std::process::id());
    // 0 is nobody.
    fnv1a(what.as_bytes()).max(1)
}

/// The version of the format.
const VERSION: u32 = 1;
/// Stands where a partition would.
const END: u32 = u32::MAX;
const HEAD_BYTES_MAX: usize = 4096;
const TRIES: u32 = 20;
const BETWEEN_TRIES: std::time::Duration = std::time::Duration::from_millis(500);
