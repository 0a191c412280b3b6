//! Runnable tasks, by class: Chase-Lev deques per worker (Chase, Lev, "Dynamic circular work-stealing deque", SPAA
//! 2005; the crossbeam implementation), and an injector for whoever is no worker.

use std::sync::Arc;

use crossbeam_deque::{Injector, Steal, Stealer, Worker as Deque};

use crate::task::Task;

/// A scheduling class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// When nothing else waits.
    Low,
    /// The ordinary class.
    #[default]
    Normal,
    /// Before the ordinary.
    High,
    /// Before everything.
    Critical,
}

/// Every so many picks a worker takes a ticket of a lower class, of one after the other: a class that waits gets at
/// least one turn in 3 x 32, which is 1 %, whatever the others ask for.
pub const LOW_TURN: u32 = 32;
/// Every so many picks a worker looks at the injector before its own deque, which may never run dry.
const INJECTOR_TURN: u32 = 7;
const CLASSES: usize = 4;

pub(crate) type Runnable = Arc<Task>;

/// A worker's own deques, one per class, oldest first.
pub(crate) struct Queues([Deque<Runnable>; CLASSES]);

/// The other end of a worker's deques.
pub(crate) struct Stealers([Stealer<Runnable>; CLASSES]);

/// Where those who are no worker put runnable tasks.
#[derive(Default)]
pub(crate) struct Injectors([Injector<Runnable>; CLASSES]);

pub(crate) fn queues() -> (Queues, Stealers) {
    let deques: [Deque<Runnable>; CLASSES] = std::array::from_fn(|_| Deque::new_fifo());
    let stealers = std::array::from_fn(|class| deques[class].stealer());
    (Queues(deques), Stealers(stealers))
}

impl Queues {
    pub(crate) fn push(&self, task: Runnable) {
        self.0[task.priority() as usize].push(task);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Deque::len).sum()
    }

    /// Lets go of what is queued.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|class| while class.pop().is_some() {});
    }

    /// The next task for worker `own`: of the highest class anybody has; on a ticket, of the ticket's class, or else of
    /// the lowest.
    pub(crate) fn pick(
        &self,
        turn: u32,
        own: usize,
        injectors: &Injectors,
        stealers: &[Stealers],
    ) -> Option<Runnable> {
        let injector_first = turn.is_multiple_of(INJECTOR_TURN);
        let of_class = |class| self.pick_class(class, injector_first, own, injectors, stealers);
        match ticket(turn) {
            None => (0..CLASSES).rev().find_map(of_class),
            Some(class) => of_class(class).or_else(|| (0..CLASSES).find_map(of_class)),
        }
    }

    fn pick_class(
        &self,
        class: usize,
        injector_first: bool,
        own: usize,
        injectors: &Injectors,
        stealers: &[Stealers],
    ) -> Option<Runnable> {
        let local = &self.0[class];
        let injected = || retried(|| injectors.0[class].steal_batch_and_pop(local));
        let first = match injector_first {
            true => injected().or_else(|| local.pop()),
            false => local.pop().or_else(injected),
        };
        first.or_else(|| {
            let others = (1..stealers.len()).map(|step| &stealers[(own + step) % stealers.len()].0[class]);
            others
                .filter(|victim| !victim.is_empty())
                .find_map(|victim| retried(|| victim.steal_batch_and_pop(local)))
        })
    }
}

impl Injectors {
    pub(crate) fn push(&self, task: Runnable) {
        self.0[task.priority() as usize].push(task);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Injector::is_empty)
    }

    /// Lets go of what is queued.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|class| while retried(|| class.steal()).is_some() {});
    }
}

impl Stealers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Stealer::is_empty)
    }
}

/// The class whose ticket comes up at this turn: all but the highest in rotation.
fn ticket(turn: u32) -> Option<usize> {
    turn.is_multiple_of(LOW_TURN).then_some((turn / LOW_TURN) as usize % (CLASSES - 1))
}

fn retried(mut steal: impl FnMut() -> Steal<Runnable>) -> Option<Runnable> {
    loop {
        match steal() {
            Steal::Success(task) => return Some(task),
            Steal::Empty => return None,
            Steal::Retry => {}
        }
    }
}
