//! Where peers are. DNS says where, never who: that is proved in the handshake.
//!
//! What DNS does not answer changes nothing (the last known peers stay); what it no longer names leaves only when it was
//! absent twice and its connection is closed, for a connection that lives outranks DNS.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name, RData, RecordType},
    system_conf::read_system_conf,
};

use crate::{BoxFuture, PORT};

/// Finds the receivers of a service.
pub trait Resolve: Send + Sync {
    /// Everybody who serves `service` now. An empty answer is an answer; an error is none.
    fn resolve<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Place>, ResolveError>>;
}

/// Where a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its address.
    pub address: SocketAddr,
    /// Which of its service it is, where that has a meaning: the last part of its pod's name in a StatefulSet.
    pub ordinal: Option<u32>,
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Place {
        Place { address, ordinal: None }
    }
}

/// DNS did not answer.
#[derive(Clone, Debug)]
pub struct ResolveError(
    /// What happened, as a clause.
    pub String,
);

impl fmt::Display for ResolveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for ResolveError {}

/// The same addresses for every service: for processes of one machine, and for tests that change them.
#[derive(Debug, Default)]
pub struct Fixed(Mutex<BTreeMap<String, Vec<Place>>>);

impl Fixed {
    /// From now on `service` is at `places`.
    pub fn set<P: Into<Place>>(&self, service: &str, places: impl IntoIterator<Item = P>) {
        self.lock().insert(service.to_owned(), places.into_iter().map(Into::into).collect());
    }

    /// From now on asking for `service` fails.
    pub fn fail(&self, service: &str) {
        self.lock().remove(service);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Place>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Resolve for Fixed {
    fn resolve<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Place>, ResolveError>> {
        let found = self.lock().get(service).cloned();
        let error = move || ResolveError(format!("no addresses are known for `{service}`"));
        Box::pin(async move { found.ok_or_else(error) })
    }
}

/// DNS as Kubernetes serves it: the headless service's SRV records of the port `sidestream-edge`, else its addresses and
/// port 7443. Reads `/etc/resolv.conf` at first use and again after failures.
#[derive(Default)]
pub struct Dns {
    /// `None` until it is first asked, and after it failed.
    current: Mutex<Option<Asked>>,
    /// The server and the domain to use instead of what the machine says.
    instead: Option<(SocketAddr, String)>,
}

#[derive(Clone)]
struct Asked {
    resolver: TokioResolver,
    /// The cluster's domain, such as `cluster.local`, where the search list tells.
    domain: Option<String>,
}

impl Resolve for Dns {
    fn resolve<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Place>, ResolveError>> {
        Box::pin(async move {
            let asked = self.asked()?;
            let answer = asked.ask(service).await;
            if answer.is_err() {
                *self.lock() = None;
            }
            answer
        })
    }
}

impl Dns {
    /// Asks `server` and takes `domain` for the cluster's, whatever `/etc/resolv.conf` says.
    pub fn at(server: SocketAddr, domain: &str) -> Dns {
        Dns { current: Mutex::default(), instead: Some((server, domain.to_owned())) }
    }

    fn asked(&self) -> Result<Asked, ResolveError> {
        let mut current = self.lock();
        if current.is_none() {
            *current = Some(match &self.instead {
                Some((server, domain)) => {
                    Asked::of(one_server(*server), ResolverOpts::default(), Some(domain.clone()))
                }
                None => Asked::from_system(),
            }?);
        }
        Ok(current.clone().expect("made just above"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Asked>> {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Asked {
    fn from_system() -> Result<Asked, ResolveError> {
        let wrong = |error| ResolveError(format!("cannot read /etc/resolv.conf: {error}"));
        let (config, options) = read_system_conf().map_err(wrong)?;
        let search: Vec<String> = config.search.iter().map(Name::to_string).collect();
        Asked::of(config, options, cluster_domain(&search))
    }

    fn of(
        config: ResolverConfig,
        mut options: ResolverOpts,
        domain: Option<String>,
    ) -> Result<Asked, ResolveError> {
        options.ndots = 1;
        options.attempts = 2;
        options.timeout = Duration::from_secs(1);
        // What was there a moment ago may be gone, and what was not may have come.
        options.positive_max_ttl = Some(Duration::from_secs(1));
        options.negative_max_ttl = Some(Duration::from_secs(1));
        // A set of many addresses does not fit a datagram.
        options.try_tcp_on_error = true;
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| ResolveError(error.to_string()))?;
        Ok(Asked { resolver, domain })
    }

    async fn ask(&self, service: &str) -> Result<Vec<Place>, ResolveError> {
        let name = full_name(service, self.domain.as_deref());
        let srv = self.resolver.lookup(format!("_sidestream-edge._tcp.{name}"), RecordType::SRV).await;
        let srv = match srv {
            Ok(srv) => srv,
            Err(error) if error.is_no_records_found() => {
                let found = self.addresses(&name, PORT).await?;
                return Ok(found.into_iter().map(Place::from).collect());
            }
            Err(error) => return Err(ResolveError(error.to_string())),
        };
        let mut found = Vec::new();
        for record in srv.answers() {
            let RData::SRV(target) = &record.data else { continue };
            let host = target.target.to_string();
            let ordinal = ordinal(&host, service);
            let glue = srv.additionals().iter().filter(|own| own.name == target.target);
            let known = glue.filter_map(|own| own.data.ip_addr());
            let mut addresses: Vec<_> = known.map(|ip: IpAddr| SocketAddr::new(ip, target.port)).collect();
            if addresses.is_empty() {
                addresses = self.addresses(&host, target.port).await?;
            }
            found.extend(addresses.into_iter().map(|address| Place { address, ordinal }));
        }
        found.sort_unstable();
        found.dedup();
        found.truncate(PEERS_MAX);
        Ok(found)
    }

    async fn addresses(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        match self.resolver.lookup_ip(name).await {
            Ok(found) => {
                Ok(found.iter().take(PEERS_MAX).map(|ip: IpAddr| SocketAddr::new(ip, port)).collect())
            }
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(ResolveError(error.to_string())),
        }
    }
}

fn one_server(server: SocketAddr) -> ResolverConfig {
    let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}

/// The cluster's domain, from a search list such as `shop.svc.cluster.local svc.cluster.local cluster.local`.
fn cluster_domain(search: &[String]) -> Option<String> {
    search.iter().find_map(|entry| Some(entry.strip_prefix("svc.")?.trim_end_matches('.').to_owned()))
}

/// The name with its domain and a dot at its end, which spares the walk through the search list.
fn full_name(service: &str, domain: Option<&str>) -> String {
    match domain {
        Some(domain) if service.ends_with(".svc") => format!("{service}.{domain}."),
        _ => service.to_owned(),
    }
}

/// Which of the pods of a StatefulSet a host is: `hub-spl-2.hub-spl.shop.svc.cluster.local.` is number 2 of `hub-spl`, whose
/// service has its name. Pods of a Deployment have their address for a name there.
fn ordinal(host: &str, service: &str) -> Option<u32> {
    let pod = host.split('.').next()?;
    let set = service.split('.').next()?;
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

/// Who is there, by what DNS said so far.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// How often each was absent in a row.
    absent: BTreeMap<Place, u32>,
}

impl Membership {
    /// Takes an answer; gives those that are new.
    pub(crate) fn heard(&mut self, found: &[Place]) -> Vec<Place> {
        for (place, absent) in &mut self.absent {
            *absent = if found.contains(place) { 0 } else { *absent + 1 };
        }
        let mut new = Vec::new();
        for place in found.iter().take(PEERS_MAX) {
            if self.absent.len() < PEERS_MAX && !self.absent.contains_key(place) {
                self.absent.insert(*place, 0);
                new.push(*place);
            }
        }
        new
    }

    /// Those that were absent twice.
    pub(crate) fn gone(&self) -> impl Iterator<Item = Place> + '_ {
        self.absent.iter().filter(|(_, absent)| **absent >= 2).map(|(place, _)| *place)
    }

    /// Forgets one that has left.
    pub(crate) fn forget(&mut self, place: Place) {
        self.absent.remove(&place);
    }
}

/// More peers than a workload has replicas; a forged answer with more changes no more than this.
const PEERS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u8) -> Place {
        SocketAddr::from(([10, 0, 0, number], PORT)).into()
    }

    #[test]
    fn a_pod_of_a_stateful_set_has_a_number_and_one_of_a_deployment_has_none() {
        let service = "hub-spl.shop.svc";
        let number = |host: &str| ordinal(&format!("{host}.hub-spl.shop.svc.cluster.local."), service);
        assert_eq!((number("hub-spl-0"), number("hub-spl-12")), (Some(0), Some(12)));
        for other in ["10-0-0-1", "hub-spl-x", "hub-spl", "my-hub-spl-1", "hub-spl-extra-1", "hub-spl--1"] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn a_peer_leaves_when_it_was_absent_twice_in_a_row() {
        let mut members = Membership::default();
        assert_eq!(members.heard(&[at(1), at(2)]), [at(1), at(2)]);
        assert_eq!(members.heard(&[at(1)]), []);
        assert_eq!(members.gone().count(), 0);
        assert_eq!(members.heard(&[at(1), at(2)]), [], "an answer that flaps makes no new peer");
        members.heard(&[at(1)]);
        members.heard(&[at(1)]);
        assert_eq!(members.gone().collect::<Vec<_>>(), [at(2)]);
        members.forget(at(2));
        assert_eq!(members.heard(&[at(2)]), [at(2)]);
    }

    #[test]
    fn a_thousand_records_make_no_more_peers_than_there_may_be() {
        let many: Vec<_> = (0..1000u32).map(|n| SocketAddr::from((n.to_be_bytes(), PORT)).into()).collect();
        let mut members = Membership::default();
        assert_eq!(members.heard(&many).len(), PEERS_MAX);
        assert_eq!(members.heard(&many[500..]).len(), 0);
    }

    #[test]
    fn a_service_name_gets_the_domain_of_the_search_list() {
        let search: Vec<String> =
            ["shop.svc.example.org.", "svc.example.org.", "example.org."].map(str::to_owned).into();
        assert_eq!(cluster_domain(&search).as_deref(), Some("example.org"));
        assert_eq!(full_name("hub-spl.shop.svc", Some("example.org")), "hub-spl.shop.svc.example.org.");
        assert_eq!(full_name("localhost", Some("example.org")), "localhost");
        assert_eq!(full_name("hub-spl.shop.svc", None), "hub-spl.shop.svc");
    }
}
