//! A refusal as HTTP says it: a status, and a JSON object with its code and its words.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sidestream_event::native::{BadName, Refusal};
use utoipa::ToSchema;

/// Why something is not done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Its name, which never changes: `not-allowed`.
    code: &'static str,
    /// What is wrong and what to do about it.
    error: String,
    /// Where the server is that has the dnpipe, `host:port`; absent where it is this one, or not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip)]
    status: u16,
}

impl Problem {
    pub(super) fn bad(reason: impl Into<String>) -> Problem {
        Refusal::Bad { reason: reason.into() }.into()
    }

    /// To whoever announces a body and does not send it.
    pub(super) fn too_slow() -> Problem {
        let error = "the body did not come whole in time; send it again, or a smaller one".to_owned();
        Problem { code: "too-slow", error, owner: None, status: StatusCode::REQUEST_TIMEOUT.as_u16() }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let status = match refusal {
            Refusal::UnknownDnpipe(_) | Refusal::UnknownPartition { .. } | Refusal::UnknownGroup { .. } => {
                StatusCode::NOT_FOUND
            }
            Refusal::NotAllowed { .. } => StatusCode::FORBIDDEN,
            Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::WrongEpoch { .. }
            | Refusal::WrongOffset { .. }
            | Refusal::OutOfSequence { .. }
            | Refusal::Fenced
            | Refusal::NotMember { .. } => StatusCode::CONFLICT,
            Refusal::OutOfRange { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Refusal::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
            // RFC 9110, section 15.5.20.
            Refusal::NotOwner { owner: Some(_) } => StatusCode::MISDIRECTED_REQUEST,
            Refusal::Busy
            | Refusal::Stopping
            | Refusal::Locked { .. }
            | Refusal::NotOwner { owner: None } => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Damaged { .. } | Refusal::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::BadBatch { .. } | Refusal::Bad { .. } => StatusCode::BAD_REQUEST,
        };
        let (code, error) = (refusal.code(), refusal.to_string());
        let owner = match refusal {
            Refusal::NotOwner { owner } => owner,
            _ => None,
        };
        Problem { code, error, owner, status: status.as_u16() }
    }
}

impl From<BadName> for Problem {
    fn from(bad: BadName) -> Problem {
        Problem::bad(bad.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// To whoever asks for anything else.
pub(super) async fn no_such_path() -> Response {
    let error = "there is nothing at this path; `/v1/openapi.json` lists what there is".to_owned();
    Problem { code: "unknown-path", error, owner: None, status: 404 }.into_response()
}

/// To whoever asks for something else at a path that there is.
pub(super) async fn no_such_method() -> Response {
    let error = "nothing is done here by this method; `/v1/openapi.json` lists what is".to_owned();
    Problem { code: "unknown-method", error, owner: None, status: 405 }.into_response()
}
