use loom::{sync::Arc, thread};
use sidestream_ring::shelf::{Removed, Shelf, WAYS};

use crate::explore;

fn look(shelf: &Shelf<Box<u32>>) -> Option<u32> {
    shelf.find(0, 7, |item| Some(**item))
}

#[test]
fn an_item_that_is_looked_at_is_not_taken_away() {
    explore(3, || {
        let shelf = Arc::new(Shelf::new(1));
        shelf.put(0, 7, Box::new(1)).unwrap();
        let looker = thread::spawn({
            let shelf = shelf.clone();
            move || look(&shelf)
        });
        let removed = shelf.remove(0, 7, |_| true);
        assert_ne!(removed, Removed::Absent);
        assert!(matches!(looker.join().unwrap(), None | Some(1)));
        assert_eq!(look(&shelf).is_none(), removed == Removed::Gone);
    });
}

#[test]
fn an_item_is_seen_whole_or_not_at_all() {
    explore(3, || {
        let shelf = Arc::new(Shelf::new(1));
        let looker = thread::spawn({
            let shelf = shelf.clone();
            move || (look(&shelf), look(&shelf))
        });
        shelf.put(0, 7, Box::new(1)).unwrap();
        let (first, second) = looker.join().unwrap();
        assert!(matches!((first, second), (None, None | Some(1)) | (Some(1), Some(1))));
        assert_eq!(look(&shelf), Some(1));
        assert_eq!(shelf.remove(0, 7, |_| true), Removed::Gone, "whoever looked is counted out");
    });
}

/// Two change a bucket of which one place is left.
#[test]
fn of_two_that_put_at_the_same_time_neither_takes_the_place_of_the_other() {
    explore(2, || {
        let shelf = Arc::new(Shelf::new(1));
        for other in 0..WAYS as u32 - 1 {
            shelf.put(0, 100 + other, Box::new(0)).unwrap();
        }
        let putter = thread::spawn({
            let shelf = shelf.clone();
            move || shelf.put(0, 7, Box::new(1)).map(|before| before.is_none())
        });
        let own = shelf.put(0, 8, Box::new(2)).map(|before| before.is_none());
        let other = putter.join().unwrap();
        assert!(own.is_ok() && other.is_ok());
        for tag in [7, 8] {
            assert!(shelf.find(0, tag, |_| Some(())).is_some(), "{tag}");
        }
    });
}

/// What is replaced is dropped by whoever put the next one there, while somebody may look at it.
#[test]
fn an_item_that_is_looked_at_is_not_replaced() {
    explore(2, || {
        let shelf = Arc::new(Shelf::new(1));
        for tag in 0..WAYS as u32 {
            shelf.put(0, if tag == 0 { 7 } else { 100 + tag }, Box::new(1)).unwrap();
        }
        let looker = thread::spawn({
            let shelf = shelf.clone();
            move || look(&shelf)
        });
        let before = shelf.put(0, 8, Box::new(2)).expect("a place of eight that nobody looks at");
        assert_eq!(before.as_deref(), Some(&1));
        drop(before);
        assert!(matches!(looker.join().unwrap(), None | Some(1)));
        assert_eq!(shelf.find(0, 8, |item| Some(**item)), Some(2));
    });
}
