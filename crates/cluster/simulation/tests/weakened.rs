//! Parts with one fault put in: a rule that does not see the fault proves nothing. For each fault the rule that finds it, and
//! a seed at which it does.

use simulation::{Options, Weakness, run};

/// Some seed among the first finds the fault, and says so in these words.
fn finds(weakness: Weakness, words: &str, seeds: std::ops::Range<u64>) {
    let options = Options { weakness: Some(weakness), ..Options::default() };
    let mut others = Vec::new();
    for seed in seeds {
        match run(seed, &options) {
            Err(failure) if failure.why.contains(words) => return,
            Err(failure) => others.push(format!("{seed}: {}", failure.why)),
            Ok(_) => {}
        }
    }
    panic!("{weakness:?} is not found by \"{words}\"; what was found instead: {others:#?}");
}

#[test]
fn more_pods_than_the_surge_allows() {
    finds(Weakness::NoSurgeBound, "at most", 0..40);
}

#[test]
fn fewer_pods_than_promised() {
    finds(Weakness::NoAvailableBound, "are promised", 0..60);
}

#[test]
fn nodes_with_more_than_they_have() {
    finds(Weakness::BlindScheduler, "whose pods now ask for", 0..40);
}

#[test]
fn jobs_with_too_many_pods() {
    finds(Weakness::BlindJobs, "active pods and may have", 0..40);
}

#[test]
fn two_daemons_on_a_node() {
    finds(Weakness::BlindDaemonSets, "pods for node", 0..40);
}

#[test]
fn services_that_lead_to_what_has_gone() {
    finds(Weakness::StuckSlices, "leads to", 0..40);
}

#[test]
fn one_identity_on_two_nodes() {
    finds(Weakness::ForcedEviction, "starts on", 70..120);
}

#[test]
fn jobs_that_nobody_counts() {
    finds(Weakness::BlindCronJobs, "cron job", 0..40);
}

#[test]
fn pods_of_nodes_that_are_gone() {
    finds(Weakness::NoPodGarbage, "which is gone", 0..40);
}

#[test]
fn autoscalers_that_keep_to_no_bounds() {
    finds(Weakness::LooseAutoscaler, "autoscaler", 0..40);
}

#[test]
fn subnets_that_two_nodes_have() {
    finds(Weakness::BlindSubnets, "have one subnet", 0..40);
}
