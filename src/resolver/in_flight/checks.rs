//! Questions by which it is seen whether a server is there that has been silent for a while, or is down.
//!
//! Each is sent once, to that server alone, and nobody waits for it. What comes back says that the server is there,
//! whatever else it says, and is dropped.

use std::time::Instant;

use super::InFlight;
use crate::resolver::question::OwnedQuestion;
use crate::resolver::servers::ROOT_CHECK;

impl<W> InFlight<W> {
    /// Asks `server` what it has answered before.
    pub(super) fn check(&mut self, server: u16, now: Instant) {
        let known = self.servers[usize::from(server)].known();
        let in_group = |group: &Vec<u16>| group.contains(&server);
        let (question, group) = match known {
            Some(known) => (known.question.clone(), Some(known.group)),
            None => (
                OwnedQuestion::from(&ROOT_CHECK),
                self.groups.iter().position(in_group).and_then(|it| u16::try_from(it).ok()),
            ),
        };
        let Some(group) = group.filter(|_| self.has_room()) else { return };
        let key = self.insert(question, group, &[], None, true, now);
        self.queue(key, server, false);
    }

    /// Checks those servers of a group that are down, each once an interval.
    pub(super) fn check_those_down(&mut self, group: u16, now: Instant) {
        for i in 0..self.groups.get(usize::from(group)).map_or(0, Vec::len) {
            let server = self.groups[usize::from(group)][i];
            if self.servers[usize::from(server)].is_to_be_checked(now) {
                self.check(server, now);
            }
        }
    }

    /// Whether all servers of a group are down.
    pub(super) fn all_down(&self, group: u16) -> bool {
        let group = self.groups.get(usize::from(group)).map_or(&[][..], Vec::as_slice);
        group.iter().all(|it| !self.servers[usize::from(*it)].is_up())
    }

    /// If all are down whom the question could be asked, its clients are given what is stale at once.
    pub(super) fn hurry(&mut self, key: usize) {
        let Some(pending) = self.questions.get(key) else { return };
        if !pending.waiters.is_empty() && self.all_down(pending.group) {
            self.hurried.push_back((key, pending.serial));
        }
    }
}
