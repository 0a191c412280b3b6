//! What every dnpipe does, whatever serves it.
//!
//! A backend (the journal in this process, a client over a socket, an engine behind the same API) implements two small
//! traits, [`Service`] and [`Client`]; [`conforms!`] then makes a test of each behaviour. The three MUSTs of the dnpipes
//! specification are in `behaviours/musts.rs`, with the clause each test is for.
//!
//! ```text
//!   conforms!(start)  ──▶  #[tokio::test] for each behaviour  ──▶  Service::start ─▶ Client: push pull reset groups
//!                                                                 Service::crash ─▶ the same, again
//! ```
//!
//! Behaviours are written against promises, not against an implementation: they assume no timing, only that what was
//! answered holds. Whether what raced can have happened at all is decided by [`linear`].

pub mod behaviours;
pub mod linear;

use std::{future::Future, ops::Range, time::Duration};

pub use sidestream_event::native::{Conditions, From};

/// A dnpipe service that a test owns.
pub trait Service: Sized + Send + 'static {
    /// How it is used.
    type Client: Client;

    /// Makes a dnpipe.
    fn create(&self, dnpipe: Dnpipe) -> impl Future<Output = ()> + Send;

    /// Another participant, which knows nothing of the others.
    fn client(&self) -> impl Future<Output = Self::Client> + Send;

    /// Ends the service as a crash does, in the middle of whatever it does, and starts it again on what is left. Clients of
    /// before are of no use any more.
    fn crash(self) -> impl Future<Output = Self> + Send;
}

/// A participant.
pub trait Client: Clone + Send + Sync + 'static {
    /// A member of a group.
    type Member: Member;

    /// Pushes a batch: answered when it is durable. What orders happens before the first time the future waits.
    fn push(&self, push: Push) -> impl Future<Output = Result<Pushed, Refused>> + Send + 'static;

    /// Records from a place on, as many as there are up to `records_max`; waits for `wait` where there are none.
    fn pull(
        &self,
        dnpipe: &str,
        partition: u32,
        from: From,
        records_max: u64,
        wait: Duration,
    ) -> impl Future<Output = Result<Pulled, Refused>> + Send;

    /// Removes every record; the new epoch is the answer.
    fn reset(&self, dnpipe: &str) -> impl Future<Output = Result<u32, Refused>> + Send;

    /// Joins a group, which begins with the oldest record.
    fn join(
        &self,
        dnpipe: &str,
        group: &str,
        member: &str,
        auto_ack: bool,
    ) -> impl Future<Output = Result<Self::Member, Refused>> + Send;

    /// Delivers the dead letters of a group again; how many is the answer.
    fn redrive(&self, dnpipe: &str, group: &str) -> impl Future<Output = Result<u64, Refused>> + Send;

    /// Moves the cursors of a group in all partitions.
    fn seek(&self, dnpipe: &str, group: &str, to: From) -> impl Future<Output = Result<(), Refused>> + Send;

    /// How many records a group has not handled.
    fn lag(&self, dnpipe: &str, group: &str) -> impl Future<Output = Result<u64, Refused>> + Send;
}

/// A member of a group.
pub trait Member: Send + Sync + 'static {
    /// The next records, up to `records_max`; waits for `wait` where there are none.
    fn next(
        &self,
        records_max: u64,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<Given>, Refused>> + Send;

    /// These are handled.
    fn ack(&self, partition: u32, offsets: Range<u64>) -> impl Future<Output = Result<(), Refused>> + Send;

    /// These could not be handled.
    fn give_back(
        &self,
        partition: u32,
        offsets: Range<u64>,
    ) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Leaves the group.
    fn leave(self) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// A dnpipe to be made.
#[derive(Clone, Debug)]
pub struct Dnpipe {
    /// Its name, without a namespace.
    pub name: &'static str,
    /// Its partitions.
    pub partitions: u32,
    /// For how long ids of messages are remembered.
    pub dedupe_window: Option<Duration>,
    /// Groups with an end to their patience: name, most deliveries, the dnpipe of their dead letters.
    pub groups: Vec<(&'static str, u32, &'static str)>,
}

impl Dnpipe {
    /// One of one partition.
    pub fn named(name: &'static str) -> Self {
        Self { name, partitions: 1, dedupe_window: None, groups: Vec::new() }
    }
}

/// A batch to be pushed.
#[derive(Clone, Debug, Default)]
pub struct Push {
    /// To which dnpipe.
    pub dnpipe: String,
    /// To which of its partitions.
    pub partition: u32,
    /// The values of its records.
    pub values: Vec<String>,
    /// The id of its first record's message.
    pub message_id: Option<String>,
    /// Producer id, epoch, and the number of the first record.
    pub producer: Option<(u64, u32, u64)>,
    /// Only then.
    pub only_if: Conditions,
}

impl Push {
    /// One record to the first partition.
    pub fn one(dnpipe: &str, value: impl ToString) -> Self {
        Self { dnpipe: dnpipe.into(), values: vec![value.to_string()], ..Self::default() }
    }
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The offset of the first record.
    pub offset: u64,
    /// The epoch it is in.
    pub epoch: u32,
}

/// What a pull gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Offsets and values.
    pub records: Vec<(u64, String)>,
    /// Where to go on.
    pub next: u64,
    /// The epoch.
    pub epoch: u32,
}

impl Pulled {
    /// The values alone.
    pub fn values(&self) -> Vec<&str> {
        self.records.iter().map(|(_, value)| value.as_str()).collect()
    }
}

/// A record that a member was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// Its value.
    pub value: String,
    /// The number of this delivery, from 1.
    pub delivery: u32,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The dnpipe is in another epoch.
    WrongEpoch(u32),
    /// The next record has another offset.
    WrongOffset(u64),
    /// There is nothing there: the oldest offset there is, and the end.
    OutOfRange(u64, u64),
    /// The producer's next number is another one.
    OutOfSequence(u64),
    /// A later incarnation of the producer is there.
    Fenced,
    /// There is no such dnpipe.
    Unknown,
    /// The caller is no member any more.
    NotMember,
    /// Anything else, in its own words.
    Other(String),
}

/// Makes a test of each behaviour. `$start` is the path of an async function without arguments that gives a
/// [`Service`] of its own to each test.
#[macro_export]
macro_rules! conforms {
    ($start:path) => {
        $crate::conforms! { @each $start;
            musts: a_pushed_record_is_available_to_every_participant_until_a_reset,
            musts: a_pull_delivers_and_does_not_remove,
            musts: a_reset_by_anybody_removes_every_message,
            musts: a_message_may_say_anything,
            order: records_come_in_the_order_in_which_they_were_pushed,
            order: offsets_are_dense_and_each_pusher_keeps_its_order,
            order: partitions_keep_their_own_order_and_are_reset_together,
            places: a_late_joiner_sees_everything_since_the_reset,
            places: a_place_is_named_by_offset_first_or_last,
            places: a_pull_beyond_what_is_there_is_told_what_is,
            places: a_pull_waits_for_what_comes,
            conditions: a_push_under_another_epoch_is_refused,
            conditions: of_pushers_that_race_for_an_offset_one_wins,
            conditions: a_push_that_comes_again_is_there_once,
            conditions: a_message_id_that_comes_again_is_there_once_until_a_reset,
            resets: what_races_a_reset_could_have_happened_in_some_order,
            resets: nothing_older_is_delivered_after_a_reset_has_returned,
            groups: members_share_the_work_and_each_record_is_handled_once,
            groups: what_is_given_back_comes_again,
            groups: what_a_member_had_that_leaves_goes_to_another,
            groups: groups_do_not_notice_each_other,
            groups: what_nobody_takes_goes_to_the_dead_letters_once_and_comes_back_when_redriven,
            groups: a_reset_ends_what_a_group_had_not_handled,
            groups: a_group_that_seeks_begins_there,
            crashes: what_was_answered_is_there_after_a_crash,
            crashes: offsets_are_not_given_twice,
            crashes: a_push_that_is_repeated_after_a_crash_is_there_once,
            crashes: a_reset_that_was_answered_is_still_done,
            crashes: what_was_acknowledged_is_not_delivered_again,
            crashes: what_was_not_acknowledged_is_delivered_again,
            crashes: at_most_once_means_so_also_through_a_crash,
        }
    };
    (@each $start:path; $($module:ident: $behaviour:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                $crate::behaviours::$module::$behaviour($start().await).await;
            }
        )*
    };
}
