//! The ways of one connection of an app: at which place it asks for each dnpipe.
//!
//! ```text
//!   name ──▶ asked for before? ──yes──▶ there
//!                   └──no──▶ what all connections know of it, noted
//! ```
//!
//! What others hear meanwhile changes no way: half of what is asked in order would go past the rest. A way ends when this connection
//! hears that the dnpipe is elsewhere, or when its line does.

use std::collections::{HashMap, HashSet};

use sidestream_event::native::DnpipeName;

use super::{
    limits::WAYS_MAX,
    places::{Place, Places},
};

/// See the module.
#[derive(Default)]
pub(super) struct Ways {
    places: HashMap<DnpipeName, Place>,
}

impl Ways {
    /// Where to ask for a dnpipe. There are [`WAYS_MAX`] at most: `in_use` says which must stay as they are; none where all must.
    pub(super) fn of<'a>(
        &mut self,
        name: &DnpipeName,
        places: &Places,
        in_use: impl FnOnce() -> HashSet<&'a DnpipeName>,
    ) -> Option<Place> {
        if let Some(place) = self.places.get(name) {
            return Some(place.clone());
        }
        if self.places.len() >= WAYS_MAX {
            let in_use = in_use();
            self.places.retain(|name, _| in_use.contains(name));
        }
        let place = (self.places.len() < WAYS_MAX).then(|| places.of(name))?;
        self.places.insert(name.clone(), place.clone());
        Some(place)
    }

    /// The dnpipe is not at `place`.
    pub(super) fn end(&mut self, name: &DnpipeName, place: &Place) {
        if self.places.get(name) == Some(place) {
            self.places.remove(name);
        }
    }

    /// There is nobody at `place` any more.
    pub(super) fn end_all(&mut self, place: &Place) {
        self.places.retain(|_, own| own != place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> DnpipeName {
        format!("shop/n{number}").parse().unwrap()
    }

    #[test]
    fn what_others_hear_changes_no_way_and_what_this_connection_hears_does() {
        let (places, mut ways) = (Places::new(vec!["default".into()]), Ways::default());
        let first = ways.of(&name(0), &places, HashSet::new).unwrap();
        places.is_at(&name(0), &first, "one:7420");
        assert_eq!(ways.of(&name(0), &places, HashSet::new), Some(first.clone()));
        ways.end(&name(0), &first);
        let second = ways.of(&name(0), &places, HashSet::new).unwrap();
        assert_eq!(second, places.of(&name(0)));
        assert_ne!(second, first);
        ways.end(&name(0), &first);
        places.is_at(&name(0), &first, "two:7420");
        assert_eq!(
            ways.of(&name(0), &places, HashSet::new),
            Some(second.clone()),
            "what is heard late changes nothing"
        );
        ways.end_all(&second);
        assert_eq!(ways.of(&name(0), &places, HashSet::new), Some(places.of(&name(0))));
    }

    #[test]
    fn ways_have_a_bound_and_those_in_use_stay() {
        let (places, mut ways, used) = (Places::new(vec!["default".into()]), Ways::default(), name(0));
        let first = ways.of(&used, &places, HashSet::new);
        places.is_at(&used, first.as_ref().unwrap(), "one:7420");
        for number in 1..3 * WAYS_MAX {
            assert!(ways.of(&name(number), &places, || HashSet::from([&used])).is_some());
            assert!(ways.places.len() <= WAYS_MAX);
        }
        assert_eq!(ways.of(&used, &places, HashSet::new), first);
        let all: Vec<DnpipeName> = (0..3 * WAYS_MAX).map(name).collect();
        let refused = all.iter().filter(|name| ways.of(name, &places, || all.iter().collect()).is_none());
        assert!(refused.count() > 0);
    }
}
