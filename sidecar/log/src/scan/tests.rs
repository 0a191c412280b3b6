use sidestream_host::disk::Aligned;

use super::*;

const NUMBER: u32 = 9;
const START: usize = 8192;

/// A segment under construction: groups of batches, each in a sector of its own.
struct Built {
    bytes: Vec<u8>,
    chain: u32,
    frontier: u32,
    offset: u64,
}

impl Built {
    fn new() -> Self {
        Self { bytes: vec![0; START], chain: 77, frontier: START as u32, offset: 0 }
    }

    /// Batches with bodies of these lengths, all of one group.
    fn group(self, lengths: &[usize]) -> Self {
        let body = |length: &usize| (0..*length).map(|n| (n % 251) as u8 + 1).collect();
        self.group_of(&lengths.iter().map(body).collect::<Vec<_>>())
    }

    /// Batches of these bodies, all of one group.
    fn group_of(mut self, bodies: &[Vec<u8>]) -> Self {
        let start = self.bytes.len();
        for body in bodies {
            let header = Header {
                length: (HEADER_BYTES + body.len()) as u32,
                count: 1,
                partition: 5,
                base_offset: self.offset,
                body_crc: crc32c::crc32c(body),
                chain: self.chain,
                place: place(NUMBER, self.bytes.len() as u32),
                frontier: self.frontier,
                ..Header::default()
            };
            let mut written = [0; HEADER_BYTES];
            header.write(&mut written);
            self.bytes.extend(written);
            self.bytes.extend(body);
            self.chain = sum_of(&header);
            self.offset += 1;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        assert!(start < self.bytes.len());
        self.frontier = self.bytes.len() as u32;
        self
    }

    fn scan(&self, change: impl FnOnce(&mut [u8])) -> Scanned {
        let mut bytes = Aligned::of(&self.bytes);
        bytes.extend(&[0; 8192]);
        change(&mut bytes);
        scan(&Around { bytes, holes: Vec::new() }, NUMBER, START as u32, Some(77), None)
    }

    fn known(&self, change: impl FnOnce(&mut [u8])) -> Scanned {
        let mut bytes = Aligned::of(&self.bytes);
        change(&mut bytes);
        let end = End { position: self.bytes.len() as u32, chain: self.chain };
        scan(&Around { bytes, holes: Vec::new() }, NUMBER, START as u32, Some(77), Some(end))
    }
}

/// A body of zeros is whole in a sector that was never written; of the header behind it that sector had one bit.
#[test]
fn a_header_that_lacks_one_bit_of_a_sector_that_was_never_written_is_a_torn_end() {
    // The first header ends with a sector's last byte but for one, which is the second one's first: a length of 128.
    let zeros = vec![0; 2 * SECTOR - 1 - HEADER_BYTES];
    let built = Built::new().group_of(&[zeros.clone(), vec![7; 128 - HEADER_BYTES], vec![8; 100]]);
    let at = START + HEADER_BYTES + zeros.len();
    assert_eq!((at % SECTOR, built.bytes[at]), (SECTOR - 1, 128));
    let torn = built.scan(|bytes| bytes[at] = 0);
    assert_eq!((offsets(&torn), torn.damage), (vec![0], vec![]));
    assert_eq!(torn.torn, Some((at as u32, (at + HEADER_BYTES) as u32)));
    // Where it was acknowledged, or the sector was written, it is a flipped bit.
    let known = built.known(|bytes| bytes[at] = 0);
    assert_eq!((offsets(&known), known.damage.len()), (vec![0, 1, 2], 1));
    let written = Built::new().group_of(&[vec![3; zeros.len()], vec![7; 128 - HEADER_BYTES], vec![8; 100]]);
    let flipped = written.scan(|bytes| bytes[at] = 0);
    assert_eq!((offsets(&flipped), flipped.damage.len(), flipped.torn), (vec![0, 1, 2], 1, None));
}

fn offsets(scanned: &Scanned) -> Vec<u64> {
    scanned.found.iter().map(|found| found.header.base_offset).collect()
}

fn built() -> Built {
    Built::new().group(&[100, 700, 60]).group(&[2000]).group(&[300, 300])
}

#[test]
fn a_whole_segment_is_read_to_its_end() {
    let scanned = built().scan(|_| {});
    assert_eq!(offsets(&scanned), [0, 1, 2, 3, 4, 5]);
    assert_eq!((scanned.damage.len(), scanned.torn, scanned.chain), (0, None, built().chain));
}

#[test]
fn a_torn_last_group_ends_the_segment_before_what_is_torn() {
    let whole = built();
    let last = whole.bytes.len() - 1024;
    // The second sector of the last group was never written.
    let scanned = whole.scan(|bytes| bytes[last + 512..last + 1024].fill(0));
    assert_eq!(offsets(&scanned), [0, 1, 2, 3, 4]);
    assert!(scanned.torn.is_some() && scanned.damage.is_empty());
}

#[test]
fn damage_before_the_frontier_is_reported_and_what_comes_after_it_stays() {
    let whole = built();
    for missing in [0_u64, 1, 2, 3] {
        let position = whole.scan(|_| {}).found[missing as usize].position as usize;
        let scanned = whole.scan(|bytes| bytes[position + HEADER_BYTES + 3] ^= 4);
        let expected: Vec<u64> = (0..6).filter(|offset| *offset != missing).collect();
        assert_eq!(offsets(&scanned), expected);
        let [damage] = scanned.damage[..] else { panic!("{:?}", scanned.damage) };
        assert_eq!(damage.lost, Some(Lost { partition: PartitionId(5), from: missing, to: missing + 1 }));
        assert_eq!(damage.from, position as u64);
    }
}

#[test]
fn a_header_that_is_gone_costs_its_own_batch_alone() {
    let whole = built();
    let position = whole.scan(|_| {}).found[1].position as usize;
    let scanned = whole.scan(|bytes| bytes[position..position + HEADER_BYTES].fill(0xff));
    assert_eq!(offsets(&scanned), [0, 2, 3, 4, 5]);
    assert_eq!(scanned.damage.len(), 1);
    assert_eq!(scanned.unknown_bytes, 812);
}

#[test]
fn a_group_that_is_missing_between_two_others_does_not_go_unseen() {
    let whole = built();
    let position = whole.scan(|_| {}).found[3].position as usize;
    let scanned = whole.scan(|bytes| bytes[position..position + 2560].fill(0));
    assert_eq!(offsets(&scanned), [0, 1, 2, 4, 5]);
    assert_eq!(scanned.damage.len(), 1);
    // Nor one at the end, where it is known how far the segment went.
    let last = whole.bytes.len() - 1024;
    let scanned = whole.known(|bytes| bytes[last..].fill(0));
    assert_eq!((offsets(&scanned), scanned.damage.len()), (vec![0, 1, 2, 3], 1));
}

#[test]
fn a_batch_at_another_place_is_none() {
    let whole = built();
    let from = whole.scan(|_| {}).found[3].position as usize;
    // The body of a batch holds a batch that was copied there, and the batch around it is damaged.
    let scanned = whole.scan(|bytes| {
        let copy = bytes[START..START + 212].to_vec();
        bytes[from + 512..from + 512 + 212].copy_from_slice(&copy);
        bytes[from..from + 8].fill(0xff);
    });
    assert_eq!(offsets(&scanned), [0, 1, 2, 4, 5]);
}

#[test]
fn no_flipped_bit_goes_unseen_nor_costs_more_than_its_batch() {
    let whole = built();
    let batches = whole.known(|_| {}).found;
    for bit in START * 8..whole.bytes.len() * 8 {
        let scanned = whole.known(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let inside = batches.iter().position(|found| {
            let from = found.position as usize;
            (from..from + found.header.length as usize).contains(&(bit / 8))
        });
        let found = offsets(&scanned);
        match inside {
            Some(batch) => {
                assert!(!scanned.damage.is_empty(), "bit {bit} of batch {batch} is silent");
                assert!(found.len() >= 5, "bit {bit} costs more than a batch");
                let others = (0..6).filter(|offset| *offset != batch as u64);
                assert!(
                    others.clone().all(|offset| found.contains(&offset)),
                    "bit {bit} costs another batch"
                );
            }
            // Padding says nothing; it is not taken for a batch.
            None => assert_eq!(found, [0, 1, 2, 3, 4, 5], "bit {bit}"),
        }
    }
}

/// The last byte of its header's sum is in the next sector, and has one bit: where that was not written, it looks like a flip.
#[test]
fn a_header_that_is_torn_at_its_last_byte_is_no_damage_that_was_mended() {
    let cut = START + SECTOR;
    let first = SECTOR - 2 * HEADER_BYTES + 1;
    let mut tried = 0;
    for second in 100..600 {
        let built = Built::new().group(&[first, second]);
        if built.bytes[cut].count_ones() == 1 {
            let scanned = built.scan(|bytes| bytes[cut..].fill(0));
            assert_eq!((offsets(&scanned), scanned.damage), (vec![0], vec![]));
            assert!(scanned.torn.is_some());
            tried += 1;
        }
    }
    assert!(tried > 0);
}
