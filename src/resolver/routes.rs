//! Which upstreams are asked for a name, as the workers see it, and what is counted of them.
//!
//! Made by the main thread, as a whole, whenever the settings or resolv.conf change.

use std::sync::Arc;

use super::meter::Meter;
use super::settings::Upstreams;
use super::upstream::Upstream;
use crate::wire::name::{Name, suffix_at};

/// A server, and what the workers count of it, each its own.
#[derive(Clone)]
pub struct Measured {
    /// The server.
    pub upstream: Upstream,
    /// A meter for each worker.
    pub meters: Arc<[Arc<Meter>]>,
}

impl Measured {
    /// The meter of a worker.
    #[must_use]
    pub fn meter(&self, worker: usize) -> Arc<Meter> {
        self.meters.get(worker).map(Arc::clone).unwrap_or_default()
    }
}

/// Who is asked for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The servers of this group, which are there for a domain that the name is in.
    Forward(u16),
    /// Those of this group, which are asked for everything else.
    Default(u16),
    /// Nobody.
    Nobody,
}

/// Who is asked for what, with a number for each server and each group of them.
#[derive(Clone, Default)]
pub struct Routes {
    /// What they are made of.
    pub upstreams: Upstreams,
    /// The servers, each once.
    pub servers: Vec<Measured>,
    /// Servers that are asked for the same names, by their numbers: first those for everything else, then those of each
    /// domain.
    pub groups: Vec<Vec<u16>>,
    /// Our own domains: nobody is asked for them, wherever an alias leads.
    pub own: Vec<Name>,
    /// Grows with each change.
    pub generation: u64,
}

impl Routes {
    /// Those to these `upstreams`, for so many workers. What was counted `before` of servers that are still there goes
    /// on.
    // cold: made when there are other upstreams
    #[must_use]
    pub fn new(upstreams: Upstreams, workers: usize, before: &Self) -> Self {
        let mut routes =
            Self { generation: before.generation + 1, own: before.own.clone(), ..Self::default() };
        let groups = [upstreams.general()].into_iter();
        for group in groups.chain(upstreams.forwards().iter().map(|forward| &*forward.upstreams)) {
            let numbers = group.iter().map(|upstream| routes.number_of(upstream, workers, before)).collect();
            routes.groups.push(numbers);
        }
        Self { upstreams, ..routes }
    }

    // cold: made when there are other upstreams
    fn number_of(&mut self, upstream: &Upstream, workers: usize, before: &Self) -> u16 {
        let known = self.servers.iter().position(|it| it.upstream == *upstream);
        let number = known.unwrap_or_else(|| {
            let old = before.servers.iter().find(|it| it.upstream == *upstream).cloned();
            self.servers.push(old.unwrap_or_else(|| Measured {
                upstream: upstream.clone(),
                meters: (0..workers).map(|_| Arc::default()).collect(),
            }));
            self.servers.len() - 1
        });
        // There are some hundred domains at most, with some dozen upstreams each.
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// The group of those who are asked for `name`, in wire form and any case, if an alias leads there.
    #[must_use]
    pub fn group_of(&self, name: &[u8]) -> Option<u16> {
        let is_in = |own: &Name| suffix_at(name, own.as_wire(), <[u8]>::eq_ignore_ascii_case).is_some();
        if self.own.iter().any(is_in) {
            return None;
        }
        match self.route(name) {
            Route::Forward(group) | Route::Default(group) => Some(group),
            Route::Nobody => None,
        }
    }

    /// Who is asked for `name`, in wire form and any case.
    #[must_use]
    pub fn route(&self, name: &[u8]) -> Route {
        match self.upstreams.forward_of(name) {
            #[allow(clippy::cast_possible_truncation)] // some hundred
            Some(forward) => Route::Forward(forward as u16 + 1),
            None if self.upstreams.general().is_empty() => Route::Nobody,
            None => Route::Default(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::meter::Count;
    use super::super::settings::Forward;
    use super::*;

    fn wire(name: &str) -> Vec<u8> {
        Name::from_text(name).unwrap().as_wire().to_vec()
    }

    #[test]
    fn the_longest_domain_says_who_is_asked_and_counts_go_on() {
        let general: Vec<Upstream> = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap()).into();
        let forwards: Vec<Forward> =
            ["example=10.0.0.2", "b.example=10.0.0.3,10.0.0.1"].map(|text| text.parse().unwrap()).into();
        let said = |general: &[Upstream]| Upstreams::new(general.into(), forwards.clone(), Duration::ZERO);
        let before = Routes::new(said(&general), 2, &Routes::default());
        let addresses = |name: &str| match before.route(&wire(name)) {
            Route::Forward(group) | Route::Default(group) => before.groups[usize::from(group)]
                .iter()
                .map(|number| before.servers[usize::from(*number)].upstream.to_string())
                .collect(),
            Route::Nobody => Vec::new(),
        };
        assert_eq!(addresses("a.b.example"), ["10.0.0.3", "10.0.0.1"]);
        assert_eq!(addresses("example"), ["10.0.0.2"]);
        assert_eq!(
            (addresses("ab.example"), addresses("bexample")),
            (addresses("example"), addresses("com"))
        );
        assert_eq!((addresses("com"), before.servers.len()), (vec!["10.0.0.1".into(), "10.0.0.2".into()], 3));
        before.servers[0].meters[1].count(Count::Sent);
        let after = Routes::new(said(&[]), 2, &before);
        assert_eq!(after.route(&wire("com")), Route::Nobody);
        let kept = after.servers.iter().find(|it| it.upstream == general[0]).unwrap();
        assert_eq!(kept.meters[1].get(Count::Sent), 1);
        assert!(after.generation > before.generation);
    }
}
