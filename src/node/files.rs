//! The thread `files`: reads what the node is given in files, and hands what has changed of it to the owner of the
//! registrations.
//!
//! A file of a million names of which ten have changed costs the owner ten operations, and this thread little more:
//! only lines that were not there before are read ([`names_text`](crate::sources::names_text)). Where that does not do,
//! all that files say is compared with what this node has registered of them, which is read some at a time. A mistake
//! in a file changes nothing at all, of no file.

use std::collections::BTreeMap;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};

use super::file_changes::{Batch, Contents, FilesRead, Job};
use super::inbox::{Bulk, ControlSender};
use super::op::{Op, OpRef};
use super::writes::each_own;
use super::{NodeError, read_ring, read_secrets, read_zone_keys, upstreams};
use crate::config::Settings;
use crate::limits::MAX_BATCH_OPERATIONS as MAX_BATCH;
use crate::policy::Policy;
use crate::policy::rules::Scope;
use crate::sources::files::{Comparison, Doubled, FilesRejected, INSTANCE, Registrations};
use crate::sources::names_text::Texts;
use crate::store::{Record, SharedStore};
use crate::sys::sched::lower_priority;
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// What was read last, and is registered.
#[derive(Default)]
pub(super) struct Before {
    texts: Texts,
    doubled: Doubled,
    domains: Vec<Name>,
    ttl_s: u32,
}

impl Before {
    /// Keeps `texts`, by which `names` are registered, unless they are too long.
    pub(super) fn new(settings: &Settings, mut texts: Texts, names: Registrations) -> Option<Self> {
        texts.forget_read();
        let (domains, ttl_s) = (settings.domains.clone(), settings.zone.ttl_s);
        texts.can_be_kept().then(|| Self { texts, doubled: names.into_doubled(), domains, ttl_s })
    }
}

impl Before {
    /// Does what the next reading would begin with, while nobody waits for it.
    fn prepare(&self) {
        self.texts.prepare();
    }
}

/// The thread.
pub(super) struct Files {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Files {
    /// Starts it. Batches go to `sender`, and at their end what else there is; upstreams are read for a node that
    /// answers at `listen`.
    pub(super) fn start(
        store: SharedStore,
        sender: ControlSender,
        listen: Vec<std::net::SocketAddr>,
        mut before: Option<Before>,
    ) -> io::Result<Self> {
        // The owner gives it one job at a time.
        let (jobs, receiver) = bounded::<Job>(1);
        let work = move || {
            lower_priority();
            before.iter().for_each(Before::prepare);
            for job in receiver {
                let begin = Instant::now();
                let mut output = Output::new(&sender, job.policies.clone());
                let read = reload(&job.settings, &listen, &mut before, &store, &mut output);
                let read = read.map_err(|error| error.to_string());
                output.flush();
                if !sender.bulk(Bulk::Read(Box::new(FilesRead { job, begin, read }))) {
                    return;
                }
                before.iter().for_each(Before::prepare);
            }
        };
        let thread = thread::Builder::new().name("files".into()).spawn(work)?;
        Ok(Self { jobs, thread })
    }

    /// Has it read all files that the settings name.
    pub(super) fn read(&self, job: Job) {
        // It can only fail when the thread has ended.
        let _ = self.jobs.send(job);
    }

    /// Ends it. Nobody must be left to take batches.
    pub(super) fn stop(self) {
        drop(self.jobs);
        // A panic there has been told by the panic itself.
        let _ = self.thread.join();
    }
}

/// Reads the files, and hands over what has changed in them. Nothing is handed over where there is a mistake.
fn reload(
    settings: &Settings,
    listen: &[std::net::SocketAddr],
    before: &mut Option<Before>,
    store: &SharedStore,
    output: &mut Output<'_>,
) -> Result<Contents, NodeError> {
    let texts = Texts::read(&settings.names, &settings.zones)
        .map_err(|error| NodeError::Names(FilesRejected::File(error)))?;
    let contents = Contents {
        secrets: read_secrets(settings)?,
        ring: read_ring(settings)?,
        zone_keys: read_zone_keys(settings)?,
        upstreams: upstreams::read(settings, listen)?,
    };
    if let Some(before) =
        before.as_mut().filter(|it| it.domains == settings.domains && it.ttl_s == settings.zone.ttl_s)
        && let Some(ops) = changes(&texts, before, store)
    {
        output.begin();
        for of_name in ops {
            let batch = output.room_for(of_name.len());
            for op in of_name {
                match op.as_ref() {
                    OpRef::Put(record) => batch.put(record.bytes),
                    OpRef::Remove(key) => batch.remove(key),
                }
            }
        }
        let mut texts = texts;
        texts.forget_read();
        std::mem::replace(&mut before.texts, texts).give_back();
        return Ok(contents);
    }
    let Settings { domains, zone, .. } = settings;
    let names = Registrations::of(&texts, domains, zone.ttl_s).map_err(NodeError::Names)?;
    output.begin();
    compare(&names, store).each_name(|changes| {
        let batch = output.room_for(changes.len());
        changes.removals().for_each(|key| batch.remove(key));
        changes.puts().for_each(|bytes| batch.put(bytes));
    });
    if let Some(before) = std::mem::replace(before, Before::new(settings, texts, names)) {
        before.texts.give_back();
    }
    Ok(contents)
}

/// Operations on their way to the owner.
struct Output<'a> {
    sender: &'a ControlSender,
    /// They go before all names: whoever sees the new names is to see them by the new policies.
    policies: Option<Vec<(Scope, Policy)>>,
    batch: Batch,
}

impl<'a> Output<'a> {
    fn new(sender: &'a ControlSender, policies: Option<Vec<(Scope, Policy)>>) -> Self {
        Self { sender, policies, batch: Batch::default() }
    }

    /// There is no mistake in any file.
    fn begin(&mut self) {
        if let Some(policies) = self.policies.take() {
            // It can only fail when the node stops, here as below.
            self.sender.bulk(Bulk::Policies(policies));
        }
    }

    /// The batch for so many operations on one name.
    fn room_for(&mut self, of_name: usize) -> &mut Batch {
        if !self.batch.is_empty() && self.batch.len() + of_name > MAX_BATCH {
            self.flush();
        }
        &mut self.batch
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            // It can only fail when the node stops: what has not been taken is read again at the next start.
            self.sender.bulk(Bulk::Batch(self.batch.take()));
        }
    }
}

/// Of all text the part that may have changed, for it to be less work to look at what has changed than at all; and
/// bytes for which neither is work.
const CHANGED_SHARE: usize = 8;
const FEW_BYTES: usize = 64 << 10;

/// Records of one name beyond which all files are read: they may be too many.
const MANY_OF_A_NAME: usize = 1_000;

/// What is to be done for each name in lines that have changed since `before`; `None` if that cannot be told from these
/// lines alone.
fn changes(texts: &Texts, before: &Before, store: &SharedStore) -> Option<Vec<Vec<Op>>> {
    let most = (texts.hosts_len() / CHANGED_SHARE).max(FEW_BYTES);
    if texts.hosts_len().abs_diff(before.texts.hosts_len()) > most {
        return None;
    }
    let lines = texts.changed_since(&before.texts).filter(|lines| lines.len() <= most)?;
    let [old, new] =
        [&lines.before, &lines.after].map(|lines| Registrations::of_lines(lines, &before.domains));
    let (old, new) = (old?, new?);
    let mut by_name: BTreeMap<Vec<u8>, Vec<Op>> = BTreeMap::new();
    for (key_len, bytes) in old.each() {
        let record = Record::read(bytes).ok()?;
        let ops = by_name.entry(record.name.to_vec()).or_default();
        if new.get(record.name, record.key).is_none() {
            ops.push(Op::Remove { key: bytes[..key_len].into() });
        }
    }
    for (key_len, bytes) in new.each() {
        let record = Record::read(bytes).ok()?;
        let ops = by_name.entry(record.name.to_vec()).or_default();
        if old.get(record.name, record.key) != Some(bytes) {
            ops.push(Op::Put { key_len, bytes: bytes.into() });
        }
    }
    for (name, ops) in &by_name {
        let store = store.read();
        let own = || {
            store
                .named(name)
                .filter(|(origin, _, record)| *origin == store.me() && record.instance() == INSTANCE)
        };
        let is_as_it_was = own().count() + ops.len() < MANY_OF_A_NAME
            && own().all(|(_, _, record)| record.rtype != rtype::CNAME)
            && !before.doubled.has(name)
            // What is new may stand in another line, too; what is gone may not have been there.
            && ops.iter().all(|op| match op {
                Op::Put { .. } => store.has_own_key(op.key()) == old.get(name, op.key()).is_some(),
                Op::Remove { key } => store.has_own_key(key),
            });
        if !is_as_it_was {
            return None;
        }
    }
    Some(by_name.into_values().filter(|ops| !ops.is_empty()).collect())
}

/// Compares `names` with what this node has registered of files.
fn compare<'a>(names: &'a Registrations, store: &SharedStore) -> Comparison<'a> {
    let mut comparison = names.compare();
    each_own(store, |record| {
        if record.instance() == INSTANCE {
            comparison.registered(record);
        }
    });
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::inbox::{Inbox, Work};
    use crate::store::{NodeId, Store};
    use std::collections::HashSet;
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    /// What an operation does.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Told {
        registers: bool,
        bytes: Vec<u8>,
    }

    impl Told {
        fn of(op: OpRef<'_>) -> Self {
            match op {
                OpRef::Put(record) => Self { registers: true, bytes: record.bytes.to_vec() },
                OpRef::Remove(key) => Self { registers: false, bytes: key.to_vec() },
            }
        }
    }

    /// The batches by which a node that has registered `before` of a file comes to have registered `after`, twice: if
    /// it remembers the text of before, and if it does not.
    fn batches(before: &str, after: &str) -> [Vec<Vec<Told>>; 2] {
        [true, false].map(|remembers| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("hosts");
            fs::write(&path, before).unwrap();
            let domains = vec![Name::from_text("example").unwrap()];
            let settings = Settings { names: vec![path.clone()], domains, ..Settings::default() };
            let texts = Texts::read(&settings.names, &[]).unwrap();
            let names = Registrations::of(&texts, &settings.domains, settings.zone.ttl_s).unwrap();
            let mut store = Store::new(NodeId([1; 16]), 1);
            store.load(&names.all(), 1);
            let mut known = Before::new(&settings, texts, names).filter(|_| remembers);
            fs::write(&path, after).unwrap();
            let (store, inbox) = (SharedStore::new(store), Inbox::new());
            let sender = inbox.sender();
            let taker = thread::spawn(move || {
                let mut all = Vec::new();
                while let Some(Work::Bulk(bulk)) = inbox.next(Duration::from_secs(60), false, true) {
                    let Bulk::Batch(batch) = bulk else { break };
                    all.push(batch.ops().into_iter().map(Told::of).collect());
                }
                all
            });
            let mut output = Output::new(&sender, None);
            let read =
                reload(&settings, &[], &mut known, &store, &mut output).map_err(|error| error.to_string());
            output.flush();
            let job = Job { settings: Arc::new(settings), is_configuration: false, policies: None };
            assert!(read.is_ok());
            sender.bulk(Bulk::Read(Box::new(FilesRead { job, begin: Instant::now(), read })));
            taker.join().unwrap()
        })
    }

    fn lines(range: std::ops::Range<u32>) -> String {
        range.map(|i| format!("10.0.{}.{} h{i}\n", i / 250, i % 250)).collect()
    }

    fn sorted(batches: &[Vec<Told>]) -> Vec<Told> {
        let mut all = batches.concat();
        all.sort();
        all
    }

    #[test]
    fn what_has_not_changed_costs_nothing_and_what_has_one_operation_each() {
        assert!(batches(&lines(0..5_000), &lines(0..5_000)).iter().all(Vec::is_empty));
        for all in batches(&lines(0..5_000), &lines(3..5_002)) {
            let (puts, removals): (Vec<_>, Vec<_>) = all.iter().flatten().partition(|op| op.registers);
            assert_eq!((puts.len(), removals.len()), (2, 3));
        }
    }

    #[test]
    fn reading_what_has_changed_is_as_good_as_reading_all() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let line = |rng: &mut fastrand::Rng| {
                let (address, name) = (rng.u8(..6), rng.u8(..30));
                let alias = if rng.u8(..4) == 0 { format!(" a{}", rng.u8(..30)) } else { String::new() };
                format!("10.0.0.{address} n{name}{alias}\n")
            };
            let mut before: Vec<_> = (0..rng.usize(..300)).map(|_| line(&mut rng)).collect();
            let text = before.concat();
            for _ in 0..rng.usize(..6) {
                if !before.is_empty() && rng.bool() {
                    before.remove(rng.usize(..before.len()));
                }
                before.insert(rng.usize(..=before.len()), line(&mut rng));
            }
            let [remembered, whole] = batches(&text, &before.concat());
            assert_eq!(sorted(&remembered), sorted(&whole));
        }
    }

    #[test]
    fn batches_are_bounded_and_no_name_is_in_two() {
        let wide: String = (0..1_500).map(|i| format!("10.1.{}.{} wide\n", i / 250, i % 250)).collect();
        let text = lines(0..2_500) + &wide + &lines(2_500..4_000);
        for all in batches("10.9.9.9 wide\n", &text) {
            assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 4_000 + 1_500 + 1);
            let name = |op: &Told| Record::read(&op.bytes).unwrap().name.to_vec();
            let mut seen = HashSet::new();
            for batch in &all {
                let names: HashSet<_> = batch.iter().map(name).collect();
                assert!(batch.len() <= MAX_BATCH || names.len() == 1, "{}", batch.len());
                assert!(names.iter().all(|name| seen.insert(name.clone())), "a name in two batches");
            }
        }
    }
}
