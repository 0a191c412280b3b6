//! What stands behind the batches of a finished segment: its index. Derived, so nobody waits for it: where it is missing or
//! damaged the segment is read instead.
//!
//! ```text
//!   footer  := summary, entries, zeros up to a block less 64 bytes, trailer; the file ends with it
//!   summary := (partition u32, entries u32, first u64, end u64, bytes u32, position u32, begun i64, time i64)*    48 bytes
//!   entries := (position u32, before u32, offset u64, time i64)*                                                  24 bytes
//!   trailer :=  0 magic "SDFOOTER"   8 format u16  10 zeros      12 number u32      16 generation u32
//!              20 end u32           24 chain u32   28 at u32     32 partitions u32  36 entries u32
//!              40 sum of summary    44 of entries  48 zeros      60 sum of the trailer
//! ```

use std::io;

use sidestream_host::disk::{Aligned, DiskFile};

use crate::{
    PartitionId,
    around::if_readable,
    head::FORMAT,
    index::{Entry, Span, Strand, Strands},
    scan::End,
    settings::END_MAX,
};

const MAGIC: &[u8; 8] = b"SDFOOTER";
const TRAILER: usize = 64;
const SUMMARY: usize = 48;
const ENTRY: usize = 24;

/// The end of a finished segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footer {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) end: u32,
    pub(crate) chain: u32,
    at: u32,
    partitions: u32,
    entries: u32,
    sums: [u32; 2],
}

impl Footer {
    /// Where the batches end.
    pub(crate) fn end(&self) -> End {
        End { position: self.end, chain: self.chain }
    }

    /// Writes the footer behind `end`, and lets the file end with it.
    pub(crate) fn write(
        file: &dyn DiskFile,
        block: usize,
        (number, generation): (u32, u32),
        end: End,
        strands: &Strands,
    ) -> io::Result<u64> {
        let at = end.position.next_multiple_of(block as u32);
        let bytes = Self::encode(number, generation, at, end, strands, block);
        file.write(at.into(), &bytes)?;
        let length = u64::from(at) + bytes.len() as u64;
        if file.length()? > length {
            file.truncate(length)?;
        }
        Ok(length)
    }

    /// How much longer a file gets by it, at most.
    pub(crate) fn bytes_max(strands: &Strands, block: usize) -> u64 {
        let entries: usize = strands.values().map(|strand| SUMMARY + strand.entries.len() * ENTRY).sum();
        (entries + TRAILER).next_multiple_of(block) as u64
    }

    fn encode(number: u32, generation: u32, at: u32, end: End, strands: &Strands, block: usize) -> Aligned {
        let mut bytes = Aligned::default();
        for (partition, strand) in strands {
            let span = strand.span(number);
            bytes.extend(&partition.0.to_le_bytes());
            bytes.extend(&(strand.entries.len() as u32).to_le_bytes());
            bytes.extend(&span.first.to_le_bytes());
            bytes.extend(&span.end.to_le_bytes());
            bytes.extend(&span.bytes.to_le_bytes());
            bytes.extend(&span.position.to_le_bytes());
            bytes.extend(&span.begun.to_le_bytes());
            bytes.extend(&span.time.to_le_bytes());
        }
        let summary = bytes.len();
        for entry in strands.values().flat_map(|strand| &strand.entries) {
            bytes.extend(&entry.position.to_le_bytes());
            bytes.extend(&entry.before.to_le_bytes());
            bytes.extend(&entry.offset.to_le_bytes());
            bytes.extend(&entry.time.to_le_bytes());
        }
        let entries = (bytes.len() - summary) / ENTRY;
        let sums = [crc32c::crc32c(&bytes[..summary]), crc32c::crc32c(&bytes[summary..])];
        let mut trailer = [0; TRAILER];
        trailer[0..8].copy_from_slice(MAGIC);
        trailer[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        let numbers = [
            number,
            generation,
            end.position,
            end.chain,
            at,
            strands.len() as u32,
            entries as u32,
            sums[0],
            sums[1],
        ];
        for (number, place) in numbers.iter().zip(trailer[12..].chunks_exact_mut(4)) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let sum = crc32c::crc32c(&trailer[..TRAILER - 4]);
        trailer[TRAILER - 4..].copy_from_slice(&sum.to_le_bytes());
        let whole = (bytes.len() + TRAILER).next_multiple_of(block) - TRAILER;
        bytes.extend(&vec![0; whole - bytes.len()]);
        bytes.extend(&trailer);
        bytes
    }

    /// The footer of a file, if it ends with one that is whole.
    pub(crate) fn find(file: &dyn DiskFile) -> io::Result<Option<Self>> {
        let length = file.length()?;
        let Some(at) = length.checked_sub(TRAILER as u64) else { return Ok(None) };
        let Some(trailer) = if_readable(file.read(at, TRAILER))? else { return Ok(None) };
        let is_one = trailer.len() == TRAILER
            && trailer[0..8] == *MAGIC
            && trailer[8..10] == FORMAT.to_le_bytes()
            && crc32c::crc32c(&trailer[..TRAILER - 4]) == number(&trailer, TRAILER - 4)
            && number(&trailer, 20) <= END_MAX;
        Ok(is_one.then(|| Self {
            number: number(&trailer, 12),
            generation: number(&trailer, 16),
            end: number(&trailer, 20),
            chain: number(&trailer, 24),
            at: number(&trailer, 28),
            partitions: number(&trailer, 32),
            entries: number(&trailer, 36),
            sums: [number(&trailer, 40), number(&trailer, 44)],
        }))
    }

    /// What the segment has of each partition; none where that is damaged.
    pub(crate) fn spans(&self, file: &dyn DiskFile) -> io::Result<Option<Vec<(PartitionId, Span)>>> {
        let Some(summary) = self.part(file, 0, self.partitions as usize * SUMMARY, self.sums[0])? else {
            return Ok(None);
        };
        let lines = summary.chunks_exact(SUMMARY).map(|line| self.line(line));
        // A sum says who wrote it, not that it makes sense.
        Ok(lines.map(|(id, _, span)| span.is_within(self.end).then_some((id, span))).collect())
    }

    /// What the segment has of each partition, with the entries; none where that is damaged.
    pub(crate) fn strands(&self, file: &dyn DiskFile) -> io::Result<Option<Strands>> {
        let summary = self.partitions as usize * SUMMARY;
        let Some(lines) = self.part(file, 0, summary, self.sums[0])? else { return Ok(None) };
        let Some(entries) = self.part(file, summary, self.entries as usize * ENTRY, self.sums[1])? else {
            return Ok(None);
        };
        let mut entries = entries.chunks_exact(ENTRY).map(|entry| Entry {
            position: number(entry, 0),
            before: number(entry, 4),
            offset: long(entry, 8),
            time: long(entry, 16) as i64,
        });
        let strands = lines.chunks_exact(SUMMARY).map(|line| {
            let (partition, count, span) = self.line(line);
            let entries = entries.by_ref().take(count as usize).collect();
            let strand = Strand { entries, end: span.end, bytes: span.bytes, time: span.time };
            (strand.is_within(self.end) && span.is_within(self.end)).then_some((partition, strand))
        });
        Ok(strands.collect())
    }

    fn line(&self, line: &[u8]) -> (PartitionId, u32, Span) {
        let span = Span {
            segment: self.number,
            first: long(line, 8),
            end: long(line, 16),
            bytes: number(line, 24),
            position: number(line, 28),
            begun: long(line, 32) as i64,
            time: long(line, 40) as i64,
        };
        (PartitionId(number(line, 0)), number(line, 4), span)
    }

    /// Nothing is made for what the trailer claims beyond the file's own length.
    fn part(&self, file: &dyn DiskFile, skip: usize, length: usize, sum: u32) -> io::Result<Option<Aligned>> {
        let at = u64::from(self.at) + skip as u64;
        if at + length as u64 > file.length()? {
            return Ok(None);
        }
        let Some(bytes) = if_readable(file.read(at, length))? else { return Ok(None) };
        Ok((bytes.len() == length && crc32c::crc32c(&bytes) == sum).then_some(bytes))
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(number(bytes, at)) | u64::from(number(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use sidestream_event::record::Header;
    use sidestream_host::disk::{Disk, SimDisk};

    use super::*;

    #[test]
    fn a_footer_is_read_as_it_was_written_and_no_flipped_bit_goes_unseen() {
        let disk = SimDisk::new();
        let file = disk.create("a").unwrap();
        file.allocate(64 << 10).unwrap();
        let mut strands = Strands::new();
        for n in 0..40_u32 {
            let header = Header {
                length: 150,
                count: 2,
                base_offset: u64::from(n) * 2,
                append_time: n.into(),
                ..Header::default()
            };
            strands.entry(PartitionId(n % 3)).or_default().note(&header, 8192 + n * 1000);
        }
        let end = End { position: 50_000, chain: 77 };
        let length = Footer::write(&*file, 512, (4, 1), end, &strands).unwrap();
        let footer = Footer::find(&*file).unwrap().unwrap();
        assert_eq!((footer.number, footer.generation, footer.end, footer.chain), (4, 1, 50_000, 77));
        assert_eq!(footer.strands(&*file).unwrap().unwrap(), strands);
        let spans: Vec<_> = strands.iter().map(|(id, strand)| (*id, strand.span(4))).collect();
        assert_eq!(footer.spans(&*file).unwrap().unwrap(), spans);
        let zeros_to = length - 64;
        for bit in 50_176 * 8..length * 8 {
            disk.corrupt("a", |bytes| bytes[bit as usize / 8] ^= 1 << (bit % 8));
            let read = Footer::find(&*file).unwrap().and_then(|footer| footer.strands(&*file).unwrap());
            assert!(read.is_none_or(|read| bit / 8 < zeros_to && read == strands), "bit {bit}");
            disk.corrupt("a", |bytes| bytes[bit as usize / 8] ^= 1 << (bit % 8));
        }
    }
}
