//! Where the pools of dnpipes are, for stages that name one: found by DNS, and believed by who they are.

use std::sync::Arc;

use sidestream_connector::{Address, Servers};
use sidestream_trust::{Identity, SpiffeId};

/// Any server of a pool, which says who has what, for who is `identity`.
pub fn pools(identity: Identity) -> Arc<Servers> {
    Arc::new(move |namespace, pool| {
        let account = format!("dnpipes-{pool}");
        let own = identity.id();
        let expected = SpiffeId::of_service_account(own.trust_domain(), namespace, &account);
        Ok(Address::Peer {
            host: format!("{account}.{namespace}.svc:{PORT}"),
            identity: identity.clone(),
            expected: expected.map_err(|error| error.to_string())?,
        })
    })
}

/// The port of dnpipes on a cluster.
const PORT: u16 = 7420;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidestream_host::Clock;
    use sidestream_trust::Authority;

    use super::*;

    #[test]
    fn a_pool_is_at_its_service_and_is_the_account_of_its_name() {
        let clock = Clock::machine();
        let authority = Authority::create("example.org", &clock).unwrap();
        let own = SpiffeId::of_service_account("example.org", "shop", "bills-main-spl").unwrap();
        let credentials = authority.credentials(&own, &[], Duration::from_secs(3600)).unwrap();
        let pools = pools(Identity::new(credentials, &clock));
        let Ok(Address::Peer { host, expected, identity }) = pools("web", "heavy") else {
            panic!("no address")
        };
        assert_eq!(host, "dnpipes-heavy.web.svc:7420");
        assert_eq!(expected.as_str(), "spiffe://example.org/ns/web/sa/dnpipes-heavy");
        assert_eq!(identity.id(), own);
        assert!(pools("web", "no/name").is_err());
    }
}
