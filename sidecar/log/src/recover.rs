//! Opening a journal: what there is, from the newest head and what was written after it.
//!
//! ```text
//!   segment 7 ── 8 ── 9 ── 10 ─────┐
//!   footer  footer footer  newest head: partitions, their bounds    then all batches behind it, to the end
//!      └──────┴──────┴── spans
//! ```
//!
//! Only the newest segment is read: of the others the footers, and where one is missing its segment. Whatever is found is
//! made durable before it is served, for a process that was killed may have left it in the kernel. Nothing is written into
//! a segment of an earlier process: the next group begins another one, whose head says where this one ended.
//!
//! It must not take what it can't read for what was never there: where nothing can be read of what was written last, there is no
//! start. Else it needs no human.

mod copies;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::Arc,
};

use sidestream_event::record::{BATCH_BYTES_MAX, HEADER_BYTES, Header, LEAST_RECORD_BYTES};
use sidestream_host::{
    Random,
    disk::{Barrier, Disk, DiskFile},
};

use crate::{
    Bounds, Damage, Lost, OpenError, PartitionId,
    around::{self, Around, if_readable},
    control::Note,
    footer::Footer,
    head::{self, Before, Head, HeadError, parse_file_name},
    index::Span,
    reserve::RESERVE,
    scan::{End, Scanned, place, scan},
    state::{Partition, Segment, State},
    walk::{is_of, strands_of},
};

/// Bytes of a head that are read at first: enough for 120 partitions.
const HEAD_BYTES: usize = 8192;
/// What a file is called further that nobody will ever be able to read.
const LOST: &str = ".lost";

/// What a start found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every partition.
    pub partitions: BTreeMap<PartitionId, Bounds>,
    /// What can't be read, of what was read.
    pub damage: Vec<Damage>,
    /// What was written at the end and never acknowledged, and is left alone.
    pub torn: Option<Damage>,
    /// The headers of all batches that were read, in their order.
    pub tail: Vec<Header>,
    /// Bytes that were read for them.
    pub scanned_bytes: u64,
}

/// A journal that was found, ready to go on.
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) journal: u64,
    pub(crate) before: Before,
    pub(crate) next_number: u32,
    pub(crate) recovered: Recovered,
}

/// One file, and what it says of itself.
struct File {
    number: u32,
    generation: u32,
    name: String,
    file: Arc<dyn DiskFile>,
    length: u64,
    footer: Option<Footer>,
    head: Option<head::Read>,
}

impl File {
    fn last(&self) -> u32 {
        self.head.as_ref().map_or(self.number, |read| read.head.last)
    }

    /// Where its batches begin, and with what chain, as far as its head was read.
    fn start(&self) -> (u32, Option<u32>) {
        self.head.as_ref().map_or((0, None), |read| (read.head.bytes(), Some(read.chain)))
    }
}

pub(crate) fn recover(disk: &dyn Disk) -> Result<Found, OpenError> {
    Recovery {
        disk,
        found: Found::default(),
        newest: None,
        endless: Vec::new(),
        unread: None,
        lost: None,
        is_note_missing: false,
        removed: HashSet::new(),
    }
    .run()
}

impl Default for Found {
    fn default() -> Self {
        let journal = Random::from_entropy().next_u64();
        Self {
            state: State::default(),
            journal,
            before: Before::default(),
            next_number: 1,
            recovered: Recovered::default(),
        }
    }
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    found: Found,
    newest: Option<u32>,
    /// Damage of segments of which nothing says where they end.
    endless: Vec<(u32, Vec<Damage>)>,
    /// The last segment of which nothing can be read, not even how long it is.
    unread: Option<(u32, String)>,
    /// The last segment of which somebody says that it is lost.
    lost: Option<u32>,
    /// Behind the newest head there is damage that may have been anything.
    is_note_missing: bool,
    /// Partitions that were removed behind the newest head.
    removed: HashSet<PartitionId>,
}

impl Recovery<'_> {
    fn run(mut self) -> Result<Found, OpenError> {
        let mut files = self.files()?;
        // Behind the last number there is, no segment can be made: what is there can still be read.
        let next_number = files.iter().map(|file| file.last().saturating_add(1)).max().unwrap_or(1);
        self.found.next_number = self.found.next_number.max(next_number);
        self.drop_superseded(&mut files)?;
        self.drop_unborn(&mut files)?;
        // The newest head says how things stood; behind it everything is read.
        let base = self.base(&files)?;
        if let Some(read) = base.and_then(|base| files[base].head.as_ref()) {
            self.found.journal = read.head.journal;
            self.found.state.headed = Some(read.head.number);
            for kept in &read.head.partitions {
                let partition = Partition::new(kept.first, kept.next, kept.born, 0);
                self.found.state.partitions.insert(kept.partition, partition);
            }
        }
        let state_partition = Partition::new(0, 0, 0, 0);
        self.found.state.partitions.entry(PartitionId::STATE).or_insert(state_partition);
        self.newest = files.last().map(|file| file.number);
        // Written after the newest head that can be read: whatever it may have held.
        let is_lost = self.lost > base.map(|base| files[base].number);
        self.is_note_missing = is_lost;
        for index in 0..files.len() {
            let is_older = base.is_some_and(|base| index < base);
            if is_older && self.has_spans(&files[index])? {
                continue;
            }
            // Its footer is missing or damaged: it is read, from its head on.
            if files[index].head.is_none() {
                files[index].head = self.head(&files[index])?;
            }
            let (file, next) = (&files[index], files.get(index + 1));
            if is_older {
                self.older(file, next)?;
            } else {
                self.behind_head(file, next)?;
            }
        }
        if is_lost {
            self.skip(u32::MAX.into());
        }
        self.set_live();
        self.note_endless();
        self.note_gaps();
        let state = &mut self.found.state;
        state.partitions.values_mut().for_each(|partition| {
            partition.next = partition.next.max(partition.first);
            (partition.readable, partition.gone) = (partition.next, partition.first);
        });
        let bounds = state.partitions.iter().map(|(id, partition)| (*id, partition.bounds()));
        self.found.recovered.partitions = bounds.collect();
        state.damage = self.found.recovered.damage.clone();
        state.is_chore_due = true;
        Ok(self.found)
    }

    /// The newest segment that says how things stood. Of what another start may read, and this one can't, a head that is written
    /// from here on would say that it never was.
    fn base(&mut self, files: &[File]) -> Result<Option<usize>, OpenError> {
        let base = files.iter().rposition(|file| file.generation == 0 && file.head.is_some());
        let unread =
            self.unread.take().filter(|(number, _)| base.is_none_or(|base| files[base].number < *number));
        if let Some((_, file)) = unread {
            return Err(OpenError::Unreadable { file });
        }
        if base.is_none() {
            for file in files.iter().filter(|file| file.generation == 0) {
                let begin = around::read(&*file.file, 0, HEAD_BYTES);
                let begin = begin.map_err(|error| self.error("reading", &file.name, error))?;
                if !begin.holes.is_empty() || self.head(file)?.is_some() {
                    return Err(OpenError::Unreadable { file: file.name.clone() });
                }
            }
        }
        Ok(base)
    }

    /// Every segment's file, by number and generation.
    fn files(&mut self) -> Result<Vec<File>, OpenError> {
        let names = self.disk.list().map_err(|error| self.error("listing", ".", error))?;
        let mut files = Vec::new();
        for name in names {
            if name == RESERVE {
                let length = if_readable(self.disk.open(RESERVE).and_then(|file| file.length()));
                let length = length.map_err(|error| self.error("opening", &name, error))?;
                self.found.state.reserve.left = Some(length.unwrap_or_default());
            }
            if let Some((number, _)) = name.strip_suffix(LOST).and_then(parse_file_name) {
                self.set_aside(number, number);
                self.lost = self.lost.max(Some(number));
                self.found.next_number = self.found.next_number.max(number.saturating_add(1));
            }
            if let Some((number, generation)) = parse_file_name(&name) {
                let opened = self.disk.open(&name).and_then(|file| {
                    let (length, footer) = (file.length()?, Footer::find(&*file)?);
                    let footer =
                        footer.filter(|footer| (footer.number, footer.generation) == (number, generation));
                    Ok((file, length, footer))
                });
                let opened = if_readable(opened).map_err(|error| self.error("opening", &name, error))?;
                let Some((file, length, footer)) = opened else {
                    // Not even how long it is can be read. Its number is never used again.
                    self.set_aside(number, number);
                    self.unread = self.unread.take().max(Some((number, name)));
                    self.found.next_number = self.found.next_number.max(number.saturating_add(1));
                    continue;
                };
                files.push(File { number, generation, name, file, length, footer, head: None });
            }
        }
        files.sort_by_key(|file| (file.number, file.generation));
        // Of finished segments nobody asks what partitions there were when they began.
        let newest = files.len().saturating_sub(1);
        for index in 0..files.len() {
            // The next one's says where a segment without a footer ends.
            let is_asked = index > 0 && files[index - 1].footer.is_none();
            if files[index].generation > 0 || files[index].footer.is_none() || index == newest || is_asked {
                files[index].head = self.head(&files[index])?;
            }
        }
        // The newest one that can be read is asked how things stood, whatever comes behind it.
        for index in (0..files.len()).rev() {
            if files[index].generation > 0 {
                continue;
            }
            if files[index].head.is_none() && index < newest {
                files[index].head = self.head(&files[index])?;
            }
            if files[index].head.is_some() {
                break;
            }
        }
        Ok(files)
    }

    fn head(&self, file: &File) -> Result<Option<head::Read>, OpenError> {
        let read = |length: usize| around::read(&*file.file, 0, length).map(|read| read.bytes.to_vec());
        let head = read(HEAD_BYTES).and_then(|bytes| Head::read(&bytes, read));
        match head.map_err(|error| self.error("reading", &file.name, error))? {
            Ok(read) => {
                let is_its = (read.head.number, read.head.generation) == (file.number, file.generation);
                Ok(is_its.then_some(read))
            }
            Err(HeadError::Damaged) => Ok(None),
            Err(HeadError::Version(found)) => Err(OpenError::Version { file: file.name.clone(), found }),
        }
    }

    fn bytes(&self, file: &File) -> Result<Around, OpenError> {
        let read = around::read(&*file.file, 0, file.length as usize);
        read.map_err(|error| self.error("reading", &file.name, error))
    }

    /// A file that is left as it is, for what it has may be read another time.
    fn set_aside(&mut self, number: u32, last: u32) {
        self.damage(number, 0, 0, None, false);
        self.found.state.set_aside.push(number..=last);
    }

    /// Segments that were begun and never had a batch: the power went before their heads were durable. One may be found
    /// again much later, for nobody waits until it is durably gone.
    fn drop_unborn(&mut self, files: &mut Vec<File>) -> Result<(), OpenError> {
        let mut index = files.len();
        while index > 0 {
            index -= 1;
            let file = &files[index];
            let next = files.get(index + 1).and_then(|next| next.head.as_ref());
            let is_known = next.is_some_and(|next| next.head.before.segment == file.number);
            if file.head.is_some() || file.footer.is_some() || file.generation > 0 || is_known {
                continue;
            }
            let read = self.bytes(file)?;
            if read.holes.is_empty() && scan(&read, file.number, 0, None, None).found.is_empty() {
                self.remove(&files.remove(index).name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), OpenError> {
        self.disk.remove(name).map_err(|error| self.error("removing", name, error))
    }

    /// Whether a finished segment's footer says what it has.
    fn has_spans(&mut self, file: &File) -> Result<bool, OpenError> {
        let Some(footer) = file.footer else { return Ok(false) };
        let spans = footer.spans(&*file.file).map_err(|error| self.error("reading", &file.name, error))?;
        let Some(spans) = spans else { return Ok(false) };
        self.add_segment(file, footer.end(), false);
        for (id, span) in spans {
            self.add_span(file, id, span);
        }
        Ok(true)
    }

    /// A finished segment without a footer.
    fn older(&mut self, file: &File, next: Option<&File>) -> Result<(), OpenError> {
        let (scanned, unreadable_bytes) = self.read(file, next)?;
        let has_holes = unreadable_bytes > 0;
        let end = End { position: scanned.end, chain: scanned.chain };
        self.add_segment(file, end, has_holes);
        let strands = strands_of(&scanned.found);
        for (id, strand) in &strands {
            self.add_span(file, *id, strand.span(file.number));
        }
        if !has_holes {
            self.found.state.finished.push_back((file.number, end, strands));
        }
        match said_end(file, next) {
            Some(_) => self.found.recovered.damage.extend(scanned.damage),
            None => self.endless.push((file.number, scanned.damage)),
        }
        Ok(())
    }

    /// A segment that was written after the newest head that can be read: everything in it happened since.
    fn behind_head(&mut self, file: &File, next: Option<&File>) -> Result<(), OpenError> {
        let (scanned, unreadable_bytes) = self.read(file, next)?;
        if unreadable_bytes > 0 && unreadable_bytes == file.length {
            return Err(OpenError::Unreadable { file: file.name.clone() });
        }
        let (is_newest, has_holes) = (next.is_none(), unreadable_bytes > 0);
        let end = End { position: scanned.end, chain: scanned.chain };
        self.add_segment(file, end, has_holes);
        self.is_note_missing |=
            scanned.damage.iter().any(|damage| damage.lost.is_none() && !damage.is_mended);
        for found in &scanned.found {
            let at = place(file.number, found.position);
            let partitions = &mut self.found.state.partitions;
            match found.note {
                Some(Note::Create(id, first)) => {
                    partitions.entry(id).or_insert_with(|| Partition::new(first, first, at, 0));
                }
                Some(Note::Remove(id)) => {
                    partitions.remove(&id);
                    self.removed.insert(id);
                }
                Some(Note::Trim(id, before)) => {
                    if let Some(partition) = partitions.get_mut(&id) {
                        partition.first = partition.first.max(before);
                    }
                }
                Some(Note::Mark) => {}
                None => {
                    let id = PartitionId(found.header.partition);
                    // The note of its creation may be in what can't be read.
                    if self.is_note_missing && id != PartitionId::CONTROL && !self.removed.contains(&id) {
                        let born = place(file.number, 0);
                        partitions.entry(id).or_insert_with(|| Partition::new(0, 0, born, 0));
                    }
                    if let Some(partition) = partitions.get_mut(&id) {
                        partition.next = partition.next.max(found.header.next_offset());
                    }
                    self.found.recovered.tail.push(found.header);
                }
            }
        }
        let strands = strands_of(&scanned.found);
        for (id, strand) in &strands {
            self.add_span(file, *id, strand.span(file.number));
        }
        // What was acknowledged keeps its offsets, readable or not.
        for lost in scanned.damage.iter().filter_map(|damage| damage.lost) {
            if let Some(partition) = self.found.state.partitions.get_mut(&lost.partition) {
                partition.next = partition.next.max(lost.to);
            }
        }
        if is_newest {
            self.skip(scanned.unknown_bytes);
            let kept = file.file.barrier(Barrier::Recovered);
            kept.map_err(|error| self.error("flushing", &file.name, error))?;
            self.found.before = Before { segment: file.number, end: end.position, chain: end.chain };
            self.found.state.strands = strands;
            self.found.recovered.torn = scanned.torn.map(|(from, to)| Damage {
                segment: file.number,
                from: from.into(),
                to: to.into(),
                lost: None,
                is_mended: false,
            });
        } else if !has_holes {
            self.found.state.finished.push_back((file.number, end, strands));
        }
        self.found.recovered.damage.extend(scanned.damage);
        Ok(())
    }

    /// No partition gives out an offset again that may be in `bytes` of which not even the partition is known.
    fn skip(&mut self, bytes: u64) {
        let most = bytes.div_ceil(HEADER_BYTES as u64) * BATCH_RECORDS_MAX;
        let partitions = self.found.state.partitions.values_mut();
        partitions.for_each(|partition| partition.next = partition.next.saturating_add(most));
    }

    /// Reads all of a segment, to where the next one or its footer says that it ends; and how many bytes of it
    /// can't be read.
    fn read(&mut self, file: &File, next: Option<&File>) -> Result<(Scanned, u64), OpenError> {
        let read = self.bytes(file)?;
        self.found.recovered.scanned_bytes += read.bytes.len() as u64;
        let (start, chain) = file.start();
        let scanned = scan(&read, file.number, start, chain, said_end(file, next));
        // A head that is torn was never needed; one that batches came after was whole.
        let damaged = file.head.as_ref().and_then(|read| read.damaged);
        if let Some((from, to)) = damaged.filter(|_| !scanned.found.is_empty()) {
            self.damage(file.number, from, to, None, true);
        }
        Ok((scanned, read.holes.iter().map(|(from, to)| to - from).sum()))
    }

    fn add_segment(&mut self, file: &File, end: End, has_holes: bool) {
        let (start, chain) = file.start();
        let segment = Segment {
            last: file.last(),
            generation: file.generation,
            start,
            end: end.position,
            chain,
            end_chain: Some(end.chain),
            size: file.length,
            live: 0,
            has_holes,
        };
        self.found.state.used += file.length;
        self.found.state.segments.insert(file.number, segment);
    }

    fn add_span(&mut self, file: &File, id: PartitionId, span: Span) {
        let Some(partition) = self.found.state.partitions.get_mut(&id) else { return };
        let key = (file.number, file.generation);
        // What ends behind what the newest head knows of, nobody wrote before it.
        let is_known = partition.first < span.end && span.end <= partition.next;
        if is_known && is_of(partition.born, key, file.last(), span.position) {
            partition.spans.push_back(span);
        }
    }

    /// Where what says a segment's end is gone, the segment went before it, and the power may have taken its removal back. Its
    /// torn end may look like anything by now; of what nobody can read nothing is lost.
    fn note_endless(&mut self) {
        for (number, damage) in std::mem::take(&mut self.endless) {
            if self.found.state.segments.get(&number).is_some_and(|segment| segment.live > 0) {
                self.found.recovered.damage.extend(damage);
            }
        }
    }

    /// Offsets that no segment has, and no damage tells of: files were taken away.
    fn note_gaps(&mut self) {
        let mut gaps = Vec::new();
        for (id, partition) in &mut self.found.state.partitions {
            let mut expected = partition.first;
            let ends = partition.spans.iter().map(|span| (span.segment, span.first, span.end));
            let newest = self.newest.unwrap_or_default();
            for (segment, first, end) in ends.chain([(newest, partition.next, partition.next)]) {
                if first > expected {
                    gaps.push((segment, Lost { partition: *id, from: expected, to: first }));
                }
                expected = expected.max(end);
            }
        }
        let known: Vec<Lost> = self.found.recovered.damage.iter().filter_map(|damage| damage.lost).collect();
        for (segment, lost) in gaps {
            let is_told = known.iter().any(|known| {
                known.partition == lost.partition && known.from <= lost.from && lost.to <= known.to
            });
            if !is_told {
                self.damage(segment, 0, 0, Some(lost), false);
            }
        }
    }

    fn set_live(&mut self) {
        let mut live: HashMap<u32, u64> = HashMap::new();
        for partition in self.found.state.partitions.values_mut() {
            // A trim behind the newest head may have come after its spans were added.
            partition.spans.retain(|span| span.end > partition.first);
            for span in &partition.spans {
                *live.entry(span.segment).or_default() += u64::from(span.bytes);
            }
        }
        for (number, segment) in &mut self.found.state.segments {
            segment.live = live.get(number).copied().unwrap_or_default();
        }
    }

    fn damage(&mut self, segment: u32, from: u32, to: u32, lost: Option<Lost>, is_mended: bool) {
        let damage = Damage { segment, from: from.into(), to: to.into(), lost, is_mended };
        self.found.recovered.damage.push(damage);
    }

    fn error(&self, doing: &'static str, file: &str, source: io::Error) -> OpenError {
        OpenError::Disk { doing, file: file.to_owned(), driver: self.disk.driver(), source }
    }
}

/// Where a segment ends, as the next one or its footer says.
fn said_end(file: &File, next: Option<&File>) -> Option<End> {
    let said = next.and_then(|next| next.head.as_ref()).map(|read| read.head.before);
    said.filter(|before| before.segment == file.number)
        .map(|before| End { position: before.end, chain: before.chain })
        .or_else(|| file.footer.map(|footer| footer.end()))
}

/// Records of a batch: as many as a header can say, for what is compressed may be of any length.
const BATCH_RECORDS_MAX: u64 = (BATCH_BYTES_MAX / LEAST_RECORD_BYTES) as u64;
