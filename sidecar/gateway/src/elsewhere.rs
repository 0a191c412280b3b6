//! What another server of the pool has: who asks for it here is told who that is, and that server's own requests when it is to
//! have what is here.

use bytes::Bytes;
use sidestream_broker::{Copied, Elsewhere, Frozen, HOLD, MoveError};
use sidestream_event::native::{
    Answer, DiskView, DnpipeName, DnpipeView, HANDED_OUT_WITHIN, MoveAnswer, MoveRequest, PartitionView,
    Refusal,
};

use tokio::time::sleep;

use crate::{
    Caller, Shared,
    answers::head,
    leases::MARGIN,
    limits::PULL_BYTES_MAX,
    refusals::{of_pull, of_push},
    session::{Done, Session, Work, never_held_up},
};

impl Shared {
    /// Waits until nobody hands out any more what was given of a dnpipe before this call, here or by the server that had it.
    pub(crate) async fn handed_out(&self, name: &DnpipeName) {
        self.leases.end(name).await;
        if let Some(here) = self.broker.here_for(name) {
            sleep((HANDED_OUT_WITHIN + MARGIN).saturating_sub(here)).await;
        }
    }

    /// What came of a request, unless another server has, by now, what it was about. Who is told so asks there what was asked here:
    /// of what `changes` something that has to be sure not to be done.
    pub(crate) fn redirected(&self, name: &DnpipeName, changes: bool, done: Done) -> Done {
        match done.answer {
            Answer::Refused(refusal) if changes && !is_sure(&refusal) => Done::refused(refusal),
            Answer::Refused(refusal) => Done::refused(self.refusal_of(name, refusal)),
            _ => done,
        }
    }

    /// Why something is refused, unless it is that another server has, by now, what it was about.
    pub(crate) fn refusal_of(&self, name: &DnpipeName, refusal: Refusal) -> Refusal {
        let is_about_place = matches!(
            refusal,
            Refusal::UnknownDnpipe(_)
                | Refusal::UnknownGroup { .. }
                | Refusal::NotMember { .. }
                | Refusal::NotOwner { .. }
                | Refusal::Stopping
        );
        self.broker.elsewhere(name).filter(|_| is_about_place).map_or(refusal, not_owner)
    }

    /// The epoch of a dnpipe that is here, noted as given at this moment.
    pub(crate) fn given_epoch(&self, name: &DnpipeName) -> Result<u32, Refusal> {
        // Where a reset comes between, it is the new one that is good.
        loop {
            let unknown = || self.refusal_of(name, Refusal::UnknownDnpipe(name.clone()));
            let epoch = self.broker.epoch(name).ok_or_else(unknown)?;
            if self.leases.give(&self.broker, name, epoch) {
                return Ok(epoch);
            }
        }
    }
}

/// Whether what is refused so is not done, and will not be.
fn is_sure(refusal: &Refusal) -> bool {
    !matches!(refusal, Refusal::Stopping | Refusal::Failed { .. })
}

pub(crate) fn not_owner(elsewhere: Elsewhere) -> Refusal {
    Refusal::NotOwner { owner: elsewhere.owner.as_deref().map(str::to_owned) }
}

/// A dnpipe that another server has, as far as it is known here: what it is to be, and who serves its partitions.
pub(crate) fn view(elsewhere: Elsewhere, disk: DiskView) -> Option<DnpipeView> {
    let (owner, spec) = (elsewhere.owner?, elsewhere.spec?);
    let partition = || PartitionView { owner: Some((*owner).to_owned()), first: 0, end: 0 };
    Some(DnpipeView {
        name: elsewhere.name,
        epoch: 0,
        durability: format!("{:?}", spec.durability),
        quota_bytes: spec.quota_bytes,
        used_bytes: 0,
        retention_millis: spec.retention.time.map(|time| time.as_millis().try_into().unwrap_or(u64::MAX)),
        retention_bytes: spec.retention.bytes,
        partitions: (0..spec.partitions).map(|_| partition()).collect(),
        disk,
    })
}

impl Session {
    /// A step of a move, asked by another server of the pool: one that runs as who this one is.
    pub(crate) fn begin_move(&self, request: MoveRequest) -> Result<Work, Refusal> {
        let is_own = match &self.caller {
            Caller::Local => true,
            Caller::Peer(id) => self.shared.own.get().is_some_and(|own| own.id() == *id),
        };
        if !is_own {
            return Err(Refusal::NotAllowed { who: self.caller.to_string(), what: "move dnpipes".into() });
        }
        let broker = self.broker().clone();
        Ok(Box::pin(async move {
            // To its end, also where the other server is gone meanwhile.
            let failed = |error: tokio::task::JoinError| MoveError::Bad { reason: error.to_string() };
            let moved = never_held_up(async move {
                match request {
                    MoveRequest::Copy { dnpipe, partition, from, max_bytes } => {
                        let max_bytes = (max_bytes as usize).min(PULL_BYTES_MAX);
                        broker.copy_out(&dnpipe, partition, from, max_bytes).await.map(copied)
                    }
                    MoveRequest::Freeze { dnpipe, to } => {
                        // One that is left halfway would keep it still for ever.
                        let freezing = tokio::spawn(async move { broker.freeze(&dnpipe, to, HOLD).await });
                        freezing.await.map_err(failed).flatten().map(frozen)
                    }
                    MoveRequest::State { dnpipe, token, from, max_bytes } => {
                        let max_bytes = (max_bytes as usize).min(PULL_BYTES_MAX);
                        let state = broker.frozen_state(&dnpipe, token, from, max_bytes);
                        state.map(|state| with_tail(MoveAnswer::State, vec![state]))
                    }
                    MoveRequest::Release { dnpipe, token, to } => {
                        let released = tokio::spawn(async move { broker.release(&dnpipe, token, to).await });
                        released
                            .await
                            .map_err(failed)
                            .flatten()
                            .map(|()| with_tail(MoveAnswer::Done, Vec::new()))
                    }
                    MoveRequest::Thaw { dnpipe, token } => {
                        broker.thaw(&dnpipe, token).await;
                        Ok(with_tail(MoveAnswer::Done, Vec::new()))
                    }
                }
            });
            moved.await.unwrap_or_else(refused)
        }))
    }
}

fn copied(copied: Copied) -> Done {
    let Copied { life, first, end, batches } = copied;
    let tail = batches.into_iter().flat_map(|batch| [head(&batch.header), batch.body]);
    with_tail(MoveAnswer::Copied { life, first, end }, tail.collect())
}

fn frozen(frozen: Frozen) -> Done {
    let Frozen { token, term, ends, lives, state_bytes } = frozen;
    with_tail(MoveAnswer::Frozen { token, term, ends, lives, state_bytes }, Vec::new())
}

fn with_tail(answer: MoveAnswer, tail: Vec<Bytes>) -> Done {
    Done { tail, ..Done::of(Answer::Move(answer)) }
}

fn refused(error: MoveError) -> Done {
    match error {
        MoveError::Stale { what } => with_tail(MoveAnswer::Stale { what: what.into_owned() }, Vec::new()),
        MoveError::Busy { what } => with_tail(MoveAnswer::Busy { what: what.into_owned() }, Vec::new()),
        MoveError::Unknown(name) => Done::refused(Refusal::UnknownDnpipe(name)),
        MoveError::Read(error) => Done::refused(of_pull(error)),
        MoveError::Write(error) => Done::refused(of_push(error)),
        error @ (MoveError::Lost { .. } | MoveError::Key(_) | MoveError::Bad { .. }) => {
            Done::refused(Refusal::Bad { reason: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use sidestream_broker::PushError;

    use super::*;
    use crate::refusals::of_begun_push;

    #[test]
    fn of_a_push_that_may_be_stored_nobody_says_that_it_belongs_elsewhere() {
        let name: DnpipeName = "shop/orders".parse().unwrap();
        for late in [
            PushError::Unknown(name.clone()),
            PushError::Closed,
            PushError::Failed { reason: "the disk is gone".into() },
        ] {
            assert!(!is_sure(&of_begun_push(late)));
        }
        for sure in [PushError::Unknown(name), PushError::Moving, PushError::Busy] {
            assert!(is_sure(&of_push(sure)));
        }
    }
}
