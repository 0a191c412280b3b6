//! A source that takes the place of another reads on where that one stopped, and not where its lines were delivered to: so
//! those that are on their way come neither twice nor late.
//!
//! What it gets is the open files, what the intake did not take any more, and the positions with what is in flight. The
//! numbers of the events go on, so that the position follows the lines of both.

use std::any::Any;

use super::{super::positions::Position, FileSource};
use crate::BlockingSource;

impl FileSource {
    /// Takes the place of `before`, if that read files and remembered them where this one does; else gives it back.
    pub(super) fn go_on_after(&mut self, before: Box<dyn BlockingSource>) -> Option<Box<dyn BlockingSource>> {
        let file = (&*before as &dyn Any).downcast_ref::<FileSource>();
        if !file.is_some_and(|before| (before.begun || before.took_over) && self.remembers_as(before)) {
            return Some(before);
        }
        if let Ok(before) = (before as Box<dyn Any>).downcast::<FileSource>() {
            self.inherit(*before);
        }
        None
    }

    /// Whether positions go on from one to the other: where both have a checkpoint, it must be the same.
    fn remembers_as(&self, before: &FileSource) -> bool {
        match (&self.positions, &before.positions) {
            (Some(own), Some(before)) => own.is_of(before),
            _ => true,
        }
    }

    fn inherit(&mut self, before: FileSource) {
        (self.tails, self.next_id) = (before.tails, before.next_id);
        if let (Some(own), Some(before)) = (&mut self.positions, before.positions) {
            *own = before;
        }
        for tail in self.tails.extract_if(.., |tail| !self.places.hold(&tail.path)) {
            if let Some(positions) = &mut self.positions {
                positions.close(tail.id, tail.offset());
            }
        }
        self.refused = before.refused.filter(|(file, _)| self.tails.iter().any(|tail| tail.id == *file));
        if before.max_line != self.max_line {
            for tail in &mut self.tails {
                // A file that cannot even be sought in fails when it is read, and is reported then.
                let _ = tail.limit_lines(self.max_line);
            }
        }
        self.took_over = true;
    }

    /// Begins to remember files that a source without a checkpoint was reading: of each, all that was brought in, once
    /// that is delivered, and nothing before.
    pub(super) fn begin_to_remember(&mut self, next: u64) {
        let Some(positions) = self.positions.as_mut().filter(|positions| !positions.know_any()) else {
            return;
        };
        for tail in &self.tails {
            let (path, identity, fingerprint) = (tail.path.clone(), tail.identity, tail.fingerprint());
            positions.open(tail.id, Position { path, identity, fingerprint, offset: 0 });
            if self.refused.as_ref().is_none_or(|(file, _)| *file != tail.id) {
                positions.sent(next, tail.id, tail.offset());
            }
        }
    }
}
