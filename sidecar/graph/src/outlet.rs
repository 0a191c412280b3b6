//! Where a run's events go: the rings to the stages behind it, chosen event by event.
//!
//! Each branch has a ring of its own, so a slow branch that may drop never slows its siblings. A route with overflow
//! `Block` that is full blocks the run; what did not fit waits in the route, in order.

use std::{collections::VecDeque, task::Waker};

use sidestream_event::{Batch, Event, Mark, Outcome, Pool};
use sidestream_expr::Program;
use sidestream_plan::Overflow;
use sidestream_ring::channel::{Refused, Sender};

use crate::Stage;

/// The way to one stage.
pub struct Route {
    /// The stage it leads to. Its statistics count what the route drops, and what its `when` cannot be asked of.
    pub to: Stage,
    when: Option<Program>,
    otherwise: bool,
    overflow: Overflow,
    /// Most events that may wait in `waiting` under `DropOldest`.
    capacity: usize,
    sender: Sender<Batch>,
    waiting: VecDeque<Batch>,
    waiting_events: usize,
}

impl Route {
    /// A route to stage `to`.
    pub fn new(to: Stage, sender: Sender<Batch>) -> Self {
        Route {
            to,
            when: None,
            otherwise: false,
            overflow: Overflow::Block,
            capacity: usize::MAX,
            sender,
            waiting: VecDeque::new(),
            waiting_events: 0,
        }
    }

    /// Which events take it.
    pub fn chosen_by(&mut self, when: Option<Program>, otherwise: bool) {
        (self.when, self.otherwise) = (when, otherwise);
    }

    /// What happens when it is full; `capacity` in events is the bound of `DropOldest`.
    pub fn overflows(&mut self, overflow: Overflow, capacity: usize) {
        (self.overflow, self.capacity) = (overflow, capacity);
    }

    /// Whom to wake when there is room again.
    pub fn set_waker(&mut self, waker: Waker) {
        self.sender.set_waker(waker);
    }

    /// Whether nothing waits outside the ring.
    pub fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the other end of the ring is gone: what is sent counts as dropped.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// What waits outside the ring, to be sent along another.
    pub fn into_waiting(self) -> impl Iterator<Item = Batch> {
        self.waiting.into_iter()
    }

    /// The ring, to look at.
    pub fn gauge(&self) -> sidestream_ring::Gauge {
        self.sender.gauge()
    }

    /// Sends a batch, or does with it what the overflow rule says.
    pub fn send(&mut self, batch: Batch, pool: &Pool) {
        if batch.is_empty() {
            return pool.give(batch);
        }
        if !self.waiting.is_empty() {
            return self.overflow(batch, pool);
        }
        match self.sender.try_send(batch) {
            Ok(()) => {}
            Err(Refused::Closed(batch)) => self.drop_batch(batch, "closed", pool),
            Err(Refused::Full(batch)) => self.overflow(batch, pool),
        }
    }

    /// Sends what waits, as far as there is room. True when nothing waits any more.
    pub fn flush(&mut self, pool: &Pool) -> bool {
        while let Some(batch) = self.waiting.pop_front() {
            self.waiting_events -= batch.len();
            match self.sender.try_send(batch) {
                Ok(()) => {}
                Err(Refused::Closed(batch)) => self.drop_batch(batch, "closed", pool),
                Err(Refused::Full(batch)) => {
                    self.waiting_events += batch.len();
                    self.waiting.push_front(batch);
                    return false;
                }
            }
        }
        true
    }

    /// Announces that the run waits for room, where something waits. True: there is room after all.
    pub fn wait_for_room(&mut self) -> bool {
        !self.waiting.is_empty() && self.sender.wait_for_room()
    }

    /// Whether the run must not take more input because of this route.
    fn blocks(&self) -> bool {
        // What spills has a queue of its own behind the ring.
        matches!(self.overflow, Overflow::Block | Overflow::Spill) && !self.waiting.is_empty()
    }

    fn overflow(&mut self, batch: Batch, pool: &Pool) {
        if self.overflow == Overflow::DropNewest {
            return self.drop_batch(batch, "overflow", pool);
        }
        self.waiting_events += batch.len();
        self.waiting.push_back(batch);
        while self.overflow == Overflow::DropOldest
            && self.waiting_events > self.capacity
            && self.waiting.len() > 1
        {
            if let Some(oldest) = self.waiting.pop_front() {
                self.waiting_events -= oldest.len();
                self.drop_batch(oldest, "overflow", pool);
            }
        }
    }

    fn drop_batch(&self, batch: Batch, reason: &'static str, pool: &Pool) {
        self.to.stats.count_dropped(reason, batch.len() as u64);
        for event in batch.events() {
            batch.mark().end(event.meta.sequence, Outcome::Dropped);
        }
        pool.give(batch);
    }
}

/// All ways out of a run.
#[derive(Default)]
pub struct Outlet {
    routes: Vec<Route>,
    /// For each event of the batch at hand, the routes it takes; kept for its storage.
    choices: Vec<u64>,
}

/// An event for which the `when` of the stage behind could not be evaluated.
pub(crate) struct Lost {
    pub(crate) stage: Stage,
    pub(crate) event: Event,
    pub(crate) reason: String,
    pub(crate) mark: Mark,
    pub(crate) born_nanos: u64,
}

impl Outlet {
    /// An outlet of these routes: at most 64, one for each stage there can be.
    pub fn new(routes: Vec<Route>) -> Self {
        debug_assert!(routes.len() <= 64);
        Self { routes, choices: Vec::new() }
    }

    /// The routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The routes, to be taken elsewhere.
    pub fn into_routes(self) -> Vec<Route> {
        self.routes
    }

    /// Whom to wake when there is room again.
    pub fn set_waker(&mut self, waker: &Waker) {
        self.routes.iter_mut().for_each(|route| route.set_waker(waker.clone()));
    }

    /// Sends what waits. True when the run may take more input.
    pub fn flush(&mut self, pool: &Pool) -> bool {
        self.routes.iter_mut().for_each(|route| {
            route.flush(pool);
        });
        !self.is_blocked()
    }

    /// Whether a route that may not drop is full.
    pub fn is_blocked(&self) -> bool {
        self.routes.iter().any(Route::blocks)
    }

    /// Whether nothing waits in any route.
    pub fn is_flushed(&self) -> bool {
        self.routes.iter().all(Route::is_flushed)
    }

    /// Announces that the run waits for room, on every route where something waits. True: there is room after all.
    pub fn wait_for_room(&mut self) -> bool {
        self.routes.iter_mut().any(Route::wait_for_room)
    }

    /// Sends each event of the batch along every route that takes it; one that no route takes is done.
    pub(crate) fn deliver(&mut self, batch: Batch, pool: &Pool, lost: &mut Vec<Lost>) {
        match self.routes.as_mut_slice() {
            [] => pool.give(batch),
            [route] if route.when.is_none() && !route.otherwise => route.send(batch, pool),
            _ => self.distribute(batch, pool, lost),
        }
    }

    fn distribute(&mut self, mut batch: Batch, pool: &Pool, lost: &mut Vec<Lost>) {
        self.choices.clear();
        for event in batch.events() {
            let (mut choice, mut asked_for) = (0u64, false);
            for (index, route) in self.routes.iter().enumerate().filter(|(_, route)| !route.otherwise) {
                match route.when.as_ref().map(|when| when.test(event)) {
                    None => choice |= 1 << index,
                    Some(Ok(true)) => {
                        choice |= 1 << index;
                        asked_for = true;
                    }
                    Some(Ok(false)) => {}
                    Some(Err(error)) => {
                        // It ends as an error of that stage, and so is nothing for `otherwise`.
                        asked_for = true;
                        lost.push(Lost {
                            stage: route.to.clone(),
                            event: event.clone(),
                            reason: error.to_string(),
                            mark: batch.mark().clone(),
                            born_nanos: batch.born_nanos(),
                        });
                    }
                }
            }
            for (index, _) in
                self.routes.iter().enumerate().filter(|(_, route)| route.otherwise && !asked_for)
            {
                choice |= 1 << index;
            }
            self.choices.push(choice);
        }
        for (index, route) in self.routes.iter_mut().enumerate() {
            let takers = self.choices.iter().filter(|choice| **choice >> index & 1 == 1).count();
            if takers == 0 {
                continue;
            }
            let mut branch = pool.take();
            branch.set_mark(batch.mark().clone());
            branch.set_born_nanos(batch.born_nanos());
            for (event, choice) in batch.events_mut().iter_mut().zip(&self.choices) {
                let taken_by = *choice >> index;
                if taken_by == 1 {
                    // The last route that takes the event gets the event itself.
                    branch.push(std::mem::take(event));
                } else if taken_by & 1 == 1 {
                    branch.push(event.clone());
                }
            }
            route.send(branch, pool);
        }
        pool.give(batch);
    }
}
