//! What every dnpipe does, where each of its clients speaks through the socket of a sidecar: nothing is different.
#![cfg(unix)]

#[path = "../gateway/tests/dial/mod.rs"]
mod dial;
#[path = "../gateway/tests/doors/mod.rs"]
#[allow(dead_code, reason = "the doors have clients of other kinds, too")]
mod doors;

use std::{ops::Range, path::PathBuf, sync::Arc, thread, time::Duration};

use doors::{Doors, GroupMember, Participant, Speaks};
use sidestream_client::Address;
use sidestream_conformance::{Client, From, Given, Member, Pulled, Push, Pushed, Refused};
use sidestream_sidecar::{AppSocket, Sidecar, SidecarConfig};
use tempfile::TempDir;

/// Somebody who uses the dnpipes from beside a sidecar of his own.
#[derive(Clone)]
struct App {
    participant: Participant,
    pod: Arc<Pod>,
}

struct Pod {
    _socket: AppSocket,
    sidecar: Option<Sidecar>,
    _volume: TempDir,
}

impl Drop for Pod {
    fn drop(&mut self) {
        // A runtime does not end within another.
        let sidecar = self.sidecar.take();
        thread::spawn(move || drop(sidecar));
    }
}

impl Speaks for App {
    async fn at(server: PathBuf) -> App {
        let config = SidecarConfig { workers: Some(1), ..SidecarConfig::default() };
        let (volume, sidecar) = (tempfile::tempdir().unwrap(), Sidecar::start(config).unwrap());
        let path = volume.path().join("sidestream.sock");
        sidecar.world().use_pools(Arc::new(move |_, _| Ok(Address::Local(server.clone()))));
        let socket = AppSocket::open(sidecar.world(), &path, "test", &[]).unwrap();
        let pod = Pod { _socket: socket, sidecar: Some(sidecar), _volume: volume };
        App { participant: Participant::at(path).await, pod: Arc::new(pod) }
    }
}

/// A member of a group, which may outlive the client it came from.
struct AppMember {
    member: GroupMember,
    _pod: Arc<Pod>,
}

impl Member for AppMember {
    async fn next(&self, records_max: u64, wait: Duration) -> Result<Vec<Given>, Refused> {
        self.member.next(records_max, wait).await
    }

    async fn ack(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        self.member.ack(partition, offsets).await
    }

    async fn give_back(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        self.member.give_back(partition, offsets).await
    }

    async fn leave(self) -> Result<(), Refused> {
        self.member.leave().await
    }
}

impl Client for App {
    type Member = AppMember;

    fn push(&self, push: Push) -> impl Future<Output = Result<Pushed, Refused>> + Send + 'static {
        let (pushing, pod) = (self.participant.push(push), self.pod.clone());
        async move {
            let pushed = pushing.await;
            drop(pod);
            pushed
        }
    }

    async fn pull(
        &self,
        dnpipe: &str,
        partition: u32,
        from: From,
        records_max: u64,
        wait: Duration,
    ) -> Result<Pulled, Refused> {
        self.participant.pull(dnpipe, partition, from, records_max, wait).await
    }

    async fn reset(&self, dnpipe: &str) -> Result<u32, Refused> {
        self.participant.reset(dnpipe).await
    }

    async fn join(
        &self,
        dnpipe: &str,
        group: &str,
        member: &str,
        auto_ack: bool,
    ) -> Result<AppMember, Refused> {
        let member = self.participant.join(dnpipe, group, member, auto_ack).await?;
        Ok(AppMember { member, _pod: self.pod.clone() })
    }

    async fn redrive(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        self.participant.redrive(dnpipe, group).await
    }

    async fn seek(&self, dnpipe: &str, group: &str, to: From) -> Result<(), Refused> {
        self.participant.seek(dnpipe, group, to).await
    }

    async fn lag(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        self.participant.lag(dnpipe, group).await
    }
}

/// A crash is a power cut of the server that leaves any part of what was not flushed.
mod beside_a_sidecar {
    async fn start() -> crate::Doors<crate::App> {
        crate::Doors::simulated(0x5ca1e).await
    }

    sidestream_conformance::conforms!(start);
}
