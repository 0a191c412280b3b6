//! In place of an operator and DNS: a folder that the processes of one machine share.
//!
//! ```text
//!   DIR/authority.pem     who signs: made by the first that comes, for this user's eyes only
//!   DIR/<service>/<n>     where process n of that service listens: as a pod of a StatefulSet, it owns the keys of its number
//! ```
//!
//! Whoever may read the folder may be anybody in it, so it is a user's own. Edges are those of a cluster: TLS 1.3, both ends
//! proved by name.

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sidestream_edge::{BoxFuture, Peering, PeeringConfig, Place, Resolve, ResolveError};
use sidestream_host::{Clock, Random};
use sidestream_plan::stage::Account;
use sidestream_trust::{Authority, Identity, SpiffeError, SpiffeId, TrustError};
use tokio::runtime::Handle;

use crate::{World, cluster::write_whole};

/// The folder of processes that are joined by edges.
#[derive(Clone, Debug)]
pub struct Neighbours(PathBuf);

/// This process's place among them. Dropped, nobody finds it any more.
pub struct Seat {
    path: PathBuf,
    peering: Peering,
    sockets: tokio::runtime::Handle,
}

/// Why a process cannot take part.
#[derive(Debug)]
pub enum JoinError {
    /// The folder cannot be read or written.
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What the machine said.
        error: io::Error,
    },
    /// What signs there cannot be used.
    Trust(TrustError),
    /// The account has a name that no certificate can carry.
    Name(SpiffeError),
    /// No port could be had.
    Listen(io::Error),
}

impl Neighbours {
    /// Those of `folder`, which must be there.
    pub fn at(folder: impl Into<PathBuf>) -> Neighbours {
        Neighbours(folder.into())
    }

    /// Lets this process take part in edges as `account`, found by others as `service`, for as long as it lives.
    pub fn join(&self, world: &World, account: &Account, service: &str) -> Result<Seat, JoinError> {
        let clock = world.clock();
        let identity = self.identity(world.sockets(), clock, account)?;
        let config = PeeringConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity,
            resolver: Arc::new(self.clone()),
            clock: clock.clone(),
            node: String::new(),
        };
        let peering = world.sockets().block_on(Peering::start(config)).map_err(JoinError::Listen)?;
        let path = self.sit_down(service, peering.address())?;
        world.take_part(peering.clone());
        Ok(Seat { path, peering, sockets: world.sockets().clone() })
    }

    /// Who `account` is here, renewed on `sockets` for as long as that lives.
    ///
    /// # Errors
    /// A folder that cannot be read or written, or an account whose name no certificate can carry.
    pub fn identity(
        &self,
        sockets: &Handle,
        clock: &Clock,
        account: &Account,
    ) -> Result<Identity, JoinError> {
        let authority = self.authority(clock)?;
        let credentials = authority.credentials(&named(account)?, &[], LIFE).map_err(JoinError::Trust)?;
        let identity = Identity::new(credentials, clock);
        sockets.spawn(keep_renewed(identity.clone(), authority));
        Ok(identity)
    }

    /// The name of an account here.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn name(account: &Account) -> Result<SpiffeId, JoinError> {
        named(account)
    }

    /// Who signs here: the one that is there, or else a new one. Of several that come at once, one makes it.
    fn authority(&self, clock: &Clock) -> Result<Authority, JoinError> {
        let path = self.0.join("authority.pem");
        if !path.exists() {
            let new = Authority::create(TRUST_DOMAIN, clock).map_err(JoinError::Trust)?;
            let mine = self.0.join(format!("authority.{}", std::process::id()));
            let text = new.certificate_pem() + &new.key_pem();
            write_whole(&mine, text.as_bytes()).map_err(|error| folder(&mine, error))?;
            // A link is there whole or not at all, and is refused where another came first: that one counts.
            let linked = fs::hard_link(&mine, &path);
            let removed = fs::remove_file(&mine);
            linked
                .or_else(|error| if path.exists() { Ok(()) } else { Err(error) })
                .and(removed)
                .map_err(|error| folder(&path, error))?;
        }
        let text = fs::read_to_string(&path).map_err(|error| folder(&path, error))?;
        Authority::from_pem(&text, &text, TRUST_DOMAIN, clock).map_err(JoinError::Trust)
    }

    fn sit_down(&self, service: &str, address: SocketAddr) -> Result<PathBuf, JoinError> {
        let seats = self.0.join(service);
        fs::create_dir_all(&seats).map_err(|error| folder(&seats, error))?;
        for (path, place) in taken(&seats) {
            // Whoever sat there has gone without a word.
            if TcpStream::connect_timeout(&place.address, ANSWERS_WITHIN).is_err() {
                let _ = fs::remove_file(path);
            }
        }
        let mine = self.0.join(format!("seat.{service}.{}", std::process::id()));
        write_whole(&mine, address.to_string().as_bytes()).map_err(|error| folder(&mine, error))?;
        let seat = free_seat(&mine, &seats);
        let removed = fs::remove_file(&mine);
        seat.and_then(|seat| removed.map(|()| seat)).map_err(|error| folder(&seats, error))
    }
}

/// The first seat that nobody has, taken by a link to `mine`: it is there whole or not at all, and for one alone.
fn free_seat(mine: &Path, seats: &Path) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let seat = seats.join(number.to_string());
        match fs::hard_link(mine, &seat) {
            Ok(()) => return Ok(seat),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn named(account: &Account) -> Result<SpiffeId, JoinError> {
    SpiffeId::of_service_account(TRUST_DOMAIN, &account.namespace, &account.name).map_err(JoinError::Name)
}

impl Resolve for Neighbours {
    fn resolve<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Place>, ResolveError>> {
        let places = taken(&self.0.join(service)).map(|(_, place)| place).collect();
        Box::pin(async move { Ok(places) })
    }
}

/// The files of those who sit, and where they are.
fn taken(seats: &Path) -> impl Iterator<Item = (PathBuf, Place)> {
    let entries = fs::read_dir(seats).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let address = fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
        let ordinal = Some(entry.file_name().to_str()?.parse().ok()?);
        Some((entry.path(), Place { address, ordinal }))
    })
}

async fn keep_renewed(identity: Identity, authority: Authority) {
    let mut random = Random::from_entropy();
    loop {
        tokio::time::sleep(identity.renew_in(&mut random).max(RENEW_REST)).await;
        match authority.credentials(&identity.id(), &[], LIFE) {
            Ok(credentials) => identity.replace(credentials),
            Err(error) => tracing::error!("the certificate is not renewed: {error}"),
        }
    }
}

impl Seat {
    /// Leaves, when the pipelines have drained: the others hear what is settled. Blocks, for two seconds at most.
    pub fn leave(self) {
        self.sockets.block_on(self.peering.close(CLOSES_WITHIN));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Where that fails, others find nobody there.
        let _ = fs::remove_file(&self.path);
    }
}

fn folder(path: &Path, error: io::Error) -> JoinError {
    JoinError::Folder { path: path.to_owned(), error }
}

impl fmt::Display for JoinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Folder { path, error } => write!(out, "cannot use {}: {error}", path.display()),
            JoinError::Trust(error) => {
                write!(
                    out,
                    "{error}; remove `authority.pem` to have a new one made, and start all peers again"
                )
            }
            JoinError::Name(error) => error.fmt(out),
            JoinError::Listen(error) => write!(out, "cannot listen for peers: {error}"),
        }
    }
}

impl std::error::Error for JoinError {}

const TRUST_DOMAIN: &str = "localhost";
const LIFE: Duration = Duration::from_secs(86_400);
const RENEW_REST: Duration = Duration::from_secs(5);
const CLOSES_WITHIN: Duration = Duration::from_secs(2);
const ANSWERS_WITHIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_of_a_service_has_a_number_and_one_that_goes_leaves_its_own_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let seats = folder.path().join("hub.shop.svc");
        fs::create_dir(&seats).unwrap();
        let sit = |port: u16| {
            let mine = folder.path().join("mine");
            fs::write(&mine, SocketAddr::from(([127, 0, 0, 1], port)).to_string()).unwrap();
            let seat = free_seat(&mine, &seats).unwrap();
            fs::remove_file(mine).unwrap();
            seat
        };
        let (first, _second) = (sit(1), sit(2));
        let found = || {
            let mut found: Vec<_> =
                taken(&seats).map(|(_, place)| (place.ordinal, place.address.port())).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(), [(Some(0), 1), (Some(1), 2)]);
        fs::remove_file(first).unwrap();
        sit(3);
        assert_eq!(found(), [(Some(0), 3), (Some(1), 2)]);
    }
}
