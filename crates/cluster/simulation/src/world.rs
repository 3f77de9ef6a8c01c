//! Puts a cluster together from a seed, lets people and misfortune at it, and waits for it to come to rest.

use std::sync::Arc;

use apiserver::InProcess;
use cache::{Driver, Kind, Member, Part, View};
use client::{Client, DeleteOptions, Simulation, User};
use resources::{Value, meta};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use crate::faults::{Cut, Faults, Weather};
use crate::ledger::Ledger;
use crate::node::{self, Habits, Machine};
use crate::rng::Rng;
use crate::scenario::{Person, Scenario};
use crate::weaken::{Weakness, weakened};
use crate::{rest, rules};

/// 2026-01-01T00:00:00Z.
const EPOCH_SECS: i128 = 1_767_225_600;
/// How long everything may take to come to rest once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(1800);
/// At rest is what has not changed for so long.
const QUIET: Duration = Duration::from_secs(75);

/// What nodes get the subnets of their pods from: four parts, which is as many nodes as there ever are.
const CLUSTER: &str = "10.240.0.0/20";

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep the whole log and not only its end.
    pub keep_log: bool,
    /// Put this fault into a part.
    pub weakness: Option<Weakness>,
}

/// A seed that kept every promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub writes: u64,
    pub virtual_time: Duration,
    /// Of the log.
    pub hash: u64,
    /// All of it, if asked for.
    pub log: Vec<String>,
}

/// A seed that did not.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub why: String,
    /// The end of the log, or all of it.
    pub log: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.log {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {}: {}\nagain: scripts/simulate --seed {}", self.seed, self.why, self.seed)
    }
}

impl std::error::Error for Failure {}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread needs nothing from outside");
    let outcome = runtime.block_on(async {
        let began = Instant::now();
        let now = move || EPOCH_SECS * 1_000_000_000 + i128::try_from(began.elapsed().as_nanos()).unwrap_or(0);
        let _simulation = Simulation::begin(seed, now);
        let ledger = Ledger::new(rules::all(), options.keep_log);
        let lived = tokio::select! {
            biased;
            why = ledger.failed() => Err(why),
            lived = live(seed, options, &ledger) => lived,
        };
        let books = ledger.books();
        let log = books.log();
        match lived.and_then(|()| books.broken.clone().map_or(Ok(()), Err)) {
            Ok(()) => {
                let log = if options.keep_log { log } else { Vec::new() };
                Ok(Report { writes: books.writes, virtual_time: began.elapsed(), hash: books.hash(), log })
            }
            Err(why) => Err(Failure { seed, why, log }),
        }
    });
    // Tasks still stand in queues; nothing of them may outlive the simulation's time.
    drop(runtime);
    outcome
}

/// The parts that decide, as one process or several.
struct Control {
    api: Client,
    groups: Vec<Vec<&'static str>>,
    running: Vec<JoinHandle<()>>,
    scenario: Scenario,
    weakness: Option<Weakness>,
    faults: Faults,
    ledger: Ledger,
}

impl Control {
    fn start(&mut self, group: usize, seed: u64) {
        self.ledger.tell(&format!("parts {group} start"));
        let who = format!("parts-{group}");
        let api = self.faults.client(self.api.clone(), &who, &Cut::default());
        let mut driver = Driver::new(api.clone());
        let mut parts: Vec<Box<dyn Part>> = controllers::all(seed);
        parts.push(Box::new(controllers::LoadBalancers::default()));
        let books = self.ledger.clone();
        let readings = move |namespace: &str, name: &str| rules::reading(&books.books().truth, namespace, name);
        parts.push(Box::new(controllers::Autoscalers::new(Box::new(readings))));
        let cluster = CLUSTER.parse().expect("a subnet");
        parts.push(Box::new(controllers::NodeIpam::new(vec![cluster])));
        parts.push(Box::new(scheduler::Scheduler::default()));
        for part in parts {
            let name = part.name();
            let silent = self.scenario.days && name == "node-controller";
            if self.group_of(name) == group && !silent {
                driver.add(Member::new(weakened(part, self.weakness), api.clone()));
            }
        }
        let running = tokio::spawn(driver.run());
        match self.running.get_mut(group) {
            Some(place) => *place = running,
            None => self.running.push(running),
        }
    }

    fn group_of(&self, part: &str) -> usize {
        self.groups.iter().position(|group| group.contains(&part)).unwrap_or(0)
    }

    /// A process dies in the middle of whatever it does, and another one takes its place.
    async fn restart(&mut self, rng: &mut Rng) {
        let group = rng.below(self.groups.len() as u64 + 1).min(self.running.len() as u64 - 1) as usize;
        self.ledger.tell(&format!("parts {group} die"));
        self.running[group].abort();
        self.ledger.books().truth.restarted = Some(Instant::now());
        tokio::time::sleep(Duration::from_millis(rng.below(8000))).await;
        self.start(group, rng.next());
    }
}

struct Node {
    machine: Machine,
    agent: Option<JoinHandle<()>>,
    cut: Cut,
}

impl Node {
    fn start(&mut self, api: &Client, faults: &Faults) {
        if self.agent.is_none() {
            let api = faults.client(api.clone(), &self.machine.name, &self.cut);
            self.agent = Some(tokio::spawn(node::agent(self.machine.clone(), api)));
        }
    }

    fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
        }
    }
}

async fn live(seed: u64, options: &Options, ledger: &Ledger) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let scenario = Scenario::draw(&mut rng);
    ledger.tell(&format!("seed {seed} {scenario:?}"));
    ledger.books().truth.peaceful = !scenario.misfortune;
    let server = InProcess::start(Arc::new(ledger.clone())).await.map_err(|error| format!("start the API: {error}"))?;
    let admin = server.local(User::admin(), "kubectl");
    let faults = Faults::new(rng.fork(), Weather::CALM, ledger);
    admin
        .create(&Kind::StorageClass.gvr(), "", &controllers::storage_class())
        .await
        .map_err(|status| format!("make a storage class: {}", status.message))?;
    let habits = Habits {
        crashes: if scenario.misfortune { 300 } else { 0 },
        fails: if scenario.misfortune { 150 } else { 0 },
        heartbeat: Duration::from_secs(if scenario.days { 3600 } else { 15 }),
        alone: scenario.days,
    };
    let mut nodes: Vec<Node> = (0..scenario.nodes)
        .map(|number| Node {
            machine: Machine::new(number, habits, rng.fork(), ledger),
            agent: None,
            cut: Cut::default(),
        })
        .collect();
    let apart: Vec<Vec<&'static str>> = vec![
        vec![],
        vec!["default-scheduler"],
        vec!["node-controller", "taint-eviction-controller", "pod-garbage-collector", "endpointslice-controller"],
    ];
    let mut control = Control {
        api: server.local(User::component("system:kube-controller-manager").with("system:masters"), "controllers"),
        groups: if scenario.apart { apart } else { vec![vec![]] },
        running: Vec::new(),
        scenario: scenario.clone(),
        weakness: options.weakness,
        faults: faults.clone(),
        ledger: ledger.clone(),
    };
    for group in 0..control.groups.len() {
        control.start(group, rng.next());
    }
    for node in &mut nodes {
        node.start(&admin, &faults);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    faults.set(scenario.weather);
    let mut person = Person::new(admin.clone(), rng.fork(), Rng::new(!seed), ledger, scenario.days);
    for _ in 0..scenario.steps {
        person.act().await;
        if scenario.weather != Weather::CALM && rng.chance(150) {
            control.restart(&mut rng).await;
        }
        if scenario.weather != Weather::CALM && rng.chance(60) {
            faults.away(Duration::from_secs(rng.between(1, 40)));
        }
        if scenario.misfortune && rng.chance(250) {
            misfortune(&mut nodes, &mut rng, &admin, &faults, ledger).await;
        }
        tokio::time::sleep(person.pause()).await;
    }
    // Everything is mended; now all of it has to come to rest.
    faults.set(Weather::CALM);
    for node in &mut nodes {
        node.cut.set(false);
        node.machine.calm();
        node.start(&admin, &faults);
        let patch = client::Patch::Merge(serde_json::json!({"spec": {"unschedulable": null}}));
        let _ = admin.patch(&Kind::Node.gvr(), "", &node.machine.name, "", &patch).await;
    }
    person.mend().await;
    ledger.tell("all is mended");
    let mended = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(15)).await;
        let unrest = {
            let books = ledger.books();
            let quiet = books.changed.elapsed() >= QUIET;
            let unrest = rest::unrest(&books.truth);
            if unrest.is_empty() && !quiet {
                Some(vec!["something still changes".to_owned()])
            } else {
                Some(unrest).filter(|unrest| !unrest.is_empty())
            }
        };
        let Some(unrest) = unrest else { break };
        if mended.elapsed() > PATIENCE {
            return Err(format!("does not come to rest:\n  {}", unrest.join("\n  ")));
        }
    }
    server.stop();
    ledger.tell("at rest");
    Ok(())
}

/// Something happens to a node.
async fn misfortune(nodes: &mut Vec<Node>, rng: &mut Rng, admin: &Client, faults: &Faults, ledger: &Ledger) {
    let what = rng.below(6);
    let mut number = rng.below(nodes.len() as u64) as usize;
    if what == 0 {
        // Where an identity lives, so that somebody may be tempted to give it away.
        let books = ledger.books();
        let identity = |pod: &Arc<Value>| rules::owner(pod, Kind::StatefulSet).is_some();
        let holds = |node: &Node| books.truth.view.pods_on(&node.machine.name).any(identity);
        number = nodes.iter().position(holds).unwrap_or(number);
    }
    let node = &mut nodes[number];
    let name = node.machine.name.clone();
    match what {
        0 => {
            ledger.tell(&format!("{name} is cut off"));
            node.cut.set(true);
            if rng.chance(500) {
                // Long enough that its pods are given up, while they still run there.
                tokio::time::sleep(Duration::from_secs(rng.between(60, 400))).await;
            }
        }
        1 => {
            ledger.tell(&format!("{name} is reached again"));
            node.cut.set(false);
        }
        2 => {
            node.stop();
            node.machine.lose_power();
            tokio::time::sleep(Duration::from_secs(rng.between(1, 400))).await;
            node.start(admin, faults);
        }
        3 => {
            ledger.tell(&format!("agent of {name} dies"));
            node.stop();
            tokio::time::sleep(Duration::from_secs(rng.between(0, 60))).await;
            node.start(admin, faults);
        }
        4 => {
            let cordoned = rng.chance(600);
            let patch = client::Patch::Merge(serde_json::json!({"spec": {"unschedulable": cordoned}}));
            let _ = admin.patch(&Kind::Node.gvr(), "", &name, "", &patch).await;
        }
        _ => {
            // A machine is given back: what ran there is gone before people say so.
            node.stop();
            node.machine.lose_power();
            let _ = admin.delete(&Kind::Node.gvr(), "", &name, &DeleteOptions::default()).await;
            // Volumes that lie on a machine are lost with it, and so would be the pods that claim them.
            if nodes.len() > 2 && rng.chance(400) && !has_volumes(&ledger.books().truth.view, &name) {
                ledger.tell(&format!("{name} never comes back"));
                nodes.remove(number);
                return;
            }
            let node = &mut nodes[number];
            tokio::time::sleep(Duration::from_secs(rng.between(1, 200))).await;
            node.start(admin, faults);
        }
    }
}

/// Whether a volume lies on the node, or is to.
fn has_volumes(view: &View, node: &str) -> bool {
    let lies_there = |volume: &Arc<Value>| volume["spec"]["nodeAffinity"].to_string().contains(node);
    let is_to = |claim: &Arc<Value>| {
        meta::at(claim, &["metadata", "annotations", "volume.kubernetes.io/selected-node"])
            .is_some_and(|selected| selected == node)
    };
    view.list(Kind::Volume).any(lies_there) || view.list(Kind::Claim).any(is_to)
}
