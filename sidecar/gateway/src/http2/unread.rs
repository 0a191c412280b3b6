//! What may come of a stream while it is not read: as much as its window lets its caller send. All connections share the room
//! for that; where there is none left, a stream is refused instead of left to wait.

use std::sync::Arc;

use sidestream_event::native::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::STREAM_WINDOW_KIB;

/// Of one stream: its part of the room, while it is not read.
#[derive(Debug, Default)]
pub(crate) struct Unread(Option<OwnedSemaphorePermit>);

impl Unread {
    /// Notes whether the stream is left unread now. Refused where there is no room among `all`.
    pub(crate) fn note(&mut self, is_left: bool, all: &Arc<Semaphore>) -> Result<(), Refusal> {
        match (is_left, &self.0) {
            (false, _) => self.0 = None,
            (true, Some(_)) => {}
            (true, None) => {
                let part = all.clone().try_acquire_many_owned(STREAM_WINDOW_KIB);
                self.0 = Some(part.map_err(|_| Refusal::Busy)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_are_left_unread_have_the_room_together_and_give_it_back() {
        let all = Arc::new(Semaphore::new(2 * STREAM_WINDOW_KIB as usize));
        let mut streams = [Unread::default(), Unread::default(), Unread::default()];
        for _ in 0..2 {
            assert!(streams[0].note(true, &all).is_ok() && streams[1].note(true, &all).is_ok());
            assert_eq!(streams[2].note(true, &all), Err(Refusal::Busy));
        }
        assert!(streams[0].note(false, &all).is_ok() && streams[2].note(true, &all).is_ok());
        drop(streams);
        assert_eq!(all.available_permits(), 2 * STREAM_WINDOW_KIB as usize);
    }
}
