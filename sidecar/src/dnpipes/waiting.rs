//! Dnpipes that wait for the key they are to be encrypted with. Secrets come when they come: until then each is tried once a
//! second, and nobody else waits for it.

use std::{sync::Arc, time::Duration};

use sidestream_broker::{ApplyError, Broker, DnpipeSpec};
use sidestream_event::native::DnpipeName;
use tokio::{sync::Mutex, time::sleep};

/// What they are to be. While there are any, somebody tries.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Vec<DnpipeSpec>>>);

impl Waiting {
    /// Makes dnpipes what they are to be, now or when their keys are there. Those that waited before and are not among them
    /// wait no more.
    ///
    /// # Errors
    /// The first that cannot be what it is asked to be, for another reason than its key; those before it are, or wait.
    pub(super) async fn apply(
        &self,
        broker: &Broker,
        specs: Vec<DnpipeSpec>,
    ) -> Result<(), (DnpipeName, ApplyError)> {
        let mut waiting = self.0.lock().await;
        let before = std::mem::take(&mut *waiting);
        let is_tried = !before.is_empty();
        let mut applied = Ok(());
        let mut specs = specs.into_iter();
        for spec in specs.by_ref() {
            match broker.apply(spec.clone()).await {
                Ok(()) => {}
                Err(ApplyError::Key(error)) => {
                    tracing::error!(dnpipe = %spec.name, %error, "a dnpipe waits for its key, and the others are served");
                    waiting.push(spec);
                }
                Err(error) => {
                    applied = Err((spec.name, error));
                    break;
                }
            }
        }
        // What was not come to waits on as it did.
        let left: Vec<DnpipeName> = specs.map(|spec| spec.name).collect();
        waiting.extend(before.into_iter().filter(|spec| left.contains(&spec.name)));
        if !is_tried && !waiting.is_empty() {
            tokio::spawn(self.clone().try_again(broker.clone()));
        }
        applied
    }

    /// None is tried any more.
    pub(super) async fn end(&self) {
        self.0.lock().await.clear();
    }

    /// Until there are none.
    async fn try_again(self, broker: Broker) {
        loop {
            sleep(TRIED_EVERY).await;
            let mut waiting = self.0.lock().await;
            for spec in std::mem::take(&mut *waiting) {
                match broker.apply(spec.clone()).await {
                    Ok(()) => {
                        tracing::info!(dnpipe = %spec.name, "its key is there: a dnpipe is what it is to be")
                    }
                    Err(ApplyError::Key(_) | ApplyError::Write(_)) => waiting.push(spec),
                    Err(error) => tracing::error!(dnpipe = %spec.name, "{error}"),
                }
            }
            if waiting.is_empty() {
                return;
            }
        }
    }
}

/// As often as a server looks whether the key of a dnpipe that is locked has come.
const TRIED_EVERY: Duration = Duration::from_secs(1);
