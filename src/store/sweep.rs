//! Work that concerns very many records, done in steps, so that nobody waits for it.
//!
//! Pure. Runs on whichever thread has the lock. What is answered changes at once, by a flag of a log or by a directive;
//! that the names of a million records may have changed by it is noted bit by bit, and so is a log dismantled that is
//! no more.
//!
//! **Why no name is missed.** A name has to be noted once at or after the moment at which its answers changed. A pass
//! goes through a log by the numbers of its changes, up to the head that it began with. What changes meanwhile gets a
//! higher number, which the pass does not see; so while a pass is under way, each change to its log notes its names,
//! whatever it says. (Those that note what directives concern go to the end of each log, wherever that is by then, and
//! so see what moves there.) Where a reason for a pass comes up during one, the pass goes on to its end and then over
//! the part before, so that a log that comes and goes all the time still is gone through as a whole.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use smallvec::SmallVec;

use super::changes::{BLOCK_LEN, Block, Change};
use super::index::ChangePlace;
use super::log::{Log, Role};
use super::noting::{Lap, Noting};
use super::statement::{STATEMENT, Target};
use super::{NodeId, Record, Store, note};
use crate::policy::rules::Scope;

/// Names that wait at most for [`Store::take_changed`] before sweeps note no more, and bulk streams are not read:
/// whoever makes tables of them is that far behind. A change that is made nevertheless is noted.
pub const MAX_CHANGED: usize = crate::limits::MAX_CHANGED;

/// Tombstones of our own that are kept at least, whatever the number of registrations.
const MIN_TOMBSTONES: usize = crate::limits::MIN_TOMBSTONES;

/// Steps of one sweep before another has its turn.
const TURN: usize = 256;

/// Postponed work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// To note names of the log at this place.
    Names(u16),
    /// To take the log at this place apart.
    Leaving(u16),
    /// To drop tombstones of the log at this place, up to its floor.
    Tombstones(u16),
    /// To find how far tombstones of our own can be dropped.
    Compact,
    /// To note names that directives concern.
    Directives,
}

impl Sweep {
    fn notes_names(self) -> bool {
        matches!(self, Self::Names(_) | Self::Leaving(_) | Self::Directives)
    }
}

/// All postponed work.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    queue: VecDeque<Sweep>,
    directives: Option<Directives>,
    compact: Option<Compact>,
}

/// Directives whose names are to be noted, in all logs. Positions are [places](Place).
#[derive(Debug)]
struct Directives {
    lap: Lap,
    concerned: Concerned,
}

/// What directives concern, all together.
#[derive(Debug, Default)]
struct Concerned {
    all: bool,
    addresses: HashSet<IpAddr>,
    instances: HashSet<Box<str>>,
    nodes: HashSet<NodeId>,
    domains: HashSet<Box<[u8]>>,
}

impl Concerned {
    fn is_empty(&self) -> bool {
        let Self { all, addresses, instances, nodes, domains } = self;
        !all && addresses.is_empty() && instances.is_empty() && nodes.is_empty() && domains.is_empty()
    }

    fn extend(&mut self, other: Self) {
        self.all |= other.all;
        self.addresses.extend(other.addresses);
        self.instances.extend(other.instances);
        self.nodes.extend(other.nodes);
        self.domains.extend(other.domains);
    }

    fn insert(&mut self, target: &Target) {
        match target {
            Target::Address(address) => drop(self.addresses.insert(*address)),
            Target::Instance(instance) => drop(self.instances.insert(instance.clone())),
            Target::Node(node) => drop(self.nodes.insert(*node)),
            Target::Policy(Scope::Default) => self.all = true,
            Target::Policy(Scope::Domain(domain)) => drop(self.domains.insert(domain.clone())),
            Target::Policy(Scope::Name(_)) => {} // it is noted at once
        }
    }

    fn has(&self, origin: NodeId, record: &Record<'_>) -> bool {
        let Some(address) = record.address() else { return false };
        self.all
            || self.nodes.contains(&origin)
            || self.addresses.contains(&address)
            || !self.instances.is_empty() && self.instances.contains(record.instance())
            || !self.domains.is_empty() && suffixes(record.name).any(|suffix| self.domains.contains(suffix))
    }
}

/// A name and all that it is under.
fn suffixes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(name), |name| match name.split_first() {
        Some((&len, rest)) if len > 0 => rest.get(usize::from(len)..),
        _ => None,
    })
}

/// How far tombstones of our own can be dropped.
#[derive(Debug)]
struct Compact {
    /// All live members have this.
    acknowledged: u64,
    /// So many of the oldest are too many.
    spare: usize,
    at: u64,
    first: Option<u64>,
    seen: usize,
}

impl Store {
    /// Does up to so many units of postponed work. Returns whether some is left. Where [`MAX_CHANGED`] names wait to be
    /// taken, none are noted until they are.
    pub fn sweep(&mut self, steps: usize) -> bool {
        self.sweep_below(steps, MAX_CHANGED);
        self.has_sweeps()
    }

    /// Whether there is postponed work.
    #[must_use]
    pub fn has_sweeps(&self) -> bool {
        !self.sweeps.queue.is_empty()
    }

    /// Whether there is room for more changed names: see [`MAX_CHANGED`].
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.changed.len() < MAX_CHANGED
    }

    /// Does all postponed work at once and finds what holds of all that has been said: for those who have nobody to
    /// keep waiting (tests, measurements).
    pub fn settle(&mut self) {
        if self.index.take_statements_changed() {
            self.refresh_statements();
        }
        while self.has_sweeps() {
            self.sweep_below(usize::MAX, usize::MAX);
        }
    }

    /// Whether all names that directives concern have been noted as changed. What was said becomes true when changed
    /// names are taken for the first time after it; the names follow by sweeps, but for that of a directive on one
    /// name.
    #[must_use]
    pub fn directives_settled(&self) -> bool {
        !self.index.statements_changed() && self.sweeps.directives.is_none()
    }

    /// Units of work since this was last asked: records that were touched, in writing and reading.
    pub fn take_work(&self) -> u64 {
        self.work.take()
    }

    fn sweep_below(&mut self, steps: usize, max_changed: usize) {
        let (mut left, mut waiting) = (steps, 0);
        while left > 0 && waiting < self.sweeps.queue.len() {
            let Some(sweep) = self.sweeps.queue.pop_front() else { return };
            if sweep.notes_names() && self.changed.len() >= max_changed {
                self.sweeps.queue.push_back(sweep);
                waiting += 1;
                continue;
            }
            waiting = 0;
            let mut turn = left.min(TURN);
            let begin = turn;
            if !self.go_on(sweep, &mut turn) {
                self.sweeps.queue.push_back(sweep);
            }
            let done = (begin - turn).max(1);
            self.work.add(done);
            left = left.saturating_sub(done);
        }
    }

    /// Goes on with a sweep for some steps. Returns whether that was all.
    fn go_on(&mut self, sweep: Sweep, steps: &mut usize) -> bool {
        match sweep {
            Sweep::Names(place) => self.note_names(place, steps),
            Sweep::Leaving(place) => self.dismantle(place, steps),
            Sweep::Tombstones(place) => self.drop_tombstones(place, steps),
            Sweep::Compact => self.find_floor(steps),
            Sweep::Directives => self.note_concerned(steps),
        }
    }

    /// Whether a change to the log at `place` has to note its names, though it may say what was said before.
    pub(super) fn is_noting(&self, place: u16) -> bool {
        let log = self.logs[usize::from(place)].as_ref();
        log.is_some_and(|log| log.noting.is_some())
    }

    /// All names of the log at `place` are to be noted.
    pub(super) fn note_all(&mut self, place: u16) {
        let log = self.log_mut(place);
        let end = log.head;
        match &mut log.noting {
            Some(noting) => {
                noting.lap.restart(end);
                noting.differing = false;
            }
            none => {
                *none = Some(Noting { lap: Lap::new(end), old: None, differing: false });
                self.sweeps.queue.push_back(Sweep::Names(place));
            }
        }
    }

    fn note_names(&mut self, place: u16, steps: &mut usize) -> bool {
        let Some(Log { changes, noting: Some(noting), .. }) = self.logs[usize::from(place)].as_ref() else {
            return true; // it has gone meanwhile
        };
        let mut noting = noting.clone();
        let mut changed = std::mem::take(&mut self.changed);
        let mut over = true;
        for (number, change) in changes.range(noting.lap.at..) {
            if number > noting.lap.end {
                break;
            }
            if *steps == 0 {
                over = false;
                break;
            }
            *steps -= 1;
            noting.lap.at = number + 1;
            let same = || noting.differing && noting.old.is_some_and(|old| self.has_same(old, change));
            if change.is_live() && !same() {
                note(&mut changed, change.record());
            }
        }
        self.changed = changed;
        let done = over && noting.lap.turn();
        if done {
            self.sweeps.queue.extend(noting.old.map(Sweep::Leaving));
        }
        self.log_mut(place).noting = (!done).then_some(noting);
        done
    }

    /// Whether the log at `place` has exactly this.
    fn has_same(&self, place: u16, change: Change<'_>) -> bool {
        self.find(place, &change.record()).is_some_and(|(_, there)| there == change)
    }

    /// The log at `place` is not answered from any more. Returns whether some of its names were still to be noted.
    fn let_go(&mut self, place: u16) -> bool {
        let log = self.log_mut(place);
        let noting = log.noting.take();
        log.dropping = None;
        log.role = Role::Leaving { quiet: !log.is_visible() && noting.is_none() };
        let unnoted = noting.is_some();
        self.index.note_statements();
        self.sweeps.queue.extend(noting.and_then(|noting| noting.old).map(Sweep::Leaving));
        unnoted
    }

    /// Nothing takes the place of the log at `place`, which is taken apart.
    pub(super) fn dismiss(&mut self, place: u16) {
        self.let_go(place);
        self.sweeps.queue.push_back(Sweep::Leaving(place));
    }

    /// The log at `new` takes the place of that at `old` from now on.
    pub(super) fn put_in_place(&mut self, old: u16, new: u16) {
        let up = self.log_mut(old).up;
        // What is not settled of the old log, or of directives, cannot be told by comparing the two.
        let differing = !self.let_go(old) && self.sweeps.directives.is_none();
        let log = self.log_mut(new);
        (log.role, log.up) = (Role::Current, up);
        let floor = std::mem::take(&mut log.floor);
        if up {
            log.noting = Some(Noting { lap: Lap::new(log.head), old: Some(old), differing });
            self.sweeps.queue.push_back(Sweep::Names(new));
        } else {
            self.sweeps.queue.push_back(Sweep::Leaving(old));
        }
        self.raise_floor(new, floor);
    }

    fn dismantle(&mut self, place: u16, steps: &mut usize) -> bool {
        let mut changed = std::mem::take(&mut self.changed);
        while *steps > 0 {
            let log = self.log_mut(place);
            let (origin, quiet) = (log.origin, matches!(log.role, Role::Leaving { quiet: true }));
            let Some(block) = log.changes.take_block() else {
                self.logs[usize::from(place)] = None;
                self.free.push(place);
                *steps = steps.saturating_sub(1);
                self.changed = changed;
                return true;
            };
            let count = self.take_apart(place, &block, |change, store| {
                if !quiet && change.is_live() && !store.answers_same(origin, change) {
                    note(&mut changed, change.record());
                }
            });
            *steps = steps.saturating_sub(count);
        }
        self.changed = changed;
        false
    }

    /// Takes the changes of a block out of the index. Returns how many there were.
    fn take_apart(
        &mut self,
        place: u16,
        block: &(u64, Block),
        mut each: impl FnMut(Change<'_>, &Self),
    ) -> usize {
        let mut count = 0;
        for (number, change) in block.1.changes(block.0) {
            count += 1;
            self.index.remove(ChangePlace::new(place, number), &change.record(), change.is_live());
            self.foreign_len -= change.as_bytes().len(); // never ours
            each(change, self);
        }
        count
    }

    /// Whether exactly this is answered of `origin` now.
    fn answers_same(&self, origin: NodeId, change: Change<'_>) -> bool {
        self.places.get(&origin).is_some_and(|&place| {
            let is_visible = self.logs[usize::from(place)].as_ref().is_some_and(Log::is_visible);
            is_visible && self.has_same(place, change)
        })
    }

    /// Drops tombstones up to `floor`, which all who have less than that will be told of by a full log.
    pub(super) fn raise_floor(&mut self, place: u16, floor: u64) {
        let log = self.log_mut(place);
        let floor = floor.min(log.head);
        if floor <= log.floor {
            return;
        }
        log.floor = floor;
        if log.changes.tombstones() > 0 && log.dropping.replace(0).is_none() {
            self.sweeps.queue.push_back(Sweep::Tombstones(place));
        }
    }

    fn drop_tombstones(&mut self, place: u16, steps: &mut usize) -> bool {
        while *steps > 0 {
            let Some(log) = self.logs[usize::from(place)].as_ref() else { return true };
            let Some(from) = log.dropping else { return true };
            let Some(found) = log.changes.next_tombstones(from).filter(|_| from <= log.floor) else {
                self.log_mut(place).dropping = None;
                return true;
            };
            let void: SmallVec<[u64; BLOCK_LEN]> =
                found.numbers().take_while(|&number| number <= log.floor).collect();
            *steps = steps.saturating_sub(found.blocks + void.len());
            self.log_mut(place).dropping = Some(found.next);
            for number in void {
                self.take(place, number);
            }
        }
        false
    }

    /// Drops our own tombstones up to the change `acknowledged`, which every live member has; and the older half of
    /// them when they are many more than the registrations. Safe at any time: whoever is behind takes the full log.
    pub fn compact(&mut self, acknowledged: u64) {
        let own = self.own_log();
        let count = own.changes.tombstones();
        let spare = if count > MIN_TOMBSTONES.max(own.live()) { count / 2 } else { 0 };
        let acknowledged = acknowledged.min(own.head);
        if count == 0 || acknowledged <= own.floor && spare == 0 || self.sweeps.compact.is_some() {
            return;
        }
        self.sweeps.compact = Some(Compact { acknowledged, spare, at: 0, first: None, seen: 0 });
        self.sweeps.queue.push_back(Sweep::Compact);
    }

    fn find_floor(&mut self, steps: &mut usize) -> bool {
        let Some(mut compact) = self.sweeps.compact.take() else { return true };
        let own = self.own_log();
        let mut floor = compact.acknowledged;
        loop {
            if *steps == 0 {
                self.sweeps.compact = Some(compact);
                return false;
            }
            let Some(found) = own.changes.next_tombstones(compact.at) else { break };
            *steps = steps.saturating_sub(found.blocks);
            compact.first = compact.first.or_else(|| found.numbers().next());
            if let Some(number) = found.numbers().nth(compact.spare - compact.seen) {
                floor = floor.max(if compact.spare > 0 { number } else { 0 });
                break;
            }
            compact.seen += found.numbers().count();
            compact.at = found.next;
        }
        // A floor that drops nothing would send those who are behind it the full log for nothing.
        if floor > own.floor && compact.first.is_some_and(|first| first <= floor) {
            self.raise_floor(0, floor);
        }
        true
    }

    /// Notes the names that these directives concern: at once where it is one name.
    pub(super) fn note_targets(&mut self, targets: &[Target]) {
        let mut concerned = Concerned::default();
        for target in targets {
            match target {
                Target::Policy(Scope::Name(name)) => {
                    if self.named(name).any(|(_, up, record)| up && record.rtype != STATEMENT) {
                        self.changed.insert(name);
                    }
                }
                _ => concerned.insert(target),
            }
        }
        if concerned.is_empty() {
            return;
        }
        if let Some(directives) = &mut self.sweeps.directives {
            directives.lap.restart(u64::MAX);
            directives.concerned.extend(concerned);
        } else {
            self.sweeps.directives = Some(Directives { lap: Lap::new(u64::MAX), concerned });
            self.sweeps.queue.push_back(Sweep::Directives);
        }
    }

    fn note_concerned(&mut self, steps: &mut usize) -> bool {
        let Some(mut directives) = self.sweeps.directives.take() else { return true };
        let mut changed = std::mem::take(&mut self.changed);
        let Directives { lap, concerned } = &mut directives;
        let mut done = false;
        while *steps > 0 && !done {
            *steps -= 1;
            let at = ChangePlace::from_number(lap.at);
            let log = self.logs.get(usize::from(at.log())).filter(|_| lap.at < lap.end);
            let Some(log) = log else {
                done = lap.turn();
                continue;
            };
            let next_log = (u64::from(at.log()) + 1).saturating_mul(ChangePlace::LOG);
            lap.at = next_log;
            let Some(log) = log.as_ref().filter(|log| log.is_visible()) else { continue };
            for (number, change) in log.changes.range(at.number()..) {
                if *steps == 0 {
                    lap.at = ChangePlace::new(at.log(), number).as_number();
                    break;
                }
                *steps -= 1;
                let record = change.record();
                if change.is_live() && concerned.has(log.origin, &record) {
                    changed.insert(record.name);
                }
            }
        }
        self.changed = changed;
        self.sweeps.directives = (!done).then_some(directives);
        done
    }
}
