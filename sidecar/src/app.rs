//! The socket of the app: the door of a pod to dnpipes, for the containers that mount its volume.
//!
//! ```text
//!   app ──▶ socket ──▶ greeted ──native──▶ relay ──▶ its lines ═════ TLS 1.3, as who ═════▶ the servers of pools
//!                         └─────HTTP/1.1──▶ proxy ─▶ connections ══  the pod is  ══════▶
//! ```
//!
//! Whoever mounts the volume is let in, and is the pod's service account to the servers, which decide what that may do. What is
//! asked goes to whoever has the dnpipe; the app hears no address and needs no certificate. Nothing is kept here: order,
//! conditions, members and long polls are between the app and the server. What containers can make this process hold is in
//! [`limits`].
//!
//! It must never keep the pod from starting: a socket that cannot be opened is logged, and everything else goes on.

mod http;
mod limits;
mod line;
mod places;
mod relay;
mod ways;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use sidestream_connector::{Address, Servers};
use sidestream_event::native::{
    NAMESPACE_BYTES_MAX, PREAMBLE_BYTES, Preamble, Refusal, VERSION_MAX, VERSION_MIN, Verdict, choose,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixSocket, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use self::{
    limits::{
        ACCEPT_REST, BACKLOG, CONNECTIONS_MAX, DIALS_MAX, GREETING_WITHIN, GREETING_WITHIN_WHEN_BUSY,
        GREETINGS_MAX, MORE_LINES_MAX, NAMES_MAX, OPENS_WITHIN, POOLS_MAX, ROOM_KIB,
    },
    places::{Place, Places},
};
use crate::World;

/// The open socket. It closes, and its connections end, when this is dropped.
#[derive(Debug)]
pub struct AppSocket {
    path: PathBuf,
    /// What it is, whoever has the path.
    inode: Inode,
    accepting: AbortHandle,
}

/// A file, by its device and its number there.
type Inode = (u64, u64);

/// What the connections have in common.
struct Shared {
    /// The pod's own.
    namespace: String,
    places: Places,
    /// Where pools are; none before this process has a certificate.
    servers: Arc<OnceLock<Arc<Servers>>>,
    /// A permit for each KiB of what is large and on its way to servers.
    incoming: Arc<Semaphore>,
    /// The same on its way to apps.
    outgoing: Arc<Semaphore>,
    /// A permit for each connection that is let in.
    connections: Arc<Semaphore>,
    /// A permit for each connection to a server, beside one of each connection of an app.
    lines: Arc<Semaphore>,
    /// A permit for each connection that has ended and whose members are about to leave.
    partings: Arc<Semaphore>,
    /// A permit for each connection to a server that is being opened: a name that does not resolve keeps a thread for a while.
    dials: Semaphore,
    /// Servers that did not answer when they were last called.
    away: Mutex<BTreeSet<String>>,
}

/// Why a connection to a server was not opened.
enum Unopened {
    /// Too many were being opened. Of the server nothing is known.
    NoTurn,
    /// The server does not answer, with the reason.
    Away(String),
}

impl AppSocket {
    /// Opens a socket at `path` that everybody may use who reaches it, also before this process knows where pools are: until
    /// then who asks is told to try again. A dnpipe is looked for in the pool `default` of its namespace, and in `more` pools
    /// of it, seven at most; what is beyond, or is no name, is logged and left out. `namespace` is the pod's own. A socket that
    /// anybody left there loses its place.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(world: &World, path: &Path, namespace: &str, more: &[&str]) -> io::Result<AppSocket> {
        let shared = Arc::new(Shared::new(namespace, more, world.servers()));
        let _runtime = world.sockets().enter();
        let (listener, inode) = listen(path)?;
        let accepting = world.sockets().spawn(accept(shared, listener)).abort_handle();
        Ok(AppSocket { path: path.to_owned(), inode, accepting })
    }
}

impl Drop for AppSocket {
    fn drop(&mut self) {
        self.accepting.abort();
        let is_there = |found: fs::Metadata| (found.dev(), found.ino()) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_there) {
            // Where that fails, the next process takes its place.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The pools that are asked, each once.
fn pools(more: &[&str]) -> Vec<String> {
    let mut pools = vec![DEFAULT_POOL.to_owned()];
    for pool in more.iter().map(|pool| pool.trim()).filter(|pool| !pool.is_empty()) {
        let is_inner = |own: char| own.is_ascii_lowercase() || own.is_ascii_digit() || own == '-';
        let is_name = pool.len() <= NAMESPACE_BYTES_MAX && pool.chars().all(is_inner);
        if !is_name || pools.len() >= POOLS_MAX {
            tracing::warn!(pool, "not asked for dnpipes: {POOLS_MAX} pools at most, by their names alone");
        } else if !pools.iter().any(|own| own == pool) {
            pools.push(pool.to_owned());
        }
    }
    pools
}

/// Opens the socket under a name of its own and gives it `path` when it is ready: whatever was there loses its place and is not
/// asked, because a container may have left there what never answers.
fn listen(path: &Path) -> io::Result<(UnixListener, Inode)> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(&new)?;
    let bound = fs::symlink_metadata(&new)?;
    // Containers run as users of their own, and who may reach it is said by who mounts the volume.
    if bound.file_type().is_socket() {
        fs::set_permissions(&new, fs::Permissions::from_mode(0o666))?;
    }
    let listener = socket.listen(BACKLOG)?;
    fs::rename(&new, path)?;
    Ok((listener, (bound.dev(), bound.ino())))
}

async fn accept(shared: Arc<Shared>, listener: UnixListener) {
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    let mut connections = JoinSet::new();
    while let Ok(permit) = greetings.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let is_busy = greetings.available_permits() < GREETINGS_MAX / 2;
                let within = if is_busy { GREETING_WITHIN_WHEN_BUSY } else { GREETING_WITHIN };
                connections.spawn(receive(shared.clone(), stream, permit, within));
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection of the app: {error}");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// The life of a connection.
async fn receive(
    shared: Arc<Shared>,
    mut stream: UnixStream,
    greeting: OwnedSemaphorePermit,
    within: Duration,
) {
    let greeted = timeout(within, greet(&shared, &mut stream)).await;
    let Ok(Some((permit, language))) = greeted else { return };
    drop(greeting);
    let reason = match language {
        Language::Native => relay::serve(&shared, stream).await,
        Language::Http(begun) => http::serve(&shared, stream, begun).await,
    };
    tracing::debug!("a connection of the app ended: {reason}");
    drop(permit);
}

/// What an app speaks.
enum Language {
    Native,
    /// With what was read of it already.
    Http(Vec<u8>),
}

/// Who is let in holds the permit of a connection.
async fn greet(shared: &Shared, stream: &mut UnixStream) -> Option<(OwnedSemaphorePermit, Language)> {
    let mut bytes = [0; PREAMBLE_BYTES];
    stream.read_exact(&mut bytes).await.ok()?;
    let permit = shared.connections.clone().try_acquire_owned().ok();
    if http::begins(&bytes) {
        if let Some(permit) = permit {
            return Some((permit, Language::Http(bytes.to_vec())));
        }
        return turn_away(stream, http::BUSY).await;
    }
    if http::begins_next(&bytes) {
        return turn_away(stream, http::NO_NEXT).await;
    }
    // Who speaks something else has no use for an answer of ours.
    let client = Preamble::read(&bytes).ok()?;
    let verdict = match choose(client, VERSION_MIN, VERSION_MAX) {
        Verdict::Welcome { .. } if permit.is_none() => Verdict::Busy,
        verdict => verdict,
    };
    stream.write_all(&verdict.write()).await.ok()?;
    match verdict {
        Verdict::Welcome { .. } => Some((permit?, Language::Native)),
        _ => None,
    }
}

/// Says why somebody is not let in.
async fn turn_away<T>(stream: &mut UnixStream, why: &[u8]) -> Option<T> {
    stream.write_all(why).await.ok()?;
    // What it still says is read to its end: else it may lose the answer.
    stream.shutdown().await.ok()?;
    let mut bytes = [0; 64];
    while stream.read(&mut bytes).await.ok()? > 0 {}
    None
}

impl Shared {
    fn new(namespace: &str, more: &[&str], servers: Arc<OnceLock<Arc<Servers>>>) -> Shared {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Shared {
            namespace: namespace.to_owned(),
            places: Places::new(pools(more)),
            servers,
            incoming: semaphore(ROOM_KIB),
            outgoing: semaphore(ROOM_KIB),
            connections: semaphore(CONNECTIONS_MAX),
            lines: semaphore(MORE_LINES_MAX),
            partings: semaphore(CONNECTIONS_MAX),
            dials: Semaphore::new(DIALS_MAX),
            away: Mutex::default(),
        }
    }

    /// Where to call for what is at a place.
    fn address(&self, place: &Place) -> Result<Address, Refusal> {
        // It has no certificate yet.
        let servers = self.servers.get().ok_or(Refusal::Stopping)?;
        self.places.address(place, &**servers).map_err(|reason| Refusal::Bad { reason })
    }

    /// The place of one more connection to a server, beside those that a connection of an app has: the first needs none.
    fn line_beside<'a>(
        &self,
        mut own: impl Iterator<Item = &'a Option<OwnedSemaphorePermit>>,
    ) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        match own.any(Option::is_none) {
            false => Ok(None),
            true => self.lines.clone().try_acquire_owned().map(Some).map_err(|_| Refusal::Busy),
        }
    }

    /// Opens a connection to a server, of which few are opened at once.
    async fn dial<T>(
        &self,
        address: &Address,
        opening: impl Future<Output = Result<T, String>>,
    ) -> Result<T, Unopened> {
        let Ok(Ok(_permit)) = timeout(OPENS_WITHIN, self.dials.acquire()).await else {
            return Err(Unopened::NoTurn);
        };
        let opened = timeout(OPENS_WITHIN, opening).await;
        let opened = opened.unwrap_or_else(|_| Err(format!("no answer came from {address} in time")));
        self.note_whether_away(address, opened.as_ref().err());
        opened.map_err(Unopened::Away)
    }

    /// Says in the log, once each time, that a server went away, or is back.
    fn note_whether_away(&self, address: &Address, error: Option<&String>) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let address = address.to_string();
        match error {
            Some(error) => {
                if away.len() >= NAMES_MAX {
                    away.clear();
                }
                if away.insert(address) {
                    tracing::warn!("a server of dnpipes is away: {error}");
                }
            }
            None => {
                if away.remove(&address) {
                    tracing::info!(address, "a server of dnpipes is back");
                }
            }
        }
    }
}

/// The pool of a dnpipe that names none.
const DEFAULT_POOL: &str = "default";

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_connections_to_servers_are_opened_at_once_and_none_for_ever() {
        let (shared, address) = (Shared::new("shop", &[], Arc::default()), Address::Local("nowhere".into()));
        let (now, most) = (Cell::new(0), Cell::new(0));
        let dial = |_| {
            shared.dial(&address, async {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                sleep(Duration::from_millis(100)).await;
                now.set(now.get() - 1);
                Ok(())
            })
        };
        let opened = join_all((0..10 * DIALS_MAX).map(dial)).await;
        assert!(opened.iter().all(Result::is_ok) && most.get() == DIALS_MAX, "{} at once", most.get());

        let silent = || shared.dial(&address, std::future::pending::<Result<(), String>>());
        let given_up = join_all((0..3 * DIALS_MAX).map(|_| silent())).await;
        assert!(given_up.iter().all(Result::is_err));
    }

    #[test]
    fn pools_are_asked_once_each_and_what_is_no_name_is_left_out() {
        assert_eq!(pools(&[]), ["default"]);
        assert_eq!(pools(&["heavy", " light ", "default", "", "heavy"]), ["default", "heavy", "light"]);
        assert_eq!(pools(&["Heavy", "a/b", "evil.example.com:1", "x"]), ["default", "x"]);
        let many: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(pools(&many).len(), POOLS_MAX);
    }
}
