//! A server of dnpipes on one thread, and connections to it one after the other.
//!
//! All of it runs by a clock that stands still while anything can be done: who waits for a minute is through in no time, and what
//! never ends is found. The dnpipe `a/b` has a few records and no room for another, so no push changes what the next input finds.

use std::{pin::Pin, sync::Arc, time::Duration};

use sidestream_broker::{
    Broker, DnpipeSpec,
    access::{Rule, Verbs},
};
use sidestream_event::{
    native::{Conditions, DiskView, DnpipeName, Refusal, Verified},
    record::{BatchWriter, Header},
};
use sidestream_gateway::{Caller, Gateway, Limits, Storage};
use sidestream_host::{Clock, disk::SimDisk};
use sidestream_log::{Journal, Settings, Steps};
use sidestream_trust::SpiffeId;
use tokio::{
    io::DuplexStream,
    runtime::Runtime,
    task::yield_now,
    time::{sleep, timeout},
};

/// See the module.
pub(crate) struct World {
    runtime: Runtime,
    gateway: Arc<Gateway>,
    caller: Caller,
    /// What the journal does.
    steps: Steps,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of this thread alone");
        let (clock, _) = Clock::simulated(1_700_000_000_000_000_000);
        let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 0, ..Settings::default() };
        let opened = Journal::open_stepped(Arc::new(SimDisk::new()), settings, clock.clone());
        let (journal, mut steps, recovered) = opened.expect("a new journal");
        let broker = runtime.block_on(stepped(&mut steps, async {
            let broker = Broker::open(journal, &recovered, clock).await.expect("a new broker");
            fill(&broker).await;
            broker
        }));
        let caller = Caller::Peer(SpiffeId::of_service_account("d", "a", "till").expect("an ID"));
        let gateway = Arc::new(Gateway::new(broker, Arc::new(Still), Limits::default()));
        Self { runtime, gateway, caller, steps }
    }

    /// Does something with a connection until it is done, or waits for what never comes. The connection ends with it.
    ///
    /// # Panics
    /// Where the server does, or goes on when nobody is there any more.
    pub(crate) fn connected<F: Future<Output = ()>>(&mut self, asking: impl FnOnce(DuplexStream) -> F) {
        let Self { runtime, gateway, caller, steps } = self;
        runtime.block_on(async {
            let (own, other) = tokio::io::duplex(64 << 10);
            let (gateway, caller) = (gateway.clone(), caller.clone());
            let serving = tokio::spawn(async move { gateway.serve(other, caller).await });
            let writing = async {
                loop {
                    while steps.commit() {}
                    sleep(STEP).await;
                }
            };
            // Those who follow are told of nothing for ever.
            let asking = timeout(FOLLOWED_FOR, asking(own));
            tokio::select! {
                _ = asking => {}
                () = writing => {}
            }
            timeout(ENDS_WITHIN, serving).await.expect("it goes on with nobody there").expect("no panic");
        });
    }
}

/// Does what has to wait for a journal without threads.
async fn stepped<T>(steps: &mut Steps, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = yield_now() => drop(steps.commit()),
        }
    }
}

/// Makes `a/b`, which the caller may push to and pull from, and fills it to the last byte.
async fn fill(broker: &Broker) {
    let name: DnpipeName = "a/b".parse().expect("a name");
    let verbs = Verbs { push: true, pull: true, ..Verbs::NONE };
    let access = vec![Rule { verbs, namespace: None, service_account: None }];
    let spec = DnpipeSpec { quota_bytes: Some(1000), access, ..DnpipeSpec::new(name.clone()) };
    broker.apply(spec).await.expect("a new dnpipe");
    for value in [&b"text"[..], b"\xff\x00", &[b'x'; 200], b""].into_iter().chain(std::iter::repeat(&b""[..]))
    {
        let mut writer = BatchWriter::new();
        writer.push(1, Some(b"k"), &[("h", value)], value).expect("it is short");
        let batch = writer.finish(Header::default()).expect("there is a record");
        let Ok(pushing) = broker.push(&name, 0, batch, Conditions::default()) else { break };
        pushing.await.expect("there is room");
    }
}

/// A disk of which nobody asks anything.
struct Still;

impl Storage for Still {
    fn disk(&self) -> DiskView {
        DiskView::default()
    }

    fn wall_nanos(&self) -> i64 {
        0
    }

    fn verify(&self) -> Pin<Box<dyn Future<Output = Result<Verified, Refusal>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(Verified::default())))
    }
}

/// How often the journal does something.
const STEP: Duration = Duration::from_secs(1);
/// Longer than any request may take.
const FOLLOWED_FOR: Duration = Duration::from_secs(100);
/// When the other end is gone.
const ENDS_WITHIN: Duration = Duration::from_secs(100);
