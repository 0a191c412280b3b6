//! What a request says before its body: which dnpipe, and the query. What is none is refused in the words of every refusal.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use sidestream_event::native::DnpipeName;

use super::problem::Problem;

/// The dnpipe of the path.
pub(super) struct Named(pub(super) DnpipeName);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((namespace, name)) = path.map_err(|error| Problem::bad(error.body_text()))?;
        Ok(Named(DnpipeName::new(&namespace, &name)?))
    }
}

/// The query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, Problem> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|query| Query(query.0)).map_err(|error| Problem::bad(error.body_text()))
    }
}
