//! Keeps a view up to date over the API's watches, runs parts over it and carries out what they ask for.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use apiserver::{DeleteOptions, Happened, Local, Patch, Selectors};
use jiff::Timestamp;
use resources::{Status, Value, meta};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::record::Telling;
use crate::{Key, Kind, Part, Queue, Recorder, View, Write};

/// Keys of one part that are written at a time.
const AT_ONCE: usize = 64;
const LIST_RETRY: Duration = Duration::from_millis(200);

/// Somebody who wants to hear of changes after the view has taken them in.
pub struct Observer {
    pub kinds: &'static [Kind],
    pub tell: mpsc::UnboundedSender<(Kind, Arc<Value>)>,
}

/// A part with what it needs to run.
pub struct Member {
    part: Box<dyn Part>,
    api: Local,
    queue: Queue,
    recorder: Recorder,
    writing: usize,
}

impl Member {
    /// `api` asks as the part's own user.
    pub fn new(part: Box<dyn Part>, api: Local) -> Self {
        let recorder = Recorder::new(part.name(), "");
        Self { part, api, queue: Queue::default(), recorder, writing: 0 }
    }
}

enum Told {
    List(Kind, Vec<Value>),
    Changes(Kind, Vec<apiserver::Event>),
}

/// What a write left behind.
enum Effect {
    Now(Kind, Value),
    Gone(Kind, Key, String),
    /// An event that was to be counted is not there any more.
    NoEvent(String),
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
    api: Local,
    view: Arc<RwLock<View>>,
    members: Vec<Member>,
    observers: Vec<Observer>,
}

impl Driver {
    /// `api` reads everything that the parts and observers watch.
    pub fn new(api: Local) -> Self {
        Self { api, view: Arc::default(), members: Vec::new(), observers: Vec::new() }
    }

    pub fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    pub fn observe(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// For readers beside the parts. Not to be held across an await.
    pub fn view(&self) -> Arc<RwLock<View>> {
        self.view.clone()
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
            followers.spawn(follow(self.api.clone(), *kind, tell.clone()));
        }
        drop(tell);
        // Nobody decides before everything has been listed once: half a view would look like loss.
        let mut unseen = watched;
        let mut writes: JoinSet<Done> = JoinSet::new();
        let ended = self.api.clone();
        loop {
            let next = self.members.iter().filter_map(|member| member.queue.next_at()).min();
            let wait = next.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
            tokio::select! {
                () = ended.stopped() => break,
                first = told.recv() => {
                    let Some(first) = first else { break };
                    let mut next = Some(first);
                    while let Some(told_now) = next {
                        if let Told::List(kind, _) = &told_now {
                            unseen.remove(kind);
                        }
                        self.take_in(told_now);
                        next = told.try_recv().ok();
                    }
                }
                Some(done) = writes.join_next() => {
                    self.fold(done);
                    while let Some(done) = writes.try_join_next() {
                        self.fold(done);
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
            if unseen.is_empty() {
                self.dispatch(&mut writes);
            }
        }
    }

    fn take_in(&mut self, told: Told) {
        match told {
            Told::List(kind, items) => {
                let changed = {
                    let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                    let mut changed = view.replace(kind, items);
                    changed.extend(view.list(kind).cloned());
                    changed
                };
                changed.into_iter().for_each(|object| self.notice(kind, &object));
            }
            Told::Changes(kind, events) => {
                for event in events {
                    let object = Arc::new(event.object);
                    {
                        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                        match event.happened {
                            Happened::Deleted => view.remove(kind, &object),
                            Happened::Added | Happened::Modified => drop(view.put(kind, object.clone())),
                        }
                    }
                    self.notice(kind, &object);
                }
            }
        }
    }

    /// Tells observers, and queues the keys that an object's change concerns.
    fn notice(&mut self, kind: Kind, object: &Arc<Value>) {
        for observer in &self.observers {
            if observer.kinds.contains(&kind) {
                let _ = observer.tell.send((kind, object.clone()));
            }
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        for member in &mut self.members {
            if member.part.watches().contains(&kind) {
                for key in member.part.keys(&view, kind, object) {
                    member.queue.add(key);
                }
            }
        }
    }

    fn dispatch(&mut self, writes: &mut JoinSet<Done>) {
        let now = Timestamp::now();
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
                let (api, again) = (member.api.clone(), outcome.again);
                writes.spawn(async move {
                    let mut effects = Vec::new();
                    let outcome = carry_out(&api, steps, &mut effects).await;
                    Done { member: number, key, effects, outcome, again }
                });
            }
        }
    }

    fn fold(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let Ok(Done { member, key, effects, outcome, again }) = done else { return };
        let mut changed = Vec::new();
        {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            for effect in effects {
                match effect {
                    Effect::Now(kind, object) => {
                        let object = Arc::new(object);
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
        member.writing -= 1;
        member.queue.done(&key, outcome.is_ok(), again, Timestamp::now());
    }
}

/// Lists, then follows changes; lists again when it fell too far behind.
async fn follow(api: Local, kind: Kind, tell: mpsc::Sender<Told>) {
    let (gvr, all) = (kind.gvr(), Selectors::default());
    loop {
        let list = match api.list(&gvr, "", &all).await {
            Ok(list) => list,
            Err(status) => {
                tracing::warn!(kind = kind.as_str(), message = status.message, "cannot list; trying again");
                tokio::time::sleep(LIST_RETRY).await;
                continue;
            }
        };
        if tell.send(Told::List(kind, list.items)).await.is_err() {
            return;
        }
        let Ok(mut events) = api.watch(&gvr, "", &all, list.revision).await else {
            tokio::time::sleep(LIST_RETRY).await;
            continue;
        };
        while let Ok((batch, _)) = events.next().await {
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

async fn carry_out(api: &Local, steps: Vec<Step>, effects: &mut Vec<Effect>) -> Result<(), Status> {
    for step in steps {
        match step {
            Step::Tell(telling) => tell(api, telling, effects).await,
            Step::Write(write) => effects.extend(perform(api, write).await?),
        }
    }
    Ok(())
}

/// People miss an event that cannot be told; nothing else does.
async fn tell(api: &Local, telling: Telling, effects: &mut Vec<Effect>) {
    let events = apiserver::Gvr::new("", "v1", "events");
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

async fn perform(api: &Local, write: Write) -> Result<Option<Effect>, Status> {
    let now = |kind: Kind| move |object: Value| Some(Effect::Now(kind, object));
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
