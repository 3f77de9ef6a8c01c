//! Parts with one fault put in. A rule that does not notice proves nothing.

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};

/// What a part does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// Deployments raise their new replica set to its full size at once.
    NoSurgeBound,
    /// Deployments take old pods away before new ones are available.
    NoAvailableBound,
    /// Pods of silent nodes are taken away by force, though they may still run.
    ForcedEviction,
    /// The scheduler does not count the pods that nodes have.
    BlindScheduler,
    /// Jobs do not see their own pods.
    BlindJobs,
    /// CronJobs do not see that a job is at work.
    BlindCronJobs,
    /// Nobody looks after pods of nodes that have gone.
    NoPodGarbage,
    /// DaemonSets do not see the pods that they have.
    BlindDaemonSets,
    /// Slices never lose an endpoint.
    StuckSlices,
    /// Autoscalers ask for more than they may.
    LooseAutoscaler,
    /// Subnets are given to nodes without a look at those that others have.
    BlindSubnets,
}

impl Weakness {
    pub const ALL: &[Self] = &[
        Self::NoSurgeBound,
        Self::NoAvailableBound,
        Self::ForcedEviction,
        Self::BlindScheduler,
        Self::BlindJobs,
        Self::BlindCronJobs,
        Self::NoPodGarbage,
        Self::BlindDaemonSets,
        Self::StuckSlices,
        Self::LooseAutoscaler,
        Self::BlindSubnets,
    ];

    fn part(self) -> &'static str {
        match self {
            Self::NoSurgeBound | Self::NoAvailableBound => "deployment-controller",
            Self::ForcedEviction => "taint-eviction-controller",
            Self::BlindScheduler => "default-scheduler",
            Self::BlindJobs => "job-controller",
            Self::BlindCronJobs => "cronjob-controller",
            Self::NoPodGarbage => "pod-garbage-collector",
            Self::BlindDaemonSets => "daemonset-controller",
            Self::StuckSlices => "endpointslice-controller",
            Self::LooseAutoscaler => "horizontal-pod-autoscaler",
            Self::BlindSubnets => "node-ipam-controller",
        }
    }
}

/// The part, weakened if the weakness is its.
pub fn weakened(part: Box<dyn Part>, weakness: Option<Weakness>) -> Box<dyn Part> {
    match weakness.filter(|weakness| weakness.part() == part.name()) {
        None => part,
        Some(weakness) => Box::new(Weak { part, weakness }),
    }
}

struct Weak {
    part: Box<dyn Part>,
    weakness: Weakness,
}

impl Part for Weak {
    fn name(&self) -> &'static str {
        self.part.name()
    }

    fn watches(&self) -> &'static [Kind] {
        self.part.watches()
    }

    fn notice(&mut self, view: &View, kind: Kind, object: &Value) {
        self.part.notice(view, kind, object);
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        self.part.keys(view, kind, object)
    }

    fn unanswered(&mut self, now: Timestamp) {
        self.part.unanswered(now);
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let mut blind = View::default();
        let hidden = |kind: Kind, object: &Value| match self.weakness {
            Weakness::BlindScheduler => kind == Kind::Pod && !meta::str_at(object, &["spec", "nodeName"]).is_empty(),
            Weakness::BlindJobs | Weakness::BlindDaemonSets => kind == Kind::Pod,
            Weakness::BlindCronJobs => kind == Kind::Job,
            Weakness::BlindSubnets => kind == Kind::Node && meta::name(object) != key.name,
            _ => false,
        };
        for kind in Kind::ALL {
            for object in view.list(*kind).filter(|object| !hidden(*kind, object)) {
                blind.put(*kind, object.clone());
            }
        }
        let mut outcome = match self.weakness {
            // It remembers what it was told; a new one knows what it sees.
            Weakness::BlindScheduler => scheduler::Scheduler::default().reconcile(&blind, key, now),
            _ => self.part.reconcile(&blind, key, now),
        };
        match self.weakness {
            Weakness::NoPodGarbage => return Outcome::default(),
            Weakness::ForcedEviction => {
                for write in &mut outcome.writes {
                    if let Write::Delete { grace_secs, .. } = write {
                        *grace_secs = Some(0);
                    }
                }
            }
            Weakness::NoSurgeBound | Weakness::NoAvailableBound => {
                let wanted = view.at(Kind::Deployment, key).map(|one| one["spec"]["replicas"].clone());
                for write in &mut outcome.writes {
                    unbound(view, write, self.weakness, wanted.as_ref());
                }
            }
            Weakness::StuckSlices => outcome.writes.retain(|write| !shrinks(view, write)),
            Weakness::LooseAutoscaler => outcome.writes.iter_mut().for_each(|write| loosen(view, write)),
            _ => {}
        }
        outcome
    }
}

fn unbound(view: &View, write: &mut Write, weakness: Weakness, wanted: Option<&Value>) {
    let (have, asked) = match write {
        Write::Update(Kind::ReplicaSet, object) => {
            (view.at(Kind::ReplicaSet, &Key::of(object)), &mut object["spec"]["replicas"])
        }
        Write::Merge { kind: Kind::ReplicaSet, key, patch, .. } if patch["spec"]["replicas"].is_i64() => {
            (view.at(Kind::ReplicaSet, key), &mut patch["spec"]["replicas"])
        }
        Write::Create(Kind::ReplicaSet, object) => (None, &mut object["spec"]["replicas"]),
        _ => return,
    };
    let have = have.and_then(|have| have["spec"]["replicas"].as_i64()).unwrap_or(0);
    let now = asked.as_i64().unwrap_or(0);
    match weakness {
        Weakness::NoSurgeBound if now > have => *asked = wanted.cloned().unwrap_or_default(),
        Weakness::NoAvailableBound if now < have => *asked = 0.into(),
        _ => {}
    }
}

/// Beyond what the autoscaler of the same name as the set may ask for.
fn loosen(view: &View, write: &mut Write) {
    if let Write::Merge { kind: Kind::Deployment, key, patch, .. } = write
        && let Some(autoscaler) = view.at(Kind::HorizontalPodAutoscaler, key)
    {
        patch["spec"]["replicas"] = (autoscaler["spec"]["maxReplicas"].as_i64().unwrap_or(0) + 1).into();
    }
}

fn shrinks(view: &View, write: &Write) -> bool {
    let Write::Update(Kind::EndpointSlice, object) = write else {
        return matches!(write, Write::Delete { kind: Kind::EndpointSlice, .. });
    };
    let ends = |object: &Value| meta::list_at(object, &["endpoints"]).len();
    view.at(Kind::EndpointSlice, &Key::of(object)).is_some_and(|have| ends(object) < ends(have))
}
