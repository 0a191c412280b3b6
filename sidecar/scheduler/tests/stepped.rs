//! A scheduler stepped by its caller, on a clock that the test moves: no threads, so every run is the same.
#![cfg(not(any(loom, shuttle)))]

use std::{
    sync::{Arc, Mutex},
    task::Wake,
    time::Duration,
};

use sidestream_host::{Clock, Moment, Random, SimulatedClock};
use sidestream_scheduler::{LOW_TURN, Next, Priority, Scheduler, Step, Task, Turn, Worker};

/// A scheduler, its workers, its clock's hand, and what its tasks wrote down, in order.
struct World {
    scheduler: Scheduler,
    workers: Vec<Worker>,
    hand: SimulatedClock,
    diary: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn of(workers: usize) -> Self {
        let (clock, hand) = Clock::simulated(0);
        let (scheduler, workers) = Scheduler::new(workers, clock);
        Self { scheduler, workers, hand, diary: Arc::default() }
    }

    /// Starts a task that writes its name at each turn and then does what `next` says.
    fn start(
        &self,
        name: &str,
        priority: Priority,
        mut next: impl FnMut(Turn) -> Next + Send + 'static,
    ) -> Arc<Task> {
        let task = self.scheduler.task(name, priority);
        let (name, diary) = (name.to_owned(), self.diary.clone());
        task.start(Box::new(move |turn| {
            diary.lock().unwrap().push(name.clone());
            next(turn)
        }));
        task
    }

    fn step(&mut self) -> Step {
        self.workers[0].step()
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| assert_eq!(self.step(), Step::Ran));
    }

    /// Steps the first worker until it has nothing to do.
    fn settle(&mut self) -> Option<Moment> {
        loop {
            if let Step::Idle { until } = self.step() {
                return until;
            }
        }
    }

    /// What was written since the last time, joined.
    fn read(&self) -> String {
        std::mem::take(&mut *self.diary.lock().unwrap()).join(" ")
    }

    fn turns_of(&self, name: &str) -> usize {
        self.diary.lock().unwrap().iter().filter(|&line| line == name).count()
    }
}

fn once(_: Turn) -> Next {
    Next::Wait
}

fn always(_: Turn) -> Next {
    Next::Again
}

#[test]
fn a_higher_class_goes_first_and_one_class_goes_in_order() {
    let mut world = World::of(1);
    for (name, priority) in [
        ("low", Priority::Low),
        ("normal-1", Priority::Normal),
        ("critical", Priority::Critical),
        ("high", Priority::High),
        ("normal-2", Priority::Normal),
    ] {
        world.start(name, priority, once);
    }
    world.settle();
    assert_eq!(world.read(), "critical high normal-1 normal-2 low");
}

#[test]
fn two_tasks_that_always_have_more_to_do_take_turns() {
    let mut world = World::of(1);
    world.start("a", Priority::Normal, always);
    world.start("b", Priority::Normal, always);
    world.steps(7);
    world.read();
    world.steps(6);
    assert_eq!(world.read(), "a b a b a b");
}

#[test]
fn the_lowest_class_gets_its_share_beside_a_saturating_one() {
    let mut world = World::of(1);
    world.start("critical", Priority::Critical, always);
    world.start("low", Priority::Low, always);
    world.steps(3200);
    assert_eq!(world.turns_of("low"), 3200 / LOW_TURN as usize);
}

#[test]
fn no_class_starves_between_saturated_ones() {
    let mut world = World::of(1);
    let classes = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    for priority in classes {
        world.start(&format!("{priority:?}"), priority, always);
    }
    world.steps(9600);
    for priority in classes {
        let turns = world.turns_of(&format!("{priority:?}"));
        assert!(turns >= 9600 / 96, "{priority:?} got {turns} of 9600 turns");
    }
    assert!(world.turns_of("Critical") >= 9600 * 96 / 100);
}

#[test]
fn what_others_woke_is_not_starved_by_a_task_that_requeues_itself() {
    let mut world = World::of(1);
    world.start("own", Priority::Normal, always);
    world.steps(100);
    world.read();
    world.start("injected", Priority::Normal, once);
    world.steps(8);
    assert_eq!(world.turns_of("injected"), 1);
}

#[test]
fn timers_go_off_in_order_and_not_before_their_time() {
    let mut world = World::of(1);
    for (name, millis) in [("late", 30), ("early", 10), ("also-early", 10), ("middle", 20)] {
        let at = Moment::from_nanos(millis * 1_000_000);
        world.start(
            name,
            Priority::Normal,
            move |turn| if turn.now < at { Next::Until(at) } else { Next::Done },
        );
    }
    assert_eq!(world.settle(), Some(Moment::from_nanos(10_000_000)));
    world.read();
    world.hand.advance(Duration::from_nanos(9_999_999));
    assert_eq!((world.settle(), world.read()), (Some(Moment::from_nanos(10_000_000)), String::new()));
    world.hand.advance(Duration::from_nanos(1));
    assert_eq!((world.settle(), &*world.read()), (Some(Moment::from_nanos(20_000_000)), "early also-early"));
    world.hand.advance(Duration::from_secs(1));
    assert_eq!((world.settle(), &*world.read()), (None, "middle late"));
}

#[test]
fn a_time_in_the_past_is_now() {
    let mut world = World::of(1);
    world.hand.advance(Duration::from_secs(9));
    let past = Moment::from_nanos(1);
    let task = world.start("past", Priority::Normal, move |_| Next::Until(past));
    world.steps(3);
    assert_eq!(world.read(), "past past past");
    assert!(!task.is_done());
}

/// Each timer that is set holds its task: so its references count them.
fn timers_of(task: &Arc<Task>) -> usize {
    Arc::strong_count(task) - 1
}

#[test]
fn a_task_woken_a_million_times_holds_one_timer() {
    let mut world = World::of(1);
    let task = world.scheduler.task("linger", Priority::Normal);
    task.start(Box::new(|turn: Turn| Next::Until(turn.now + Duration::from_secs(60))));
    for _ in 0..1_000_000 {
        task.wake_by_ref();
        assert_eq!(world.step(), Step::Ran);
        world.hand.advance(Duration::from_micros(1));
    }
    assert_eq!(timers_of(&task), 1);
}

#[test]
fn near_times_that_come_and_go_do_not_pile_up_the_far_one() {
    let mut world = World::of(1);
    let window_end = Moment::default() + Duration::from_secs(3600);
    let task = world.scheduler.task("window", Priority::Normal);
    let mut far = false;
    task.start(Box::new(move |turn: Turn| {
        far = !far;
        Next::Until(if far { window_end } else { turn.now + Duration::from_millis(1) })
    }));
    for _ in 0..100_000 {
        task.wake_by_ref();
        world.settle();
        world.hand.advance(Duration::from_millis(1));
        world.settle();
    }
    assert!(timers_of(&task) < 100, "{} timers", timers_of(&task));
}

#[test]
fn ever_nearer_times_do_not_pile_up() {
    let mut world = World::of(1);
    let mut at = Moment::default() + Duration::from_secs(3600);
    let task = world.scheduler.task("nearer", Priority::Normal);
    task.start(Box::new(move |_| {
        at = Moment::from_nanos(at.as_nanos() - 1);
        Next::Until(at)
    }));
    for _ in 0..100_000 {
        task.wake_by_ref();
        world.step();
    }
    assert!(timers_of(&task) < 100, "{} timers", timers_of(&task));
    world.hand.advance(Duration::from_secs(3600));
    assert_eq!(world.step(), Step::Ran, "and the nearest still goes off");
}

#[test]
fn a_timer_that_a_nearer_one_replaced_calls_nobody() {
    let mut world = World::of(1);
    let asks = [20u64, 10].map(|millis| Next::Until(Moment::from_nanos(millis * 1_000_000)));
    let mut asks = asks.into_iter();
    let task = world.start("replaced", Priority::Normal, move |_| asks.next().unwrap_or(Next::Wait));
    world.settle();
    task.wake_by_ref();
    assert_eq!(world.settle(), Some(Moment::from_nanos(10_000_000)));
    world.hand.advance(Duration::from_millis(10));
    assert_eq!((world.settle(), &*world.read()), (None, "replaced replaced replaced"));
    world.hand.advance(Duration::from_millis(10));
    assert_eq!((world.settle(), &*world.read()), (None, ""));
}

#[test]
fn a_task_woken_while_it_runs_runs_again() {
    let mut world = World::of(1);
    let task = world.scheduler.task("self", Priority::Normal);
    let (own, diary) = (task.waker(), world.diary.clone());
    let mut turns = 0;
    task.start(Box::new(move |_| {
        diary.lock().unwrap().push("turn".into());
        turns += 1;
        if turns < 3 {
            own.wake_by_ref();
            own.wake_by_ref();
        }
        Next::Wait
    }));
    world.settle();
    assert_eq!(world.read(), "turn turn turn");
}

#[test]
fn any_number_of_wakes_before_a_turn_make_one_turn() {
    let mut world = World::of(1);
    let task = world.start("woken", Priority::Normal, once);
    let waker = task.waker();
    (0..10).for_each(|_| waker.wake_by_ref());
    world.settle();
    assert_eq!(world.read(), "woken");
}

#[test]
fn a_wake_before_the_start_does_no_harm() {
    let mut world = World::of(1);
    let task = world.scheduler.task("early", Priority::Normal);
    task.waker().wake();
    world.settle();
    assert!(!task.is_done());
    let diary = world.diary.clone();
    task.start(Box::new(move |_: Turn| {
        diary.lock().unwrap().push("started".into());
        Next::Wait
    }));
    world.settle();
    assert_eq!(world.read(), "started");
}

#[test]
fn a_retired_task_has_no_turns_until_it_is_started_again() {
    let mut world = World::of(1);
    let task = world.start("mover", Priority::Normal, always);
    world.steps(2);
    let work = task.retire().expect("it was between two turns");
    assert!(task.retire().is_none());
    task.wake_by_ref();
    world.settle();
    assert_eq!(world.read(), "mover mover");
    assert!(!task.is_done(), "its work never said so");
    task.start(work);
    world.steps(2);
    assert_eq!(world.read(), "mover mover");
}

#[test]
fn a_task_that_is_done_drops_its_work_and_stays_done() {
    let mut world = World::of(1);
    let held = Arc::new(());
    let inside = held.clone();
    let task = world.start("last", Priority::Normal, move |_| {
        let _ = &inside;
        Next::Done
    });
    world.settle();
    assert!(task.is_done());
    assert_eq!(Arc::strong_count(&held), 1);
    task.wake_by_ref();
    world.settle();
    assert_eq!(world.read(), "last");
    assert!(task.retire().is_none());
}

#[test]
fn a_task_woken_by_a_turn_stays_with_that_worker_unless_another_is_idle() {
    let mut world = World::of(2);
    let woken = world.start("woken", Priority::Normal, once);
    world.settle();
    let wakers = [woken.waker(), world.start("too", Priority::Normal, once).waker()];
    world.settle();
    let waking = world.start("waking", Priority::Normal, move |_| {
        wakers.iter().for_each(std::task::Waker::wake_by_ref);
        Next::Done
    });
    world.read();
    world.steps(1);
    assert!(waking.is_done());
    assert_eq!(world.workers[1].step(), Step::Ran, "the other worker steals one");
    world.steps(1);
    assert_eq!(world.read(), "waking woken too");
}

#[test]
fn a_panic_ends_its_task_alone_and_is_told() {
    let mut world = World::of(1);
    let told = world.diary.clone();
    world.scheduler.on_panic(move |task, message| {
        told.lock().unwrap().push(format!("[{}: {message}]", task.name()));
    });
    let held = Arc::new(());
    let inside = held.clone();
    let task = world.start("faulty", Priority::Normal, move |_| {
        let _ = &inside;
        panic!("off by {}", 1)
    });
    let other = world.start("other", Priority::Normal, once);
    world.settle();
    assert_eq!(world.read(), "faulty [faulty: off by 1] other");
    assert!(task.is_done() && !other.is_done());
    assert_eq!(Arc::strong_count(&held), 1, "the work is dropped");
    task.wake_by_ref();
    assert_eq!(world.step(), Step::Idle { until: None });
}

/// What a task panics with when it is dropped as well.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("and again");
    }
}

#[test]
fn a_panic_while_the_work_is_dropped_is_contained_too() {
    let mut world = World::of(1);
    let (one, two) = (Bomb, Bomb);
    world.start("panics-at-the-end", Priority::Normal, move |_| {
        let _ = &one;
        Next::Done
    });
    world.start("panics-twice", Priority::Normal, move |_| {
        let _ = &two;
        panic!("once")
    });
    assert_eq!(world.settle(), None);
    assert_eq!(world.read(), "panics-at-the-end panics-twice");
}

/// Forty tasks on three workers, which wake one another, ask for times and repeat themselves, all by one seed.
fn order_of(seed: u64) -> String {
    let mut world = World::of(3);
    let mut random = Random::seeded(seed);
    let tasks: Vec<_> =
        (0..40).map(|index| world.scheduler.task(format!("t{index}"), class(random.below(4)))).collect();
    for (index, task) in tasks.iter().enumerate() {
        let (diary, friends) = (world.diary.clone(), tasks.clone());
        let mut own = Random::seeded(seed ^ index as u64);
        task.start(Box::new(move |turn: Turn| {
            diary.lock().unwrap().push(format!("t{index}"));
            friends[own.below(40) as usize].wake_by_ref();
            match own.below(4) {
                0 => Next::Again,
                1 => Next::Until(turn.now + Duration::from_micros(own.below(50))),
                _ => Next::Wait,
            }
        }));
    }
    for _ in 0..5_000 {
        let worker = random.below(3) as usize;
        world.workers[worker].step();
        world.hand.advance(Duration::from_micros(random.below(3)));
    }
    tasks.iter().for_each(|task| drop(task.retire()));
    world.read()
}

fn class(number: u64) -> Priority {
    [Priority::Low, Priority::Normal, Priority::High, Priority::Critical][number as usize]
}

#[test]
fn one_seed_gives_one_order_on_several_workers() {
    assert_eq!(order_of(7), order_of(7));
    assert_ne!(order_of(7), order_of(8));
}
