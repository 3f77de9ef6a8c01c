//! Objects by kind, owner and node.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use resources::{Value, meta};

use crate::Kind;
use crate::kept::Kept;
use crate::selecting::{self, Selecting};

/// An object's place within its kind. The namespace of a cluster-wide object is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(object: &Value) -> Self {
        Self::new(meta::namespace(object), meta::name(object))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// What is known of the cluster. It may lag behind the truth, never ahead of it and never backwards: of two versions of an
/// object the newer one counts, whoever told it.
#[derive(Debug, Clone, Default)]
pub struct View {
    objects: BTreeMap<Kind, BTreeMap<Key, Kept>>,
    /// By the uid of the owner that controls.
    owned: BTreeMap<String, BTreeSet<(Kind, Key)>>,
    /// Of [`TAKEN_IN`], those that nobody controls.
    orphans: BTreeMap<Kind, BTreeSet<Key>>,
    /// Pods by the name of their node; empty: not bound yet.
    on_node: BTreeMap<String, BTreeSet<Key>>,
    /// Slices by the service that they are of.
    of_service: BTreeMap<Key, BTreeSet<Key>>,
    selecting: Selecting,
    /// Objects that this process deleted and whose end the API has not told yet.
    gone: HashSet<String>,
    /// Objects whose end the API told lately. An answer to an earlier write may still come, and must not bring them back.
    ended: HashSet<String>,
    ended_order: VecDeque<String>,
    /// Kinds of which all has been told, and the revision of the last list.
    listed: BTreeMap<Kind, u64>,
    /// Kinds of which there is only what was kept from an earlier time.
    restored: BTreeSet<Kind>,
    /// Pods that have ended.
    ended_pods: BTreeSet<Key>,
    /// Leaves out what neither controllers nor the scheduler read.
    lean: bool,
    made: Made,
    /// What was told last of numerous kinds: whoever was woken by it is about to look at its tree.
    fresh: VecDeque<(Kind, Key)>,
}

/// Trees made for those who look, since some were let go of.
#[derive(Debug, Default)]
struct Made(AtomicUsize);

impl Clone for Made {
    fn clone(&self) -> Self {
        Self(AtomicUsize::new(self.0.load(Ordering::Relaxed)))
    }
}

/// A kind with more objects than this has trees for those only that were looked at lately.
const NUMEROUS: usize = 8192;

/// Trees made before those of numerous kinds are let go of: some megabytes of them.
const TREES_MAX: usize = 1024;

/// Trees kept of what was told last. They go one by one as others come, so that their memory is what the next ones are made of:
/// many that end at once leave a heap full of small holes.
const FRESH: usize = 128;

/// Kinds that controllers take in by their labels.
const TAKEN_IN: [Kind; 3] = [Kind::Pod, Kind::ReplicaSet, Kind::ControllerRevision];

/// Answers are never so late that more objects than this have ended meanwhile.
const ENDED_MAX: usize = 8192;

impl View {
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.at(kind, &Key::new(namespace, name))
    }

    pub fn at(&self, kind: Kind, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&kind)?.get(key).map(|kept| self.tree(kind, kept))
    }

    fn tree<'a>(&'a self, kind: Kind, kept: &'a Kept) -> &'a Arc<Value> {
        kept.tree(kind, self.lean, || _ = self.made.0.fetch_add(1, Ordering::Relaxed))
    }

    /// A view for controllers and the scheduler alone: it knows neither who manages which field of an object nor what
    /// only a node asks of a container.
    pub fn lean() -> Self {
        Self { lean: true, ..Self::default() }
    }

    /// The keys of a kind; costs no tree.
    pub fn keys(&self, kind: Kind) -> impl Iterator<Item = &Key> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::keys)
    }

    /// Pods that have ended.
    pub fn ended_pods(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.ended_pods.iter().filter_map(|key| self.at(Kind::Pod, key))
    }

    /// Whether all of a kind has been told once. Before that, what is not here may still be there.
    pub fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains_key(&kind)
    }

    /// All of a kind, in the order of namespace and name.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values).map(move |kept| self.tree(kind, kept))
    }

    /// [`Self::list`] for who walks over all of a kind and keeps little: trees of a numerous kind are made for the walk alone.
    pub fn glance(&self, kind: Kind) -> impl Iterator<Item = Arc<Value>> {
        let numerous = self.count(kind) > NUMEROUS;
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values).map(move |kept| match numerous {
            true => kept.glance(kind, self.lean),
            false => self.tree(kind, kept).clone(),
        })
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.objects.get(&kind).map_or(0, BTreeMap::len)
    }

    pub fn in_namespace(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Arc<Value>> {
        let from = Key::new(namespace, "");
        let within = move |(key, _): &(&Key, &Kept)| key.namespace == from.namespace;
        let start = Key::new(namespace, "");
        self.objects
            .get(&kind)
            .into_iter()
            .flat_map(move |all| all.range(start.clone()..).take_while(within.clone()))
            .map(move |(_, kept)| self.tree(kind, kept))
    }

    /// Objects of a kind that the object with this uid controls.
    pub fn owned(&self, kind: Kind, owner_uid: &str) -> impl Iterator<Item = &Arc<Value>> {
        let all = self.owned.get(owner_uid).into_iter().flatten();
        all.filter(move |(of, _)| *of == kind).filter_map(|(of, key)| self.at(*of, key))
    }

    /// Objects of a namespace that nobody controls; of kinds that controllers take in.
    pub fn orphans(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Arc<Value>> {
        debug_assert!(TAKEN_IN.contains(&kind), "{kind:?} is not among those that are taken in");
        let (start, within) = (Key::new(namespace, ""), namespace.to_owned());
        let keys = self.orphans.get(&kind).into_iter().flat_map(move |keys| keys.range(start.clone()..));
        keys.take_while(move |key| key.namespace == within).filter_map(move |key| self.at(kind, key))
    }

    /// Pods bound to a node; with an empty name those that have none yet.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.on_node.get(node).into_iter().flatten().filter_map(|key| self.at(Kind::Pod, key))
    }

    /// The services of a namespace that select pods with these labels.
    pub fn services_of<'a>(&'a self, namespace: &str, labels: &'a Value) -> impl Iterator<Item = &'a Arc<Value>> {
        let candidates = self.selecting.candidates(namespace, labels);
        candidates
            .filter_map(|key| self.at(Kind::Service, key))
            .filter(move |service| selecting::selects(service, labels))
    }

    /// The slices of a service.
    pub fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Arc<Value>> + Clone {
        let keys = self.of_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.at(Kind::EndpointSlice, key))
    }

    /// Takes in what the API says now. False: something newer is known already.
    pub fn put(&mut self, kind: Kind, object: impl Into<Arc<Value>>) -> bool {
        self.take_in(kind, object.into(), None)
    }

    /// [`Self::put`] of an object's JSON; answers its tree, unless something newer is known.
    pub fn put_told(&mut self, kind: Kind, told: Bytes) -> Option<Arc<Value>> {
        // Most of what is told was written here, and its answer is known.
        if let Some((key, revision)) = crate::kept::head(&told)
            && let Some(have) = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&key))
            && have.revision() >= revision
        {
            have.share(revision, told);
            return None;
        }
        let object = Arc::new(crate::kept::read(kind, self.lean, &told)?);
        self.take_in(kind, object.clone(), Some(told)).then_some(object)
    }

    fn take_in(&mut self, kind: Kind, object: Arc<Value>, told: Option<Bytes>) -> bool {
        let key = Key::of(&object);
        let uid = meta::uid(&object);
        if self.gone.contains(uid) || self.ended.contains(uid) {
            return false;
        }
        let revision = revision_of(&object);
        match self.objects.get_mut(&kind).and_then(|all| all.get_mut(&key)) {
            Some(have) if have.revision() >= revision => {
                // Only now is there something that others hold as well.
                told.into_iter().for_each(|told| have.share(revision, told));
                return false;
            }
            // A later list did not name it: it had gone by then, and no watch will ever tell its end.
            None if self.listed.get(&kind).is_some_and(|listed| revision <= *listed) => return false,
            _ => {}
        }
        self.forget(kind, &key);
        match controller_uid(&object) {
            Some(uid) => drop(self.owned.entry(uid.to_owned()).or_default().insert((kind, key.clone()))),
            None if TAKEN_IN.contains(&kind) => drop(self.orphans.entry(kind).or_default().insert(key.clone())),
            None => {}
        }
        if kind == Kind::Pod {
            let node = meta::str_at(&object, &["spec", "nodeName"]).to_owned();
            self.on_node.entry(node).or_default().insert(key.clone());
            if matches!(meta::str_at(&object, &["status", "phase"]), "Succeeded" | "Failed") {
                self.ended_pods.insert(key.clone());
            }
        }
        if let Some(service) = service_of(kind, &object) {
            self.of_service.entry(service).or_default().insert(key.clone());
        }
        if kind == Kind::Service {
            self.selecting.insert(&object);
        }
        let all = self.objects.entry(kind).or_default();
        all.insert(key.clone(), Kept::new(revision, object, told));
        match all.len() {
            ..=NUMEROUS => {}
            // Now there are many of them: so far each kept its tree.
            count => {
                if count == NUMEROUS + 1 {
                    all.values_mut().for_each(Kept::let_go);
                }
                self.fresh.push_back((kind, key));
                self.let_go_of_oldest();
            }
        }
        self.let_go();
        true
    }

    fn let_go_of_oldest(&mut self) {
        while self.fresh.len() > FRESH {
            let Some((kind, key)) = self.fresh.pop_front() else { return };
            let kept = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&key));
            kept.into_iter().for_each(Kept::let_go);
        }
    }

    /// Lets go of the trees of numerous kinds, once enough have been made. Whoever still holds one keeps it.
    pub(crate) fn let_go(&mut self) {
        if self.made.0.load(Ordering::Relaxed) <= TREES_MAX {
            return;
        }
        self.made.0.store(0, Ordering::Relaxed);
        for all in self.objects.values_mut().filter(|all| all.len() > NUMEROUS) {
            all.values_mut().for_each(Kept::let_go);
        }
    }

    /// The API told that an object has gone.
    pub fn remove(&mut self, kind: Kind, object: &Value) {
        let uid = meta::uid(object);
        if !uid.is_empty() && self.ended.insert(uid.to_owned()) {
            self.ended_order.push_back(uid.to_owned());
            if self.ended_order.len() > ENDED_MAX
                && let Some(oldest) = self.ended_order.pop_front()
            {
                self.ended.remove(&oldest);
            }
        }
        self.drop_known(kind, object);
    }

    /// [`Self::remove`] of an object's JSON; answers its tree.
    pub(crate) fn remove_told(&mut self, kind: Kind, told: &[u8]) -> Option<Arc<Value>> {
        let object = Arc::new(crate::kept::read(kind, self.lean, told)?);
        self.remove(kind, &object);
        Some(object)
    }

    /// The object as this view keeps it.
    pub(crate) fn shortened(&self, kind: Kind, mut object: Value) -> Value {
        if self.lean {
            crate::lean::shorten(kind, &mut object);
        }
        object
    }

    fn drop_known(&mut self, kind: Kind, object: &Value) {
        self.gone.remove(meta::uid(object));
        let key = Key::of(object);
        // Another one of the same name may have come meanwhile.
        if self.at(kind, &key).is_some_and(|have| meta::uid(have) == meta::uid(object)) {
            self.forget(kind, &key);
        }
    }

    /// This process deleted an object: nothing older brings it back until the API has told its end.
    pub fn bury(&mut self, kind: Kind, key: &Key, uid: &str) {
        if self.at(kind, key).is_some_and(|have| meta::uid(have) == uid) {
            self.gone.insert(uid.to_owned());
            self.forget(kind, key);
        }
    }

    /// Takes in what was known at an earlier time, as long as the API has told nothing. It does not count as listed: what is not
    /// here may have come meanwhile.
    pub fn restore(&mut self, kind: Kind, items: Vec<Value>) {
        if self.has_listed(kind) {
            return;
        }
        self.restored.insert(kind);
        for item in items {
            self.put(kind, item);
        }
    }

    /// Replaces everything of a kind by a list, as it was at `revision`; answers the objects that have gone.
    pub fn replace(&mut self, kind: Kind, items: Vec<Bytes>, revision: u64) -> Vec<Arc<Value>> {
        self.listed.insert(kind, 0);
        let restored = self.restored.remove(&kind);
        if restored {
            // The API says how things are, also if it was set back to an earlier time than what was kept.
            let told = items.iter().filter_map(|item| crate::kept::read(kind, false, item));
            let newer =
                |item: &Value| self.at(kind, &Key::of(item)).is_some_and(|have| revision_of(have) > revision_of(item));
            let back: Vec<Key> = told.filter(|item| newer(item)).map(|item| Key::of(&item)).collect();
            for key in back {
                self.forget(kind, &key);
            }
        }
        let listed: BTreeSet<Key> = items.iter().filter_map(|item| crate::kept::key(item)).collect();
        // What was made after the list, and told by the answer to its making, cannot be named in it: the watch tells its end.
        let all = self.objects.get(&kind).into_iter().flatten();
        let gone = all.filter(|(key, have)| !listed.contains(*key) && (restored || have.revision() <= revision));
        let gone: Vec<Key> = gone.map(|(key, _)| key.clone()).collect();
        let lost: Vec<Arc<Value>> = gone.iter().filter_map(|key| self.at(kind, key).cloned()).collect();
        for object in &lost {
            self.drop_known(kind, object);
        }
        for item in items {
            self.put_told(kind, item);
        }
        self.listed.insert(kind, revision);
        lost
    }

    fn forget(&mut self, kind: Kind, key: &Key) -> Option<Arc<Value>> {
        let kept = self.objects.get_mut(&kind)?.remove(key)?;
        let object = kept.tree(kind, self.lean, || ()).clone();
        if let Some(orphans) = self.orphans.get_mut(&kind) {
            orphans.remove(key);
        }
        if let Some(uid) = controller_uid(&object)
            && let Some(set) = self.owned.get_mut(uid)
        {
            set.remove(&(kind, key.clone()));
            if set.is_empty() {
                self.owned.remove(uid);
            }
        }
        if kind == Kind::Pod {
            let node = meta::str_at(&object, &["spec", "nodeName"]);
            if let Some(set) = self.on_node.get_mut(node) {
                set.remove(key);
            }
            self.ended_pods.remove(key);
        }
        if kind == Kind::Service {
            self.selecting.remove(&object);
        }
        if let Some(service) = service_of(kind, &object)
            && let Some(set) = self.of_service.get_mut(&service)
        {
            set.remove(key);
            if set.is_empty() {
                self.of_service.remove(&service);
            }
        }
        Some(object)
    }
}

fn service_of(kind: Kind, object: &Value) -> Option<Key> {
    if kind != Kind::EndpointSlice {
        return None;
    }
    let service = meta::at(object, &["metadata", "labels", "kubernetes.io/service-name"])?.as_str()?;
    Some(Key::new(meta::namespace(object), service))
}

fn revision_of(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

fn controller_uid(object: &Value) -> Option<&str> {
    let owners = meta::list_at(object, &["metadata", "ownerReferences"]);
    owners.iter().find(|owner| owner["controller"] == true).and_then(|owner| owner["uid"].as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, revision: u64, node: &str, owner: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": format!("u-{name}"), "resourceVersion": revision.to_string(),
            "ownerReferences": [{"uid": owner, "controller": true}]}, "spec": {"nodeName": node}})
    }

    #[test]
    fn a_view_never_goes_back() {
        let mut view = View::default();
        assert!(view.put(Kind::Pod, pod("a", 5, "", "o")));
        assert!(view.put(Kind::Pod, pod("a", 7, "n1", "o")));
        assert!(!view.put(Kind::Pod, pod("a", 6, "", "o")), "an old event comes late");
        assert_eq!(view.pods_on("n1").count(), 1);
        assert_eq!(view.pods_on("").count(), 0);
        assert_eq!(view.owned(Kind::Pod, "o").count(), 1);
        view.bury(Kind::Pod, &Key::new("d", "a"), "u-a");
        assert!(!view.put(Kind::Pod, pod("a", 8, "n1", "o")), "what was deleted here does not come back");
        assert_eq!((view.pods_on("n1").count(), view.owned(Kind::Pod, "o").count()), (0, 0));
        let mut lone = pod("lone", 7, "n1", "o");
        lone["metadata"]["ownerReferences"] = json!([]);
        assert!(view.put(Kind::Pod, lone));
        assert_eq!((view.orphans(Kind::Pod, "d").count(), view.orphans(Kind::Pod, "e").count()), (1, 0));
        assert!(view.put(Kind::Pod, pod("lone", 8, "n1", "o")), "somebody takes it in");
        assert_eq!((view.orphans(Kind::Pod, "d").count(), view.owned(Kind::Pod, "o").count()), (0, 1));
        view.remove(Kind::Pod, &pod("lone", 9, "n1", "o"));
        view.remove(Kind::Pod, &pod("a", 9, "n1", "o"));
        assert!(!view.put(Kind::Pod, pod("a", 8, "n1", "o")), "the answer to an earlier write comes late");
        let mut next = pod("a", 10, "", "o");
        next["metadata"]["uid"] = "another".into();
        assert!(view.put(Kind::Pod, next));
    }

    #[test]
    fn of_many_objects_only_those_told_last_have_trees() {
        let mut view = View::default();
        let name = |number: usize| format!("p{number:05}");
        let tell = |view: &mut View, number: usize| {
            let told = pod(&name(number), number as u64 + 1, "", "o").to_string();
            view.put_told(Kind::Pod, told.into()).expect("it is new")
        };
        let trees = |view: &View| view.objects[&Kind::Pod].values().filter(|kept| kept.has_tree()).count();
        for number in 0..NUMEROUS {
            tell(&mut view, number);
        }
        assert_eq!(trees(&view), NUMEROUS, "there is room for as many");
        for number in NUMEROUS..NUMEROUS + 2 * FRESH {
            let object = tell(&mut view, number);
            assert!(trees(&view) <= FRESH);
            assert_eq!(meta::name(&object), name(number), "whoever was told keeps it");
        }
        // The last ones are at hand, and all others come back when they are looked at.
        let last = Key::new("d", name(NUMEROUS + 2 * FRESH - 1));
        assert!(view.objects[&Kind::Pod][&last].has_tree());
        let first = view.get(Kind::Pod, "d", &name(0)).expect("it is known");
        assert_eq!(**first, pod(&name(0), 1, "", "o"));
        assert_eq!(view.pods_on("").count(), NUMEROUS + 2 * FRESH);
    }

    #[test]
    fn a_new_list_takes_away_what_it_does_not_name() {
        let mut view = View::default();
        view.put(Kind::Pod, pod("a", 5, "", "o"));
        view.put(Kind::Pod, pod("b", 6, "", "o"));
        let lost = view.replace(
            Kind::Pod,
            [pod("b", 6, "", "o"), pod("c", 8, "", "o")].map(|pod| pod.to_string().into()).into(),
            9,
        );
        assert_eq!(lost.iter().map(|pod| meta::name(pod)).collect::<Vec<_>>(), ["a"]);
        let names: Vec<_> = view.in_namespace(Kind::Pod, "d").map(|pod| meta::name(pod)).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(view.in_namespace(Kind::Pod, "other").count(), 0);
        assert!(view.has_listed(Kind::Pod) && !view.has_listed(Kind::Node));
        assert!(!view.put(Kind::Pod, pod("a", 7, "", "o")), "it had gone before the list: no watch tells it again");
        assert!(view.put(Kind::Pod, pod("a", 10, "", "o")), "made after the list");
    }

    #[test]
    fn a_list_that_is_older_than_an_answer_takes_nothing_away() {
        let mut view = View::default();
        view.put(Kind::Pod, pod("a", 5, "", "o"));
        view.put(Kind::Pod, pod("b", 12, "", "o"));
        // It was read at 10 and comes late: it cannot know of the second one.
        let lost = view.replace(Kind::Pod, Vec::new(), 10);
        assert_eq!(lost.iter().map(|pod| meta::name(pod)).collect::<Vec<_>>(), ["a"]);
        assert_eq!(view.owned(Kind::Pod, "o").count(), 1, "whoever counts makes no other");
        view.remove(Kind::Pod, &pod("b", 13, "", "o"));
        assert_eq!(view.count(Kind::Pod), 0, "its end is told");
    }

    #[test]
    fn what_was_kept_counts_until_the_api_speaks() {
        let mut view = View::default();
        view.restore(Kind::Pod, vec![pod("a", 50, "n1", "o"), pod("b", 60, "n1", "o")]);
        assert!(!view.has_listed(Kind::Pod));
        assert_eq!(view.pods_on("n1").count(), 2);
        // It was set back meanwhile.
        let lost = view.replace(Kind::Pod, vec![pod("a", 7, "n2", "o").to_string().into()], 7);
        assert_eq!(lost.iter().map(|pod| meta::name(pod)).collect::<Vec<_>>(), ["b"]);
        assert_eq!(view.pods_on("n2").count(), 1);
        view.restore(Kind::Pod, vec![pod("b", 60, "n1", "o")]);
        assert_eq!(view.pods_on("n1").count(), 0, "too late");
    }
}
