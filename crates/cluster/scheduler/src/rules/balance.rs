//! The more alike the shares of resources in use, the better: of CPU and memory, unless the profile names others.

use super::{Happened, Judge, Rule, SCORE_MAX, fit};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

pub struct Balance;

struct Wants<'a> {
    pod: &'a PodFacts,
    profile: &'a Profile,
}

impl Rule for Balance {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn filters(&self) -> bool {
        false
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, profile: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        // A pod that asks for nothing balances nothing.
        let asks = pod.requests.iter().any(|(_, amount)| amount > 0);
        asks.then(|| Box::new(Wants { pod, profile }) as Box<dyn Judge>)
    }

    fn may_help(&self, _: Happened) -> bool {
        false
    }
}

impl Judge for Wants<'_> {
    fn score(&self, node: &NodeFacts) -> i64 {
        let share = |name: &str| {
            let (used, whole) = fit::after(self.pod, node, name);
            if whole <= 0 { 1.0 } else { (used as f64 / whole as f64).min(1.0) }
        };
        let spread = match self.profile.balanced.as_slice() {
            // Nearly always: no list is made for it.
            [one, other] if !one.contains('/') && !other.contains('/') => (share(one) - share(other)).abs() / 2.0,
            names => {
                // An extended resource that the pod does not ask for says nothing.
                let asked = |name: &&String| !name.contains('/') || self.pod.requests.get(name) > 0;
                let shares: Vec<f64> = names.iter().filter(asked).map(|name| share(name)).collect();
                deviation(&shares)
            }
        };
        ((1.0 - spread) * SCORE_MAX as f64) as i64
    }
}

/// The standard deviation; of two values half their distance.
fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
}
