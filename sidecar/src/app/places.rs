//! Where dnpipes are, as far as servers have said: in which pool, and with which of its servers.
//!
//! ```text
//!   name ──▶ known? ──no──▶ any server of the first pool ──▶ "another server has it" ──▶ noted: that one
//!                                                        └─▶ "there is none" ─────────▶ noted: the next pool
//! ```
//!
//! What is noted here is a hint. Whoever is asked decides, so an old one costs a detour and nothing else.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sidestream_connector::{Address, Servers};
use sidestream_event::native::DnpipeName;

use super::limits::{NAMES_MAX, POOLS_MAX};

/// See the module.
pub(super) struct Places {
    pools: Vec<String>,
    known: Mutex<HashMap<DnpipeName, Known>>,
    /// By namespace, a bit for each of its pools that has ever answered: one that has not may be none.
    answered: Mutex<HashMap<String, u8>>,
}

/// Whom to ask: a pool, or one server of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    namespace: String,
    /// Its number among the pools that are asked.
    pool: usize,
    /// The server, `host:port`; none is any of them.
    owner: Option<String>,
}

#[derive(Default)]
struct Known {
    pool: usize,
    owner: Option<String>,
    /// How many pools in a row know no such dnpipe: they said so, or have never said anything.
    strangers: usize,
    /// Whether one of them has said so.
    is_said: bool,
}

impl Places {
    /// The pools to ask, the likeliest first.
    pub(super) fn new(pools: Vec<String>) -> Places {
        Places { pools, known: Mutex::default(), answered: Mutex::default() }
    }

    /// Where a dnpipe is, or is looked for next.
    pub(super) fn of(&self, name: &DnpipeName) -> Place {
        let known = self.lock();
        let (pool, owner) = known.get(name).map_or((0, None), |known| (known.pool, known.owner.clone()));
        Place { namespace: name.namespace().to_owned(), pool, owner }
    }

    /// Any server of the first pool of a namespace.
    pub(super) fn first_of(namespace: &str) -> Place {
        Place { namespace: namespace.to_owned(), pool: 0, owner: None }
    }

    /// How many pools there are to ask.
    pub(super) fn pools(&self) -> usize {
        self.pools.len()
    }

    /// The address of a place.
    pub(super) fn address(&self, place: &Place, servers: &Servers) -> Result<Address, String> {
        let pool = self.pools.get(place.pool).map_or("default", String::as_str);
        let address = servers(&place.namespace, pool)?;
        Ok(match &place.owner {
            // Where there is one server, it has everything.
            Some(owner) => address.at(owner).unwrap_or(address),
            None => address,
        })
    }

    /// Who was asked at `place` says which server of its pool has the dnpipe.
    pub(super) fn is_at(&self, name: &DnpipeName, place: &Place, owner: &str) {
        self.has_answered(place);
        self.note(name, Known { pool: place.pool, owner: Some(owner.to_owned()), ..Known::default() });
    }

    /// Who was asked at `place` knows no such dnpipe. Whether another pool may.
    pub(super) fn is_unknown(&self, name: &DnpipeName, place: &Place) -> bool {
        self.has_answered(place);
        if self.of(name).pool != place.pool {
            // Somebody else has heard that already.
            return true;
        }
        self.ask_the_next(name, place, true)
    }

    /// Nobody answers at `place`: next time another server is asked, and another pool where there are some, of which none that
    /// ever answered is believed to know of no such dnpipe before all of them have said so. Whether all have, and the others, which
    /// never did, are taken for none: a name in an annotation may be wrong, and the pool `default` need not be there.
    pub(super) fn is_away(&self, name: &DnpipeName, place: &Place) -> bool {
        if self.of(name) != *place {
            return false;
        }
        let bits =
            self.answered.lock().unwrap_or_else(PoisonError::into_inner).get(&place.namespace).copied();
        let has_answered = bits.is_some_and(|bits| bits & bit(place) != 0);
        match (&place.owner, has_answered) {
            (None, false) => !self.ask_the_next(name, place, false),
            (owner, _) => {
                let next = place.pool + usize::from(owner.is_none());
                self.note(name, Known { pool: next % self.pools.len().max(1), ..Known::default() });
                false
            }
        }
    }

    /// The pool at `place` knows no such dnpipe. Whether another may: of those one at least has to have said that it does not.
    fn ask_the_next(&self, name: &DnpipeName, place: &Place, says_so: bool) -> bool {
        let (strangers, was_said) =
            self.lock().get(name).map_or((0, false), |known| (known.strangers, known.is_said));
        let (strangers, is_said) = (strangers + 1, was_said || says_so);
        if strangers >= self.pools.len() && is_said {
            self.lock().remove(name);
            return false;
        }
        self.note(name, Known { pool: (place.pool + 1) % self.pools.len(), owner: None, strangers, is_said });
        true
    }

    /// The pools that are asked, for people.
    pub(super) fn names(&self) -> String {
        let names: Vec<String> = self.pools.iter().map(|pool| format!("`{pool}`")).collect();
        names.join(", ")
    }

    /// Somebody is there.
    pub(super) fn has_answered(&self, place: &Place) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        match answered.get_mut(&place.namespace) {
            Some(bits) => *bits |= bit(place),
            None => {
                if answered.len() >= NAMES_MAX {
                    answered.clear();
                }
                answered.insert(place.namespace.clone(), bit(place));
            }
        }
    }

    /// The dnpipe is known at `place`.
    pub(super) fn is_known(&self, name: &DnpipeName, place: &Place) {
        self.has_answered(place);
        if let Some(known) = self.lock().get_mut(name)
            && known.pool == place.pool
        {
            (known.strangers, known.is_said) = (0, false);
        }
    }

    fn note(&self, name: &DnpipeName, now: Known) {
        let mut known = self.lock();
        if known.len() >= NAMES_MAX && !known.contains_key(name) {
            known.clear();
        }
        known.insert(name.clone(), now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DnpipeName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the pool at a place, among those of its namespace.
fn bit(place: &Place) -> u8 {
    1 << place.pool
}

const _: () = assert!(POOLS_MAX <= u8::BITS as usize);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn orders() -> DnpipeName {
        "shop/orders".parse().unwrap()
    }

    fn places(pools: &[&str]) -> Places {
        Places::new(pools.iter().map(|own| (*own).to_owned()).collect())
    }

    /// The pool that is asked next.
    fn asked(places: &Places) -> String {
        let servers = |namespace: &str, pool: &str| Ok(Address::Local(PathBuf::from(namespace).join(pool)));
        places.address(&places.of(&orders()), &servers).unwrap().to_string()
    }

    #[test]
    fn of_one_pool_what_it_does_not_know_is_not_there() {
        let places = places(&["default"]);
        assert!(!places.is_unknown(&orders(), &places.of(&orders())));
        assert_eq!(asked(&places), "shop/default");
    }

    #[test]
    fn pools_are_asked_one_after_the_other_and_what_none_of_them_knows_is_not_there() {
        let places = places(&["default", "heavy"]);
        let first = places.of(&orders());
        assert!(places.is_unknown(&orders(), &first));
        assert_eq!(asked(&places), "shop/heavy");
        assert!(places.is_unknown(&orders(), &first), "who asked at the same time hears nothing else");
        assert_eq!(asked(&places), "shop/heavy");
        assert!(!places.is_unknown(&orders(), &places.of(&orders())));
        assert_eq!(asked(&places), "shop/default", "it may be made there");
    }

    #[test]
    fn what_was_found_is_looked_for_elsewhere_when_it_is_made_anew_there() {
        let places = places(&["default", "heavy"]);
        places.is_unknown(&orders(), &places.of(&orders()));
        places.is_known(&orders(), &places.of(&orders()));
        assert!(places.is_unknown(&orders(), &places.of(&orders())));
        assert_eq!(asked(&places), "shop/default");
    }

    #[test]
    fn a_pool_that_is_away_may_have_what_another_does_not_know() {
        let places = places(&["default", "heavy"]);
        places.is_known(&orders(), &places.of(&orders()));
        for _ in 0..5 {
            assert!(!places.is_away(&orders(), &places.of(&orders())));
            assert_eq!(asked(&places), "shop/heavy");
            assert!(places.is_unknown(&orders(), &places.of(&orders())), "the other may know it");
            assert_eq!(asked(&places), "shop/default");
        }
    }

    #[test]
    fn a_pool_that_has_never_answered_does_not_know_what_the_others_do_not() {
        for wrong in [0, 1] {
            let places = places(&["default", "heavy"]);
            for _ in 0..3 {
                let mut is_there = true;
                for pool in 0..2 {
                    let place = places.of(&orders());
                    assert_eq!(place.pool, pool);
                    is_there = match pool == wrong {
                        true => !places.is_away(&orders(), &place),
                        false => places.is_unknown(&orders(), &place),
                    };
                    assert_eq!(is_there, pool == 0);
                }
                assert!(!is_there, "both were asked");
            }
        }
        // Where none has ever answered nobody knows.
        let places = places(&["default", "heavy"]);
        for _ in 0..10 {
            assert!(!places.is_away(&orders(), &places.of(&orders())));
        }
    }

    #[test]
    fn when_an_owner_is_away_any_server_of_its_pool_is_asked() {
        let places = places(&["default"]);
        places.is_at(&orders(), &places.of(&orders()), "one:7420");
        let owner = places.of(&orders());
        assert_eq!(owner.owner.as_deref(), Some("one:7420"));
        places.is_away(&orders(), &owner);
        assert_eq!(places.of(&orders()), Places::first_of("shop"));
        places.is_at(&orders(), &places.of(&orders()), "two:7420");
        places.is_away(&orders(), &owner);
        assert_eq!(
            places.of(&orders()).owner.as_deref(),
            Some("two:7420"),
            "what is heard late changes nothing"
        );
    }

    #[test]
    fn names_that_are_remembered_have_a_bound() {
        let places = places(&["default"]);
        for number in 0..3 * NAMES_MAX {
            let name = format!("shop/n{number}").parse().unwrap();
            places.is_at(&name, &places.of(&name), "one:7420");
            assert!(places.lock().len() <= NAMES_MAX);
        }
    }
}
