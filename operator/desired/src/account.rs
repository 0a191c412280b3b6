//! The ServiceAccount: whom the pods run as. Its name is in their SPIFFE ID; it has no rights on the API server.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::Of;

pub(crate) fn build(_: &Of<'_>) -> ServiceAccount {
    ServiceAccount { automount_service_account_token: Some(false), ..ServiceAccount::default() }
}
