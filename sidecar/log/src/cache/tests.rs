use std::{sync::Barrier, thread};

use sidestream_host::Random;

use super::*;

const FILE: FileKey = (1, 0);

/// Memory that says when it is let go of.
struct Counted(Vec<u8>, Arc<Mutex<usize>>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.1.lock().unwrap() -= self.0.len();
    }
}

/// What stands at a place of a file, whichever piece it is in.
fn byte((number, generation): FileKey, position: u32) -> u8 {
    (position ^ (position >> 9) ^ number.wrapping_mul(31) ^ generation.wrapping_mul(7)) as u8
}

fn bytes(file: FileKey, position: u32, length: usize) -> Vec<u8> {
    (position..position + length as u32).map(|at| byte(file, at)).collect()
}

#[test]
fn what_is_wanted_stays_longest() {
    const BYTES: u32 = 20_000;
    let cache = Cache::new(10 * (BYTES as usize + PIECE_COST + PART_COST));
    for n in 0..100_u32 {
        cache.put(FILE, n * BYTES, Bytes::from(vec![n as u8; BYTES as usize]), BYTES as usize);
        // The first is looked at again and again.
        assert!(cache.get(FILE, 10, 500).is_some(), "{n}");
    }
    assert!(cache.get(FILE, 50 * BYTES, 1).is_none());
    assert_eq!(cache.get(FILE, 100 * BYTES - 100, 7).unwrap(), vec![99; 100]);
    assert_eq!(cache.counts().evicted, 90);
}

#[test]
fn a_piece_answers_only_for_what_is_wholly_in_it() {
    let cache = Cache::new(1 << 20);
    cache.put(FILE, 4096, Bytes::from(vec![7; 100]), 100);
    assert!(cache.get(FILE, 4096, 100).is_some());
    for (file, position, length) in
        [(FILE, 4095, 2), (FILE, 4096, 101), (FILE, 4196, 1), ((2, 0), 4096, 1), ((1, 1), 4096, 1)]
    {
        assert!(cache.get(file, position, length).is_none(), "{file:?} {position} {length}");
    }
    let counts = cache.counts();
    assert_eq!((counts.hits, counts.misses, counts.evicted), (1, 5, 0));
}

#[test]
fn groups_of_any_size_that_follow_each_other_are_all_there() {
    let cache = Cache::new(64 << 20);
    let mut random = Random::seeded(3);
    let mut position = 8192;
    let mut groups = Vec::new();
    while position < 8 << 20 {
        let length = match random.below(12) {
            0 => random.below(2 << 20) as usize + 1,
            1..=3 => random.below(60 << 10) as usize + 1,
            _ => random.below(12 << 10) as usize + 1,
        };
        // As groups are padded.
        let length = length.next_multiple_of(512);
        let group = bytes(FILE, position, length);
        match length <= SMALL_GROUP {
            true => cache.put_small(FILE, position, &group),
            false => cache.put(FILE, position, Bytes::from(group), length),
        }
        groups.push((position, length));
        position += length as u32;
    }
    for (position, length) in groups {
        let from = random.below(length as u64) as u32;
        let found = cache.get(FILE, position + from, length - from as usize);
        assert_eq!(found.unwrap(), bytes(FILE, position + from, length - from as usize));
    }
    assert_eq!((cache.counts().misses, cache.counts().evicted), (0, 0));
}

#[test]
fn whatever_is_put_and_looked_at_the_budget_holds() {
    for seed in 0..10 {
        let mut random = Random::seeded(seed);
        let budget = 1 << (14 + random.below(7));
        let cache = Cache::new(budget);
        let alive = Arc::new(Mutex::new(0_usize));
        let mut tail = 8192_u32;
        for _ in 0..600 {
            let most = if random.below(8) == 0 { 100_000 } else { 9000 };
            let length = 1 + random.below(most) as usize;
            match random.below(3) {
                0 if length <= SMALL_GROUP => {
                    cache.put_small(FILE, tail, &bytes(FILE, tail, length));
                    tail += (length as u32).next_multiple_of(512);
                }
                1 => drop(cache.get(FILE, random.below(u64::from(tail)) as u32, 1)),
                _ => {
                    let (file, position) = ((2 + random.below(3) as u32, 0), random.below(1 << 24) as u32);
                    *alive.lock().unwrap() += length;
                    let counted = Counted(bytes(file, position, length), alive.clone());
                    cache.put(file, position, Bytes::from_owner(counted), length);
                }
            }
            let used = cache.clock().used;
            assert_eq!(cache.counts().used, used as u64);
            assert!(used <= budget && *alive.lock().unwrap() <= used, "seed {seed}: {used} of {budget}");
        }
        assert!(cache.counts().evicted > 0);
    }
}

/// Threads that read while one writes and takes away: what they find is what was written there, and what was written last is
/// always found.
#[test]
fn who_follows_the_end_finds_it_whatever_is_taken_away_meanwhile() {
    // Fewer than the places of a bucket: one is always free to be used.
    const READERS: usize = 6;
    const GROUPS: u32 = 3000;
    let cache = Cache::new(1 << 20);
    let (tail, begin) = (Tally::new(), Barrier::new(READERS + 1));
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (cache, tail, begin) = (&cache, &tail, &begin);
            scope.spawn(move || {
                let mut random = Random::seeded(reader as u64);
                begin.wait();
                loop {
                    let end = tail.get() as u32;
                    if end > 0 {
                        let position = random.below(u64::from(end)) as u32 / 512 * 512;
                        if let Some(found) = cache.get(FILE, position, 512) {
                            assert_eq!(found[..512], bytes(FILE, position, 512));
                        }
                    }
                    if end >= GROUPS * 4096 {
                        return;
                    }
                }
            });
        }
        begin.wait();
        let mut random = Random::seeded(99);
        for group in 0..GROUPS {
            let (position, length) = (group * 4096, 512 * (1 + random.below(8) as usize));
            match random.below(2) {
                0 => cache.put_small(FILE, position, &bytes(FILE, position, length)),
                _ => cache.put(FILE, position, Bytes::from(bytes(FILE, position, length)), length),
            }
            assert!(cache.get(FILE, position, length).is_some(), "group {group}");
            tail.add(4096);
        }
    });
    assert!(cache.counts().evicted > 100 && cache.clock().used <= 1 << 20);
}
