//! Pull and follow: a record is an event, whose id is the offset.

use std::convert::Infallible;

use axum::{
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use sidestream_event::native::{Answer, DnpipeName, From, Refusal};

use super::{
    Asked,
    asked::{Named, Query},
    place::place,
    problem::Problem,
    records::{Wanted, of, request},
};
use crate::{
    caller::Verb,
    limits::{RECORDS_MAX, WAIT_MAX},
    pulled::is_gone,
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
        return Err(Refusal::UnknownDnpipe(name).into());
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
        let asked = self.asked.clone();
        // Asked anew each time: a right may be taken away while somebody follows.
        let wait = WAIT_MAX.as_millis() as u32;
        let request = request(self.name.clone(), self.partition, self.from, RECORDS_MAX, wait);
        let pulled = async {
            let pulled = tokio::select! {
                pulled = asked.answer(request, Bytes::new()) => pulled,
                () = asked.shared.reached(crate::Phase::Closing) => return Ok(None),
            };
            match pulled {
                Ok(done) => {
                    let Answer::Pulled { from, next, epoch, .. } = done.answer else {
                        return Err(done.unexpected().into());
                    };
                    Ok::<_, Problem>(Some(More::Pulled(of(&done, from..next, RECORDS_MAX)?, epoch)))
                }
                Err(Refusal::OutOfRange { first, .. }) if is_gone(self.is_back, self.from, first) => {
                    Ok(Some(More::Gone(first)))
                }
                Err(refusal) => Err(refusal.into()),
            }
        };
        let ((records, next), epoch) = match pulled.await {
            Ok(Some(More::Pulled(found, epoch))) => (found, epoch),
            Ok(Some(More::Gone(first))) => {
                let epoch = self.asked.shared.broker.epoch(&self.name)?;
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
