//! The thread `files`: reads what the node is given in files, and hands what has changed of it to the owner of the registrations.
//!
//! A file of a million names of which ten have changed costs the owner ten operations, and this thread little more: only lines that
//! were not there before are read ([`names_text`](crate::registry::names_text)). Where that does not do, all that files say is compared
//! with what this node has registered of them, which is read some at a time. A mistake in a file changes nothing at all, of no file.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};

use super::inbox::{Bulk, ControlSender};
use super::persist::Op;
use super::writes::each_own;
use super::{NodeError, read_ring, read_secrets, read_zone_keys, upstreams};
use crate::config::Settings;
use crate::gossip::key_ring::KeyRing;
use crate::limits::MAX_BATCH_OPERATIONS as MAX_BATCH;
use crate::policy::Policy;
use crate::policy::rules::Scope;
use crate::precedence::stand_back;
use crate::registry::files::{Comparison, Doubled, INSTANCE, Refused, Registrations};
use crate::registry::names_text::Texts;
use crate::resolver::settings::Upstreams;
use crate::store::{Record, SharedStore};
use crate::wire::cookie::Secrets;
use crate::wire::name::Name;
use crate::wire::record::rtype;
use crate::zone_maintenance::keys::Keys;

/// Operations that belong together: all of each name's are in one batch.
#[derive(Debug, Default)]
pub(super) struct Batch(pub(super) Vec<Op>);

/// What the thread is to read.
pub(super) struct Job {
    pub(super) settings: Arc<Settings>,
    /// The settings are new: the owner takes them over when their files have been read.
    pub(super) is_configuration: bool,
    /// New policies, if there are some.
    pub(super) policies: Option<Vec<(Scope, Policy)>>,
}

/// What files say besides names.
pub(super) struct FilesRead {
    pub(super) job: Job,
    pub(super) begin: Instant,
    pub(super) read: Result<Contents, String>,
}

/// The contents of files with no mistake.
pub(super) struct Contents {
    pub(super) secrets: Option<Secrets>,
    pub(super) ring: Option<KeyRing>,
    pub(super) zone_keys: Keys,
    pub(super) upstreams: Option<(Upstreams, Vec<String>)>,
}

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
    pub(super) fn new(settings: &Settings, texts: Texts, names: Registrations) -> Option<Self> {
        let (domains, ttl_s) = (settings.domains.clone(), settings.zone.ttl_s);
        texts.can_be_kept().then(|| Self { texts, doubled: names.into_doubled(), domains, ttl_s })
    }
}

/// The thread.
pub(super) struct Files {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Files {
    /// Starts it. Batches go to `sender`, and at their end what else there is; upstreams are read for a node that answers at `listen`.
    pub(super) fn start(
        store: SharedStore,
        sender: ControlSender,
        listen: Vec<std::net::SocketAddr>,
        mut before: Option<Before>,
    ) -> io::Result<Self> {
        // The owner gives it one job at a time.
        let (jobs, receiver) = bounded::<Job>(1);
        let work = move || {
            stand_back();
            for job in receiver {
                let begin = Instant::now();
                let mut output = Output::new(&sender, job.policies.clone());
                let read = reload(&job.settings, &listen, &mut before, &store, &mut output);
                let read = read.map_err(|error| error.to_string());
                output.flush();
                if !sender.bulk(Bulk::Read(Box::new(FilesRead { job, begin, read }))) {
                    return;
                }
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
        .map_err(|error| NodeError::Names(Refused::File(error)))?;
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
        ops.into_iter().for_each(|of_name| output.push(of_name));
        before.texts = texts;
        return Ok(contents);
    }
    let Settings { zones, domains, zone, .. } = settings;
    let names = Registrations::of(&texts, zones, domains, zone.ttl_s).map_err(NodeError::Names)?;
    output.begin();
    compare(&names, store).each_name(|changes| {
        let new = changes.puts().map(|(key_len, bytes)| Op::Put { key_len, bytes: bytes.into() });
        let gone = changes.removals().map(|key| Op::Remove { key: key.into() });
        output.push(gone.chain(new).collect());
    });
    *before = Before::new(settings, texts, names);
    Ok(contents)
}

/// Operations on their way to the owner.
struct Output<'a> {
    sender: &'a ControlSender,
    /// They go before all names: whoever sees the new names is to see them by the new policies.
    policies: Option<Vec<(Scope, Policy)>>,
    batch: Vec<Op>,
}

impl<'a> Output<'a> {
    fn new(sender: &'a ControlSender, policies: Option<Vec<(Scope, Policy)>>) -> Self {
        Self { sender, policies, batch: Vec::new() }
    }

    /// There is no mistake in any file.
    fn begin(&mut self) {
        if let Some(policies) = self.policies.take() {
            // It can only fail when the node stops, here as below.
            self.sender.bulk(Bulk::Policies(policies));
        }
    }

    /// Hands over all that is to be done for a name, together with others'.
    fn push(&mut self, of_name: Vec<Op>) {
        if !self.batch.is_empty() && self.batch.len() + of_name.len() > MAX_BATCH {
            self.flush();
        }
        self.batch.extend(of_name);
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            // It can only fail when the node stops: what has not been taken is read again at the next start.
            self.sender.bulk(Bulk::Batch(Batch(std::mem::take(&mut self.batch))));
        }
    }
}

/// Records of one name beyond which all files are read: they may be too many.
const MANY_OF_A_NAME: usize = 1_000;

/// What is to be done for each name in lines that have changed since `before`; `None` if that cannot be told from these lines alone.
fn changes(texts: &Texts, before: &Before, store: &SharedStore) -> Option<Vec<Vec<Op>>> {
    let lines = texts.changed_since(&before.texts)?;
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
    use std::time::Duration;

    /// The batches by which a node that has registered `before` of a file comes to have registered `after`, twice: if it remembers the text
    /// of before, and if it does not.
    fn batches(before: &str, after: &str) -> [Vec<Vec<Op>>; 2] {
        [true, false].map(|remembers| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("hosts");
            fs::write(&path, before).unwrap();
            let domains = vec![Name::from_text("example").unwrap()];
            let settings = Settings { names: vec![path.clone()], domains, ..Settings::default() };
            let texts = Texts::read(&settings.names, &[]).unwrap();
            let names = Registrations::of(&texts, &[], &settings.domains, settings.zone.ttl_s).unwrap();
            let mut store = Store::new(NodeId([1; 16]), 1);
            store.load(&names.all(), 1);
            let mut known = Before::new(&settings, texts, names).filter(|_| remembers);
            fs::write(&path, after).unwrap();
            let (store, inbox) = (SharedStore::new(store), Inbox::new());
            let sender = inbox.sender();
            let taker = thread::spawn(move || {
                let mut all = Vec::new();
                while let Some(Work::Bulk(bulk)) = inbox.next(Duration::from_secs(60), false, true) {
                    let Bulk::Batch(Batch(ops)) = bulk else { break };
                    all.push(ops);
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

    fn sorted(batches: &[Vec<Op>]) -> Vec<String> {
        let mut all: Vec<_> = batches.iter().flatten().map(|op| format!("{op:?}")).collect();
        all.sort();
        all
    }

    #[test]
    fn what_has_not_changed_costs_nothing_and_what_has_one_operation_each() {
        assert!(batches(&lines(0..5_000), &lines(0..5_000)).iter().all(Vec::is_empty));
        for all in batches(&lines(0..5_000), &lines(3..5_002)) {
            let (puts, removals): (Vec<_>, Vec<_>) =
                all.iter().flatten().partition(|op| matches!(op, Op::Put { .. }));
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
            let name = |op: &Op| Record::read(op.key()).unwrap().name.to_vec();
            let mut seen = HashSet::new();
            for batch in &all {
                let names: HashSet<_> = batch.iter().map(name).collect();
                assert!(batch.len() <= MAX_BATCH || names.len() == 1, "{}", batch.len());
                assert!(names.iter().all(|name| seen.insert(name.clone())), "a name in two batches");
            }
        }
    }
}
