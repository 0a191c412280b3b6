//! Pull and follow: a record is an event, whose id is the offset.

use std::convert::Infallible;

use axum::{
    extract::State,
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use sidestream_broker::{Limits, PullError};
use sidestream_event::native::{DnpipeName, From};

use super::{
    Asked,
    asked::{Named, Query},
    place::place,
    problem::Problem,
    records::{RECORDS_MAX, Wanted, of},
};
use crate::{
    caller::Verb,
    limits::{PULL_BYTES_MAX, WAIT_MAX},
    refusals::of_pull,
};

/// Pulls records of one partition, and goes on as they come: an event each, the record as its data, the offset as its id. A
/// caller that comes back with `Last-Event-ID` goes on behind it. After a reset an event `reset` tells the epoch, also where
/// the reset has removed the place that the caller was at: then it goes on at the oldest record there is.
#[utoipa::path(get, path = "/v1/dnpipes/{namespace}/{name}/events",
    params(("namespace" = String, Path), ("name" = String, Path), Wanted),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 403, body = Problem)))]
pub(super) async fn follow(
    State(asked): State<Asked>,
    Named(name): Named,
    Query(wanted): Query<Wanted>,
    heads: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    asked.caller.check(&asked.shared.broker, &name, Verb::Pull)?;
    if asked.shared.broker.describe(&name).is_none() {
        return Err(sidestream_event::native::Refusal::UnknownDnpipe(name).into());
    }
    let last = heads.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from =
        last.map_or_else(|| place(wanted.from.as_deref()), |last| Ok(From::Offset(last.saturating_add(1))))?;
    let is_back = last.is_some();
    let following = Following { asked, name, partition: wanted.partition, from, is_back, epoch: None };
    let batches = stream::unfold(Some(following), |following| async move { following?.more().await });
    let events = futures_util::StreamExt::flat_map(batches, stream::iter);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

struct Following {
    asked: Asked,
    name: DnpipeName,
    partition: u32,
    from: From,
    /// Whether it was at a place before: that may vanish in a reset.
    is_back: bool,
    epoch: Option<u32>,
}

impl Following {
    /// The next events; the end where nothing more can be told.
    async fn more(mut self) -> Option<(Vec<Result<Event, Infallible>>, Option<Following>)> {
        let shared = self.asked.shared.clone();
        // A right may be taken away while somebody follows.
        let may = self.asked.caller.check(&shared.broker, &self.name, Verb::Pull);
        let limits = Limits { max_bytes: PULL_BYTES_MAX, max_records: RECORDS_MAX };
        let pulled = async {
            may.map_err(Problem::from)?;
            let pulled = tokio::select! {
                pulled = shared.broker.pull(&self.name, self.partition, self.from, limits, Some(WAIT_MAX)) => pulled,
                () = shared.reached(crate::Phase::Closing) => return Ok(None),
            };
            match pulled {
                Ok(pulled) => Ok::<_, Problem>(Some(More::Pulled(of(&pulled, RECORDS_MAX)?, pulled.epoch))),
                Err(PullError::OutOfRange { first, .. }) if self.was_before(first) => {
                    Ok(Some(More::Gone(first)))
                }
                Err(error) => Err(of_pull(error).into()),
            }
        };
        let ((records, next), epoch) = match pulled.await {
            Ok(Some(More::Pulled(found, epoch))) => (found, epoch),
            Ok(Some(More::Gone(first))) => {
                let epoch = shared.broker.describe(&self.name)?.epoch;
                (self.epoch, self.from) = (Some(epoch), From::Offset(first));
                return Some((vec![Ok(reset(epoch))], Some(self)));
            }
            Ok(None) => return None,
            Err(problem) => return Some((vec![Ok(event(Event::default().event("error"), &problem))], None)),
        };
        let mut events = Vec::new();
        if self.epoch.is_some_and(|before| before != epoch) {
            events.push(Ok(reset(epoch)));
        }
        let of_record = |record| Ok(event(Event::default().id(record_id(record)), record));
        events.extend(records.iter().map(of_record));
        (self.epoch, self.from, self.is_back) = (Some(epoch), From::Offset(next), true);
        Some((events, Some(self)))
    }

    /// Whether it was at a place that is gone.
    fn was_before(&self, first: u64) -> bool {
        self.is_back && matches!(self.from, From::Offset(place) if place < first)
    }
}

/// What a pull of a follower gives.
enum More {
    /// Records and where to go on, and their epoch.
    Pulled((Vec<super::records::Record>, u64), u32),
    /// Its place is gone; this is the oldest there is.
    Gone(u64),
}

fn reset(epoch: u32) -> Event {
    Event::default().event("reset").data(epoch.to_string())
}

fn record_id(record: &super::records::Record) -> String {
    record.offset.to_string()
}

fn event(event: Event, data: &impl serde::Serialize) -> Event {
    // What we write is a tree of text and numbers.
    event.json_data(data).unwrap_or_default()
}
