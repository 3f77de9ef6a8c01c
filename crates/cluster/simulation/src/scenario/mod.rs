//! What people ask of a cluster: workloads of every kind, and what they do to them while other things go wrong.

mod make;

use cache::{Key, Kind};
use client::{Client, DeleteOptions, Patch, Status};
use resources::{Value, meta};
use serde_json::json;
use tokio::time::Duration;

use crate::faults::Weather;
use crate::ledger::Ledger;
use crate::node::BAD_IMAGE;
use crate::rng::Rng;

pub const NAMESPACE: &str = "default";

/// What a seed is about.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub weather: Weather,
    /// Nodes lose power, are cut off, go and come; pods crash.
    pub misfortune: bool,
    pub nodes: u64,
    /// Only cron jobs, over a day or so.
    pub days: bool,
    /// Each group of controllers has a view of its own.
    pub apart: bool,
    pub steps: u64,
}

impl Scenario {
    pub fn draw(rng: &mut Rng) -> Self {
        let weather = *rng.pick(&[Weather::CALM, Weather::WINDY, Weather::WINDY, Weather::STORM]);
        let days = rng.chance(100);
        Self {
            weather: if days && weather == Weather::STORM { Weather::WINDY } else { weather },
            misfortune: !days && rng.chance(600),
            nodes: if days { 2 } else { rng.between(2, 4) },
            days,
            apart: rng.chance(300),
            steps: rng.between(4, 14),
        }
    }
}

/// A person with `kubectl`, whose own way to the API never fails.
pub struct Person {
    api: Client,
    rng: Rng,
    /// For autoscalers and their load: what is drawn there shifts nothing else.
    loads: Rng,
    ledger: Ledger,
    made: u64,
    things: Vec<(Kind, String)>,
    days: bool,
}

impl Person {
    pub fn new(api: Client, rng: Rng, loads: Rng, ledger: &Ledger, days: bool) -> Self {
        Self { api, rng, loads, ledger: ledger.clone(), made: 0, things: Vec::new(), days }
    }

    fn tell(&self, line: &str) {
        self.ledger.tell(&format!("person: {line}"));
    }

    /// Does something.
    pub async fn act(&mut self) {
        if self.loads.chance(250) {
            self.change_load();
        }
        let full = self.things.iter().filter(|(kind, _)| *kind != Kind::Service).count() >= 4;
        if self.things.is_empty() || !full && self.rng.chance(350) {
            return self.create().await;
        }
        let (kind, name) = self.rng.pick(&self.things).clone();
        match kind {
            Kind::Service => {}
            _ if self.rng.chance(120) => self.delete(kind, &name).await,
            Kind::Deployment => self.change_deployment(&name).await,
            Kind::StatefulSet => self.change_stateful(&name).await,
            Kind::DaemonSet => self.roll(kind, &name).await,
            Kind::Job | Kind::CronJob => {
                let suspend = self.rng.chance(500);
                self.merge(kind, &name, json!({"spec": {"suspend": suspend}})).await;
            }
            _ => {}
        }
        if self.rng.chance(200) {
            self.evict().await;
        }
    }

    async fn create(&mut self) {
        self.made += 1;
        let number = self.made;
        if self.days {
            let cron = make::cron_job(&mut self.rng, &format!("cron-{number}"));
            return self.put(Kind::CronJob, cron).await;
        }
        let kind = *self.rng.pick(&[
            Kind::Deployment,
            Kind::Deployment,
            Kind::Deployment,
            Kind::StatefulSet,
            Kind::StatefulSet,
            Kind::DaemonSet,
            Kind::Job,
            Kind::ReplicaSet,
        ]);
        let name = format!("{}-{number}", kind.as_str().to_lowercase());
        let object = match kind {
            Kind::Deployment => make::deployment(&mut self.rng, &name),
            Kind::StatefulSet => make::stateful_set(&mut self.rng, &name),
            Kind::DaemonSet => make::daemon_set(&mut self.rng, &name),
            Kind::Job => make::job(&mut self.rng, &name),
            _ => make::replica_set(&mut self.rng, &name),
        };
        self.put(kind, object).await;
        if kind == Kind::Deployment && self.loads.chance(300) {
            let autoscaler = make::autoscaler(&mut self.loads, &name);
            let load = self.loads.below(1500) as i64;
            self.ledger.books().truth.load.insert(name.clone(), load);
            self.tell(&format!("{name} has a load of {load}"));
            self.put(Kind::HorizontalPodAutoscaler, autoscaler).await;
        }
        if matches!(kind, Kind::Deployment | Kind::StatefulSet) {
            if self.rng.chance(500) {
                self.put(Kind::Service, make::service(&name)).await;
            }
            if self.rng.chance(300) {
                let budget = make::budget(&mut self.rng, &name);
                self.put(Kind::DisruptionBudget, budget).await;
            }
        }
    }

    async fn put(&mut self, kind: Kind, object: Value) {
        let name = meta::name(&object).to_owned();
        let made = self.api.create(&kind.gvr(), NAMESPACE, &object).await;
        self.answered(&format!("creates {} {name} {}", kind.as_str(), object["spec"]), made);
        if !matches!(kind, Kind::DisruptionBudget | Kind::HorizontalPodAutoscaler) {
            self.things.push((kind, name));
        }
    }

    fn answered<T>(&self, what: &str, answer: Result<T, Status>) {
        match answer {
            Ok(_) => self.tell(what),
            // People ask for what is not there any more; what is simply wrong would be this crate's fault.
            Err(status) if matches!(status.code, 404 | 409 | 429) => self.tell(&format!("{what}: {}", status.message)),
            Err(status) => self.ledger.fail(format!("{what}: {} {}", status.code, status.message)),
        }
    }

    async fn merge(&mut self, kind: Kind, name: &str, patch: Value) {
        let what = format!("changes {} {name} {patch}", kind.as_str());
        let answer = self.api.patch(&kind.gvr(), NAMESPACE, name, "", &Patch::Merge(patch)).await;
        self.answered(&what, answer);
    }

    /// More or less is asked of an application.
    fn change_load(&mut self) {
        let mut books = self.ledger.books();
        let apps: Vec<String> = books.truth.load.keys().cloned().collect();
        if apps.is_empty() {
            return;
        }
        let (app, load) = (self.loads.pick(&apps).clone(), self.loads.below(1500) as i64);
        books.tell(&format!("person: {app} has a load of {load}"));
        books.truth.load.insert(app, load);
    }

    async fn change_deployment(&mut self, name: &str) {
        match self.rng.below(10) {
            0..4 => self.roll(Kind::Deployment, name).await,
            4..7 => {
                let replicas = self.rng.below(7);
                self.merge(Kind::Deployment, name, json!({"spec": {"replicas": replicas}})).await;
            }
            7 => {
                let paused = self.rng.chance(400);
                self.merge(Kind::Deployment, name, json!({"spec": {"paused": paused}})).await;
            }
            8 => self.image(Kind::Deployment, name, BAD_IMAGE).await,
            _ => {
                let strategy = make::strategy(&mut self.rng);
                self.merge(Kind::Deployment, name, json!({"spec": {"strategy": strategy}})).await;
            }
        }
    }

    async fn change_stateful(&mut self, name: &str) {
        match self.rng.below(10) {
            0..4 => self.roll(Kind::StatefulSet, name).await,
            4..8 => {
                let replicas = self.rng.below(5);
                self.merge(Kind::StatefulSet, name, json!({"spec": {"replicas": replicas}})).await;
            }
            _ => {
                let partition = self.rng.below(3);
                let patch = json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}});
                self.merge(Kind::StatefulSet, name, patch).await;
            }
        }
    }

    async fn roll(&mut self, kind: Kind, name: &str) {
        let image = format!("app:{}", self.rng.below(4));
        self.image(kind, name, &image).await;
    }

    async fn image(&mut self, kind: Kind, name: &str, image: &str) {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
        let answer = self.api.patch(&kind.gvr(), NAMESPACE, name, "", &Patch::Strategic(patch)).await;
        self.answered(&format!("sets image of {} {name} to {image}", kind.as_str()), answer);
    }

    async fn delete(&mut self, kind: Kind, name: &str) {
        let how = *self.rng.pick(&["Background", "Background", "Foreground", "Orphan"]);
        // What is orphaned stays as people's own.
        let how = if matches!(kind, Kind::CronJob | Kind::Job | Kind::StatefulSet | Kind::DaemonSet) && how == "Orphan"
        {
            "Foreground"
        } else {
            how
        };
        let options = DeleteOptions { propagation: how.to_owned(), ..DeleteOptions::default() };
        let answer = self.api.delete(&kind.gvr(), NAMESPACE, name, &options).await;
        self.answered(&format!("deletes {} {name} ({how})", kind.as_str()), answer);
        self.things.retain(|thing| thing != &(kind, name.to_owned()));
    }

    /// Asks for the eviction of some pod.
    async fn evict(&mut self) {
        let pods: Vec<Key> = {
            let books = self.ledger.books();
            books.truth.view.in_namespace(Kind::Pod, NAMESPACE).map(|pod| Key::of(pod)).collect()
        };
        if pods.is_empty() {
            return;
        }
        let pod = self.rng.pick(&pods).clone();
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.name, "namespace": pod.namespace}});
        let answer = self.api.create_sub(&client::PODS, &pod.namespace, &pod.name, "eviction", &body).await;
        self.answered(&format!("evicts {pod}"), answer);
    }

    /// Mends what people did wrong, so that everything can come to rest.
    pub async fn mend(&mut self) {
        for (kind, name) in self.things.clone() {
            match kind {
                Kind::Deployment => {
                    self.merge(kind, &name, json!({"spec": {"paused": false}})).await;
                    self.image(kind, &name, "app:good").await;
                }
                Kind::Job | Kind::CronJob => {
                    self.merge(kind, &name, json!({"spec": {"suspend": kind == Kind::CronJob}})).await
                }
                _ => {}
            }
        }
        // A set that a person let go of while its image was bad: another image would not change its pods.
        let lost: Vec<String> = {
            let books = self.ledger.books();
            let sets = books.truth.view.in_namespace(Kind::ReplicaSet, NAMESPACE);
            let bad = |set: &Value| set["spec"]["template"]["spec"]["containers"][0]["image"] == BAD_IMAGE;
            sets.filter(|set| meta::owners(set).is_empty() && bad(set)).map(|set| meta::name(set).to_owned()).collect()
        };
        for name in lost {
            let options = DeleteOptions { propagation: "Background".into(), ..DeleteOptions::default() };
            let answer = self.api.delete(&Kind::ReplicaSet.gvr(), NAMESPACE, &name, &options).await;
            self.answered(&format!("deletes ReplicaSet {name}, which nothing can mend"), answer);
        }
    }

    pub fn pause(&mut self) -> Duration {
        match self.days {
            true => Duration::from_secs(self.rng.between(600, 14_400)),
            false => Duration::from_millis(self.rng.between(50, 40_000)),
        }
    }
}
