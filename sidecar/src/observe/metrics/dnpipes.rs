//! The metrics of the dnpipes that a process serves, and of the journal that keeps them.

use sidestream_broker::GroupInfo;

use super::{
    CACHE_BYTES, CACHE_HITS, CACHE_MISSES, DNPIPE_END, DNPIPE_FIRST, DNPIPE_QUOTA, DNPIPE_RESETS,
    DNPIPE_SIZE, GROUP_DYING, GROUP_LAG, GROUP_LAG_SECONDS, GROUP_MEMBERS, JOURNAL_BARRIERS, JOURNAL_BATCHES,
    JOURNAL_BYTES, JOURNAL_DURABLE, JOURNAL_FAILED, JOURNAL_INFO, JOURNAL_LIVE, JOURNAL_RESERVE,
    JOURNAL_RESERVE_LEFT, JOURNAL_USED, JOURNAL_WRITTEN, Page, VOLUME_FREE, VOLUME_SIZE,
};
use crate::dnpipes::Look;

impl Page {
    pub(super) fn add_dnpipes(&mut self, look: &Look) {
        for (own, groups) in &look.dnpipes {
            let name = own.spec.name.to_string();
            for (number, partition) in own.partitions.iter().enumerate() {
                let labels = [name.as_str(), &number.to_string()];
                self.add(&DNPIPE_FIRST, &labels, partition.first as f64);
                self.add(&DNPIPE_END, &labels, partition.end as f64);
            }
            self.add(&DNPIPE_SIZE, &[&name], own.used_bytes as f64);
            if let Some(quota) = own.spec.quota_bytes {
                self.add(&DNPIPE_QUOTA, &[&name], quota as f64);
            }
            self.add(&DNPIPE_RESETS, &[&name], f64::from(own.epoch));
            groups.iter().for_each(|group| self.add_group(&name, group));
        }
        self.add_journal(look);
    }

    fn add_group(&mut self, dnpipe: &str, group: &GroupInfo) {
        let labels = [dnpipe, &group.spec.name];
        self.add(&GROUP_LAG, &labels, group.lag_records as f64);
        self.add(&GROUP_LAG_SECONDS, &labels, group.lag_seconds);
        self.add(&GROUP_MEMBERS, &labels, group.members.len() as f64);
        self.add(&GROUP_DYING, &labels, group.dying as f64);
    }

    fn add_journal(&mut self, look: &Look) {
        let (usage, counts) = (&look.usage, &look.counts);
        self.add(&JOURNAL_INFO, &[&look.disk], 1.0);
        self.add(&JOURNAL_DURABLE, &[], f64::from(u8::from(look.is_durable)));
        if let Some(room) = look.room {
            self.add(&VOLUME_SIZE, &[], room.bytes as f64);
            self.add(&VOLUME_FREE, &[], room.free_bytes as f64);
        }
        self.add(&JOURNAL_USED, &[], usage.used as f64);
        self.add(&JOURNAL_LIVE, &[], usage.live as f64);
        self.add(&JOURNAL_RESERVE, &[], usage.reserve as f64);
        self.add(&JOURNAL_RESERVE_LEFT, &[], usage.reserve_left as f64);
        self.add(&JOURNAL_BATCHES, &[], counts.batches as f64);
        self.add(&JOURNAL_BYTES, &[], counts.bytes as f64);
        self.add(&JOURNAL_WRITTEN, &[], counts.written_bytes as f64);
        self.add(&JOURNAL_BARRIERS, &[], counts.barriers as f64);
        self.add(&JOURNAL_FAILED, &[], counts.failed as f64);
        self.add(&CACHE_HITS, &[], counts.cache_hits as f64);
        self.add(&CACHE_MISSES, &[], counts.cache_misses as f64);
        self.add(&CACHE_BYTES, &[], counts.cache_bytes as f64);
    }
}
