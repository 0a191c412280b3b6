//! Names of what should be looked at again: put in by many, each once however often, and taken out together.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The names. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Stirred(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    names: Mutex<HashSet<String>>,
    news: Notify,
}

impl Stirred {
    /// These should be looked at.
    pub fn add(&self, names: impl IntoIterator<Item = String>) {
        let mut all = self.lock();
        let before = all.len();
        all.extend(names);
        if all.len() > before {
            self.0.news.notify_one();
        }
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Those that have come since the last call; waits until there are some.
    pub async fn next(&self) -> Vec<String> {
        loop {
            let names: Vec<String> = self.lock().drain().collect();
            if !names.is_empty() {
                return names;
            }
            self.0.news.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_often_is_taken_once_and_nothing_is_missed() {
        let stirred = Stirred::default();
        stirred.add(["a".to_owned(), "a".to_owned()]);
        stirred.add(["a".to_owned()]);
        assert_eq!(stirred.next().await, ["a"]);
        let waiting = tokio::spawn({
            let stirred = stirred.clone();
            async move { stirred.next().await }
        });
        stirred.add(["b".to_owned()]);
        assert_eq!(waiting.await.unwrap(), ["b"]);
    }
}
