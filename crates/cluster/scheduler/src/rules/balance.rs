//! The more alike the shares of CPU and memory in use, the better.

use super::{Happened, Judge, Rule, SCORE_MAX, fit};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

pub struct Balance;

struct Wants<'a>(&'a PodFacts);

impl Rule for Balance {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn filters(&self) -> bool {
        false
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        // A pod that asks for nothing balances nothing.
        let asks = pod.requests.iter().any(|(_, amount)| amount > 0);
        asks.then(|| Box::new(Wants(pod)) as Box<dyn Judge>)
    }

    fn may_help(&self, _: Happened) -> bool {
        false
    }
}

impl Judge for Wants<'_> {
    fn score(&self, node: &NodeFacts) -> i64 {
        let share = |name: &str| {
            let (used, whole) = fit::after(self.0, node, name);
            if whole <= 0 { 1.0 } else { (used as f64 / whole as f64).min(1.0) }
        };
        let spread = (share("cpu") - share("memory")).abs() / 2.0;
        ((1.0 - spread) * SCORE_MAX as f64) as i64
    }
}
