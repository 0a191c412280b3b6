//! How much the caller of a stream has room for.

use super::proto;
use crate::{
    limits::{RECORDS_MAX, STREAMED_BYTES_MAX},
    pulled::Most,
};

/// What may still be sent; not counted where it is none.
pub(super) struct Credit {
    records: Option<u64>,
    bytes: Option<u64>,
    /// Bytes of a record that were sent beyond what was granted.
    owed: u64,
}

impl Credit {
    /// What a stream begins with.
    pub(super) fn new(granted: Option<proto::Credit>) -> Credit {
        let proto::Credit { records, bytes } = granted.unwrap_or_default();
        Credit { records, bytes, owed: 0 }
    }

    /// More is granted; of what is not counted there is no more.
    pub(super) fn grant(&mut self, more: proto::Credit) {
        let add = |own: Option<u64>, more: Option<u64>| own.map(|own| own.saturating_add(more.unwrap_or(0)));
        let granted = more.bytes.unwrap_or(0);
        let repaid = granted.min(self.owed);
        self.owed -= repaid;
        self.records = add(self.records, more.records);
        self.bytes = add(self.bytes, Some(granted - repaid));
    }

    /// What the next message may have; none where nothing may be sent.
    pub(super) fn most(&self) -> Option<Most> {
        let records = self.records.unwrap_or(u64::MAX).min(RECORDS_MAX);
        let bytes = self.bytes.unwrap_or(u64::MAX).min(STREAMED_BYTES_MAX);
        (records > 0 && bytes > 0).then_some(Most { records, bytes })
    }

    /// So much was sent.
    pub(super) fn spend(&mut self, records: u64, bytes: u64) {
        self.records = self.records.map(|own| own.saturating_sub(records));
        if let Some(own) = &mut self.bytes {
            self.owed += bytes.saturating_sub(*own);
            *own = own.saturating_sub(bytes);
        }
    }
}

/// Whether a request grants nothing: it asks for the epoch.
pub(super) fn is_nothing(credit: &proto::Credit) -> bool {
    credit.records.unwrap_or(0) == 0 && credit.bytes.unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(records: u64, bytes: u64) -> proto::Credit {
        proto::Credit { records: Some(records), bytes: Some(bytes) }
    }

    #[test]
    fn nothing_is_sent_without_both_and_what_was_too_much_is_paid_back_first() {
        let mut credit = Credit::new(Some(granted(2, 100)));
        assert_eq!(credit.most().map(|most| (most.records, most.bytes)), Some((2, 100)));
        credit.spend(1, 150);
        assert!(credit.most().is_none());
        credit.grant(granted(0, 50));
        assert!(credit.most().is_none(), "50 were owed");
        credit.grant(granted(0, 1));
        assert_eq!(credit.most().map(|most| (most.records, most.bytes)), Some((1, 1)));
        credit.spend(1, 1);
        credit.grant(granted(0, 100));
        assert!(credit.most().is_none(), "there are no records left");
    }

    #[test]
    fn what_is_not_counted_is_bounded_by_the_message_alone() {
        let mut credit = Credit::new(None);
        credit.spend(u64::MAX, u64::MAX);
        credit.grant(granted(1, 1));
        assert_eq!(
            credit.most().map(|most| (most.records, most.bytes)),
            Some((RECORDS_MAX, STREAMED_BYTES_MAX))
        );
    }
}
