//! Stories of rollouts: their bounds are looked at after every step.

use super::*;
use crate::testing::World;
use crate::{Names, ReplicaSets};

struct Story {
    world: World,
    sets: ReplicaSets,
    /// Fewest available and most pods that were ever seen.
    least: usize,
    most: usize,
}

impl Story {
    fn new(more: Value) -> Self {
        let mut world = World::new();
        let mut deployment = json!({"metadata": {"name": "w", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "w"}}, "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
                "template": {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
        resources::patch::merge_patch(&mut deployment["spec"], &more);
        world.put(Kind::Deployment, deployment);
        Self { world, sets: ReplicaSets::new(Names::new(1)), least: usize::MAX, most: 0 }
    }

    /// Everybody looks once.
    fn step(&mut self) -> bool {
        let mut quiet = true;
        let outcome = self.world.look(&mut Deployments, &Key::new("d", "w"));
        quiet &= outcome.writes.is_empty();
        self.world.apply(outcome.writes);
        for set in self.world.names(Kind::ReplicaSet) {
            let outcome = self.world.look(&mut self.sets, &Key::new("d", set));
            quiet &= outcome.writes.is_empty();
            self.world.apply(outcome.writes);
            let live: Vec<_> = self.world.view.list(Kind::Pod).filter(|pod| pods::is_active(pod)).collect();
            self.most = self.most.max(live.len());
            self.least = self.least.min(live.iter().filter(|pod| pods::is_ready(pod)).count());
        }
        quiet
    }

    /// Pods that end have ended at once; new ones get ready one at a time, if they do.
    fn run(&mut self, ready: bool) {
        for _ in 0..200 {
            self.world.reap();
            let quiet = self.step();
            let waiting = self.world.view.list(Kind::Pod).find(|pod| pods::is_active(pod) && !pods::is_ready(pod));
            match waiting.map(|pod| meta::name(pod).to_owned()) {
                Some(name) if ready => self.world.ready(&name),
                _ if quiet => return,
                _ => {}
            }
        }
        panic!("it never comes to rest");
    }

    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        self.world.change(Kind::Deployment, "w", |deployment| {
            change(deployment);
            let next = meta::generation(deployment) + 1;
            meta::set(deployment, "generation", next);
        });
        (self.least, self.most) = (usize::MAX, 0);
    }

    fn image(&mut self, image: &str) {
        self.change(|deployment| deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
    }

    /// `image=replicas` of sets that have any.
    fn images(&self) -> Vec<String> {
        let sets = self.world.view.list(Kind::ReplicaSet).filter(|set| set["spec"]["replicas"] != 0);
        let image =
            |set: &Value| set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or("?").to_owned();
        let mut all: Vec<String> = sets.map(|set| format!("{}={}", image(set), set["spec"]["replicas"])).collect();
        all.sort();
        all
    }

    fn reason(&self, kind: &str) -> String {
        let deployment = self.world.find(Kind::Deployment, "w");
        pods::condition(&deployment, kind).map_or(String::new(), |one| {
            format!("{} {}", one["status"].as_str().unwrap_or_default(), one["reason"].as_str().unwrap_or_default())
        })
    }
}

#[test]
fn a_rollout_keeps_within_its_bounds() {
    for (surge, unavailable, most, least) in [(1, 1, 5, 3), (2, 0, 6, 4), (0, 2, 4, 2)] {
        let rolling = json!({"strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
        let mut story = Story::new(rolling);
        story.run(true);
        assert_eq!(story.images(), ["one=4"]);
        story.image("two");
        story.run(true);
        assert_eq!(story.images(), ["two=4"], "{surge} {unavailable}");
        assert!(story.most <= most && story.least >= least, "{surge} {unavailable}: {} {}", story.most, story.least);
        assert_eq!(story.reason("Progressing"), "True NewReplicaSetAvailable");
        assert_eq!(story.reason("Available"), "True MinimumReplicasAvailable");
    }
}

#[test]
fn a_new_template_that_never_gets_ready_leaves_the_old_one_serving() {
    let mut story = Story::new(json!({}));
    story.run(true);
    story.image("broken");
    story.run(false);
    assert_eq!(story.images(), ["broken=2", "one=3"]);
    assert_eq!(story.reason("Progressing"), "True ReplicaSetUpdated");
    story.world.pass(601);
    story.run(false);
    assert_eq!(story.reason("Progressing"), "False ProgressDeadlineExceeded");
    // Back to what was: the same set, with the next revision.
    story.image("one");
    story.run(true);
    assert_eq!(story.images(), ["one=4"]);
    assert_eq!(story.world.names(Kind::ReplicaSet).len(), 2);
    assert_eq!(meta::str_at(&story.world.find(Kind::Deployment, "w"), &["metadata", "annotations", REVISION]), "3");
}

#[test]
fn pods_that_came_after_their_sets_status_are_not_taken_for_broken_ones() {
    let mut story = Story::new(json!({}));
    story.run(true);
    let old = story.world.names(Kind::ReplicaSet)[0].clone();
    // Whoever writes it was held up.
    story.world.change(Kind::ReplicaSet, &old, |set| set["status"]["availableReplicas"] = 1.into());
    story.image("two");
    for _ in 0..3 {
        let outcome = story.world.look(&mut Deployments, &Key::new("d", "w"));
        story.world.apply(outcome.writes);
    }
    assert_eq!(
        story.world.find(Kind::ReplicaSet, &old)["spec"]["replicas"],
        4,
        "one may be missing, and by its status three are"
    );
}

#[test]
fn recreate_waits_until_the_last_old_pod_has_gone() {
    let mut story = Story::new(json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}));
    story.run(true);
    story.image("two");
    for _ in 0..4 {
        story.step();
    }
    let images: Vec<_> = story.world.view.list(Kind::Pod).filter(|pod| pods::is_active(pod)).collect();
    assert!(images.is_empty(), "old ones are ending, new ones wait");
    story.run(true);
    assert_eq!(story.images(), ["two=4"]);
}

#[test]
fn paused_it_scales_and_nothing_else() {
    let mut story = Story::new(json!({}));
    story.run(true);
    story.change(|deployment| deployment["spec"]["paused"] = true.into());
    story.image("two");
    story.change(|deployment| deployment["spec"]["replicas"] = 6.into());
    story.run(true);
    assert_eq!(story.images(), ["one=6"]);
    assert_eq!(story.reason("Progressing"), "Unknown DeploymentPaused");
    story.change(|deployment| deployment["spec"]["paused"] = false.into());
    story.run(true);
    assert_eq!(story.images(), ["two=6"]);
}

#[test]
fn in_the_middle_of_a_rollout_every_set_gets_its_share() {
    let mut story =
        Story::new(json!({"replicas": 10, "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}));
    story.run(true);
    story.image("broken");
    story.run(false);
    assert_eq!(story.images(), ["broken=5", "one=8"]);
    story.change(|deployment| deployment["spec"]["replicas"] = 15.into());
    story.step();
    assert_eq!(story.images(), ["broken=7", "one=11"]);
}

#[test]
fn history_is_kept_within_its_limit() {
    let mut story = Story::new(json!({"revisionHistoryLimit": 1}));
    for image in ["one", "two", "three", "four"] {
        story.image(image);
        story.run(true);
    }
    assert_eq!(story.world.names(Kind::ReplicaSet).len(), 2, "the current one and one to go back to");
}
