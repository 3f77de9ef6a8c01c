//! Keeps a view up to date over the API's watches, runs parts over it and carries out what they ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use client::{Client, DeleteOptions, Happened, Patch, Selectors};
use jiff::Timestamp;
use resources::{Status, Value, meta};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::record::Telling;
use crate::{Keep, Key, Kind, Part, Queue, Recorder, View, Write};

/// Keys of one part that are written at a time.
const AT_ONCE: usize = 64;
/// Events that are told at a time.
const TELLS_AT_ONCE: usize = 64;
/// The same while something is being written: what people read may come a little later than what it is about.
const TELLS_BESIDE_WRITES: usize = 1;
/// Events that wait to be told. People miss the rest, and nothing else does: what decides must not wait for them.
const TELLS_MAX: usize = 8192;
/// Pods of one key that are made at a time at most.
const PODS_AT_ONCE: usize = 64;
const LIST_RETRY: Duration = Duration::from_millis(200);
const LIST_RETRY_MAX: Duration = Duration::from_secs(5);

/// Somebody who wants to hear of changes after the view has taken them in.
pub struct Observer {
    pub kinds: &'static [Kind],
    pub tell: mpsc::UnboundedSender<(Kind, Arc<Value>)>,
}

/// A part with what it needs to run.
pub struct Member {
    part: Box<dyn Part>,
    api: Client,
    queue: Queue,
    recorder: Recorder,
    writing: usize,
}

impl Member {
    /// `api` asks as the part's own user.
    pub fn new(part: Box<dyn Part>, api: Client) -> Self {
        let recorder = Recorder::new(part.name(), "");
        Self { part, api, queue: Queue::default(), recorder, writing: 0 }
    }
}

enum Told {
    List(Kind, Vec<Bytes>, u64),
    /// What was kept from an earlier time, since nobody answers now.
    Kept(Kind, Vec<Value>),
    /// Nobody answers.
    Nothing(Kind),
    Changes(Kind, Vec<client::Told>),
}

/// What a write left behind.
enum Effect {
    Now(Kind, Value),
    Gone(Kind, Key, String),
    /// An event that was to be counted is not there any more.
    NoEvent(String),
    /// The API would not have a pod; the owner's people want to know why.
    Refused {
        owner: Value,
        message: String,
    },
}

struct Done {
    member: usize,
    key: Key,
    effects: Vec<Effect>,
    outcome: Result<(), Status>,
    again: Option<Duration>,
}

/// One view and the parts that run over it.
pub struct Driver {
    api: Client,
    view: Arc<RwLock<View>>,
    members: Vec<Member>,
    observers: Vec<Observer>,
    listed: watch::Sender<bool>,
    selected: BTreeMap<Kind, Selectors>,
    keep: Option<Keep>,
    /// Counts what is noticed of a kind, for those who keep it.
    kept: BTreeMap<Kind, watch::Sender<u64>>,
}

impl Driver {
    /// `api` reads everything that the parts and observers watch.
    pub fn new(api: Client) -> Self {
        Self {
            api,
            view: Arc::default(),
            members: Vec::new(),
            observers: Vec::new(),
            selected: BTreeMap::new(),
            listed: watch::Sender::new(false),
            keep: None,
            kept: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    pub fn observe(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// The view leaves out what neither controllers nor the scheduler read; see [`View::lean`].
    pub fn lean(self) -> Self {
        Self { view: Arc::new(RwLock::new(View::lean())), ..self }
    }

    /// The view holds these objects of a kind only.
    pub fn select(&mut self, kind: Kind, selectors: Selectors) {
        self.selected.insert(kind, selectors);
    }

    /// Keeps what the API says in files, and goes on from them while it does not answer. For observers: parts would decide
    /// from what may be long over.
    pub fn keep(&mut self, keep: Keep) {
        self.keep = Some(keep);
    }

    /// For readers beside the parts. Not to be held across an await.
    pub fn view(&self) -> Arc<RwLock<View>> {
        self.view.clone()
    }

    /// Turns true when the view has everything that is watched: before that, what is missing may only be late.
    pub fn listed(&self) -> watch::Receiver<bool> {
        self.listed.subscribe()
    }

    /// Runs until the API ends.
    pub async fn run(mut self) {
        let watched: BTreeSet<Kind> = (self.members.iter().flat_map(|member| member.part.watches()))
            .chain(self.observers.iter().flat_map(|observer| observer.kinds))
            .copied()
            .collect();
        let (tell, mut told) = mpsc::channel(256);
        let mut followers = JoinSet::new();
        for kind in &watched {
            let selectors = self.selected.get(kind).cloned().unwrap_or_default();
            followers.spawn(follow(self.api.clone(), *kind, selectors, tell.clone(), self.keep.clone()));
            if let Some(keep) = &self.keep {
                let (count, noticed) = watch::channel(0);
                self.kept.insert(*kind, count);
                followers.spawn(keep.clone().follow(*kind, self.view.clone(), noticed));
            }
        }
        drop(tell);
        // Nobody decides before everything has been listed once: half a view would look like loss.
        let mut unseen = watched;
        let mut writes: JoinSet<Done> = JoinSet::new();
        let (teller, mut untold) = mpsc::channel(TELLS_MAX);
        let mut telling: JoinSet<(usize, Vec<Effect>)> = JoinSet::new();
        let ended = self.api.clone();
        loop {
            let next = self.members.iter().filter_map(|member| member.queue.next_at()).min();
            let wait = next.map(|at| Duration::try_from(at.duration_since(client::now())).unwrap_or_default());
            let tells = if writes.is_empty() { TELLS_AT_ONCE } else { TELLS_BESIDE_WRITES };
            // In this order, so that a simulation's run depends on its seed alone. Whatever came besides is taken in below.
            tokio::select! {
                biased;
                () = ended.stopped() => break,
                first = told.recv() => {
                    let Some(first) = first else { break };
                    let mut next = Some(first);
                    while let Some(told_now) = next {
                        if let Told::List(kind, ..) | Told::Kept(kind, _) = &told_now {
                            unseen.remove(kind);
                        }
                        self.take_in(told_now);
                        next = told.try_recv().ok();
                    }
                }
                Some(done) = writes.join_next() => self.fold(done, &teller),
                Some(told) = telling.join_next() => self.forget_untold(told),
                Some((member, told)) = untold.recv(), if telling.len() < tells => {
                    let api = self.members[member].api.clone();
                    telling.spawn(async move {
                        let mut effects = Vec::new();
                        self::tell(&api, told, &mut effects).await;
                        (member, effects)
                    });
                }
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
            while let Some(done) = writes.try_join_next() {
                self.fold(done, &teller);
            }
            if unseen.is_empty() {
                self.listed.send_if_modified(|listed| !std::mem::replace(listed, true));
                self.dispatch(&mut writes, &teller);
            }
        }
    }

    fn take_in(&mut self, told: Told) {
        match told {
            Told::Nothing(kind) => {
                let deaf = self.members.iter_mut().filter(|member| member.part.watches().contains(&kind));
                deaf.for_each(|member| member.part.unanswered(client::now()));
            }
            Told::List(kind, items, revision) => {
                let (lost, keys) = {
                    let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                    let lost = view.replace(kind, items, revision);
                    (lost, view.keys(kind).cloned().collect::<Vec<_>>())
                };
                if keys.is_empty() && lost.is_empty() {
                    self.count(kind);
                }
                lost.iter().for_each(|object| self.notice(kind, object));
                for key in keys {
                    let object = {
                        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                        view.let_go();
                        view.at(kind, &key).cloned()
                    };
                    object.iter().for_each(|object| self.notice(kind, object));
                }
            }
            Told::Kept(kind, items) => {
                let all: Vec<Arc<Value>> = {
                    let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                    view.restore(kind, items);
                    view.list(kind).cloned().collect()
                };
                all.into_iter().for_each(|object| self.notice(kind, &object));
            }
            Told::Changes(kind, events) => {
                for event in events {
                    let object = {
                        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                        match event.happened {
                            Happened::Deleted => view.remove_told(kind, &event.object),
                            Happened::Added | Happened::Modified => view.put_told(kind, event.object),
                        }
                    };
                    object.iter().for_each(|object| self.notice(kind, object));
                }
            }
        }
    }

    fn count(&self, kind: Kind) {
        if let Some(count) = self.kept.get(&kind) {
            count.send_modify(|count| *count += 1);
        }
    }

    /// Tells observers, and queues the keys that an object's change concerns.
    fn notice(&mut self, kind: Kind, object: &Arc<Value>) {
        self.count(kind);
        for observer in &self.observers {
            if observer.kinds.contains(&kind) {
                let _ = observer.tell.send((kind, object.clone()));
            }
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        for member in &mut self.members {
            if member.part.watches().contains(&kind) {
                member.part.notice(&view, kind, object);
                for key in member.part.keys(&view, kind, object) {
                    member.queue.add(key);
                }
            }
        }
    }

    fn dispatch(&mut self, writes: &mut JoinSet<Done>, teller: &Teller) {
        let now = client::now();
        for (number, member) in self.members.iter_mut().enumerate() {
            while member.writing < AT_ONCE
                && let Some(key) = member.queue.take(now)
            {
                let outcome = {
                    let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
                    member.part.reconcile(&view, &key, now)
                };
                if outcome.writes.is_empty() {
                    member.queue.done(&key, true, outcome.again, now);
                    continue;
                }
                let steps: Vec<Step> =
                    outcome.writes.into_iter().map(|write| Step::of(write, &mut member.recorder, now)).collect();
                member.writing += 1;
                let (api, again, teller) = (member.api.clone(), outcome.again, teller.clone());
                writes.spawn(async move {
                    let mut effects = Vec::new();
                    let tell = |telling| drop(teller.try_send((number, telling)));
                    let outcome = carry_out(&api, steps, &mut effects, &tell).await;
                    Done { member: number, key, effects, outcome, again }
                });
            }
        }
    }

    /// Events that could not be told are told anew the next time, and not counted.
    fn forget_untold(&mut self, told: Result<(usize, Vec<Effect>), tokio::task::JoinError>) {
        let Ok((member, effects)) = told else { return };
        for effect in effects {
            if let Effect::NoEvent(name) = effect {
                self.members[member].recorder.forget(&name);
            }
        }
    }

    fn fold(&mut self, done: Result<Done, tokio::task::JoinError>, teller: &Teller) {
        let Ok(Done { member, key, effects, outcome, again }) = done else { return };
        let mut changed = Vec::new();
        {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            for effect in effects {
                match effect {
                    Effect::Now(kind, object) => {
                        let object = Arc::new(view.shortened(kind, object));
                        if view.put(kind, object.clone()) {
                            changed.push((kind, object));
                        }
                    }
                    Effect::Gone(kind, key, uid) => {
                        let had = view.at(kind, &key).cloned();
                        view.bury(kind, &key, &uid);
                        changed.extend(had.map(|object| (kind, object)));
                    }
                    Effect::NoEvent(name) => self.members[member].recorder.forget(&name),
                    Effect::Refused { owner, message } => {
                        let text = format!("Error creating: {message}");
                        let recorder = &mut self.members[member].recorder;
                        let telling = recorder.tell(&owner, true, "FailedCreate", &text, client::now());
                        let _ = teller.try_send((member, telling));
                    }
                }
            }
        }
        for (kind, object) in changed {
            self.notice(kind, &object);
        }
        let name = self.members[member].part.name();
        if let Err(status) = &outcome {
            match status.code {
                404 | 409 => tracing::debug!(part = name, %key, message = status.message, "will look again"),
                _ => tracing::warn!(part = name, %key, message = status.message, "will try again"),
            }
        }
        let member = &mut self.members[member];
        if outcome.as_ref().is_err_and(|status| status.code >= 500) {
            member.part.unanswered(client::now());
        }
        member.writing -= 1;
        member.queue.done(&key, outcome.is_ok(), again, client::now());
    }
}

/// Lists, then follows changes; lists again when it fell too far behind.
async fn follow(api: Client, kind: Kind, selected: Selectors, tell: mpsc::Sender<Told>, keep: Option<Keep>) {
    let gvr = kind.gvr();
    // Asked once, and not at all when the API has answered first.
    let mut keep = keep;
    let mut pause = LIST_RETRY;
    loop {
        let list = match api.listing(&gvr, "", &selected).await {
            Ok(list) => list,
            Err(status) => {
                tracing::warn!(kind = kind.as_str(), message = status.message, "cannot list; trying again");
                if tell.send(Told::Nothing(kind)).await.is_err() {
                    return;
                }
                let kept = keep.take().filter(|_| status.code >= 500).and_then(|keep| keep.load(kind));
                if let Some(items) = kept
                    && tell.send(Told::Kept(kind, items)).await.is_err()
                {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LIST_RETRY_MAX);
                continue;
            }
        };
        pause = LIST_RETRY;
        keep = None;
        if tell.send(Told::List(kind, list.items, list.revision)).await.is_err() {
            return;
        }
        let Ok(mut events) = api.watch(&gvr, "", &selected, list.revision).await else {
            tokio::time::sleep(LIST_RETRY).await;
            continue;
        };
        while let Ok((batch, _)) = events.next_told().await {
            if tell.send(Told::Changes(kind, batch)).await.is_err() {
                return;
            }
        }
        // Too old, or the server ends; the next list tells which.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A write with its event already counted.
enum Step {
    Write(Write),
    Tell(Telling),
}

impl Step {
    fn of(write: Write, recorder: &mut Recorder, now: Timestamp) -> Self {
        match write {
            Write::Event { about, warning, reason, message } => {
                Self::Tell(recorder.tell(&about, warning, &reason, &message, now))
            }
            write => Self::Write(write),
        }
    }
}

/// Where events go that are to be told.
type Teller = mpsc::Sender<(usize, Telling)>;

/// A pod that was made or refused: its events, and whose it would have been.
type Made = (Vec<Telling>, Result<Option<Effect>, (Option<Value>, Status)>);

/// In order; but pods that are made one after the other are made ever more at a time, one more for each that was made, as long as
/// none is refused: a thousand do not wait for a thousand answers, and a quota that is used up costs few requests.
async fn carry_out(
    api: &Client,
    steps: Vec<Step>,
    effects: &mut Vec<Effect>,
    tell: &(impl Fn(Telling) + Sync),
) -> Result<(), Status> {
    let mut steps = steps.into_iter().peekable();
    while let Some(step) = steps.next() {
        let write = match step {
            Step::Tell(telling) => {
                tell(telling);
                continue;
            }
            Step::Write(write) => write,
        };
        if !matches!(write, Write::Create(Kind::Pod, _)) {
            effects.extend(perform(api, write).await?);
            continue;
        }
        let mut making: JoinSet<Made> = JoinSet::new();
        let (mut next, mut at_once, mut failed) = (Some(write), 1, None);
        loop {
            while let Some(write) = next.take() {
                let mut tellings = Vec::new();
                while let Some(Step::Tell(telling)) = steps.next_if(|step| matches!(step, Step::Tell(_))) {
                    tellings.push(telling);
                }
                let api = api.clone();
                making.spawn(async move {
                    let owner = owner_of_pod(&write);
                    (tellings, perform(&api, write).await.map_err(|status| (owner, status)))
                });
                if making.len() < at_once {
                    next = next_pod(&mut steps);
                }
            }
            let Some(done) = making.join_next().await else { break };
            match done {
                Ok((tellings, Ok(effect))) => {
                    effects.extend(effect);
                    tellings.into_iter().for_each(tell);
                    at_once = (at_once + 1).min(PODS_AT_ONCE);
                }
                Ok((_, Err((owner, status)))) => {
                    if let Some(owner) = owner.filter(|_| !matches!(status.code, 404 | 409 | 503)) {
                        effects.push(Effect::Refused { owner, message: status.message.clone() });
                    }
                    failed = failed.or(Some(status));
                }
                Err(error) => failed = failed.or(Some(Status::internal(error))),
            }
            if failed.is_none() {
                next = next_pod(&mut steps);
            }
        }
        if let Some(status) = failed {
            return Err(status);
        }
    }
    Ok(())
}

/// The next step, if it makes a pod.
fn next_pod(steps: &mut std::iter::Peekable<std::vec::IntoIter<Step>>) -> Option<Write> {
    match steps.next_if(|step| matches!(step, Step::Write(Write::Create(Kind::Pod, _))))? {
        Step::Write(write) => Some(write),
        Step::Tell(_) => None,
    }
}

/// Whose pod is about to be made, as events name it.
fn owner_of_pod(write: &Write) -> Option<Value> {
    let Write::Create(Kind::Pod, pod) = write else { return None };
    let owner = meta::owners(pod).into_iter().find(|owner| owner.controller)?;
    Some(serde_json::json!({"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
        "namespace": meta::namespace(pod)}))
}

/// People miss an event that cannot be told; nothing else does.
async fn tell(api: &Client, telling: Telling, effects: &mut Vec<Effect>) {
    let events = client::Gvr::new("", "v1", "events");
    let told = match &telling {
        Telling::New(event) => api.create(&events, meta::namespace(event), event).await.map(drop),
        Telling::Count { namespace, name, patch } => {
            api.patch(&events, namespace, name, "", &Patch::Merge(patch.clone())).await.map(drop)
        }
    };
    if let Err(status) = told {
        tracing::debug!(message = status.message, "an event was not told");
        match telling {
            Telling::New(event) => effects.push(Effect::NoEvent(meta::name(&event).to_owned())),
            Telling::Count { name, .. } => effects.push(Effect::NoEvent(name)),
        }
    }
}

async fn perform(api: &Client, write: Write) -> Result<Option<Effect>, Status> {
    let now = |kind: Kind| {
        move |object: Value| {
            let grace = meta::at(&object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
            // The last finalizer went with this write, and the object with it.
            let gone = meta::is_terminating(&object) && meta::finalizers(&object).is_empty() && grace.unwrap_or(0) == 0;
            Some(match gone {
                true => Effect::Gone(kind, Key::of(&object), meta::uid(&object).to_owned()),
                false => Effect::Now(kind, object),
            })
        }
    };
    match write {
        Write::Create(kind, object) => api.create(&kind.gvr(), meta::namespace(&object), &object).await.map(now(kind)),
        Write::Update(kind, object) => api.update(&kind.gvr(), &object).await.map(now(kind)),
        Write::Status(kind, object) => api.update_status(&kind.gvr(), &object).await.map(now(kind)),
        Write::Merge { kind, key, sub, patch } => {
            api.patch(&kind.gvr(), &key.namespace, &key.name, sub, &Patch::Merge(patch)).await.map(now(kind))
        }
        Write::Strategic { kind, key, sub, patch } => {
            api.patch(&kind.gvr(), &key.namespace, &key.name, sub, &Patch::Strategic(patch)).await.map(now(kind))
        }
        Write::Delete { kind, key, uid, grace_secs } => {
            let options = DeleteOptions { grace_secs, propagation: "Background".into(), uid: uid.clone() };
            match api.delete(&kind.gvr(), &key.namespace, &key.name, &options).await {
                Ok(object) if object["kind"] == "Status" => Ok(Some(Effect::Gone(kind, key, uid))),
                Ok(object) => Ok(Some(Effect::Now(kind, object))),
                // It has gone, or another one has its name: either way this one is no more.
                Err(status) if matches!(status.code, 404 | 409) => Ok(None),
                Err(status) => Err(status),
            }
        }
        Write::Bind { pod, node } => api.bind(&pod.namespace, &pod.name, &node).await.map(|()| None),
        // Counted before it comes here; see `Step::of`.
        Write::Event { .. } => Ok(None),
    }
}

#[cfg(test)]
mod tests;
