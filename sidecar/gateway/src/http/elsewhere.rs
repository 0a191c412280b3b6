//! Who asks for a dnpipe that another server of the pool has is told which: before anything is done, and after it was refused for
//! being nowhere here. Whoever is told so may ask there, so after any other refusal it is not said: it may have been done.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use sidestream_event::native::Refusal;

use super::{Asked, asked::Named, problem::Problem};
use crate::elsewhere::not_owner;

pub(super) async fn redirect(
    State(asked): State<Asked>,
    Named(name): Named,
    request: Request,
    next: Next,
) -> Response {
    let refusal = || -> Option<Refusal> {
        let elsewhere = asked.shared.broker.elsewhere(&name)?;
        Some(match asked.caller.check_any(&asked.shared.broker, &name) {
            // What it is to be is not known, nor who has it: that is to come.
            Err(Refusal::UnknownDnpipe(_)) if elsewhere.owner.is_none() => not_owner(elsewhere),
            Err(refusal) => refusal,
            Ok(()) => not_owner(elsewhere),
        })
    };
    if let Some(refusal) = refusal() {
        return Problem::from(refusal).into_response();
    }
    let response = next.run(request).await;
    match refusal().filter(|_| response.status() == StatusCode::NOT_FOUND) {
        Some(refusal) => Problem::from(refusal).into_response(),
        None => response,
    }
}
