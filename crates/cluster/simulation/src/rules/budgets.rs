//! An eviction is granted only where a budget allows one, and is taken from the budget before the pod goes.

use cache::Kind;
use resources::selector::LabelSelector;
use resources::{Value, meta};

use super::{Change, Rule, Truth, condition, is_active, is_ready};

pub struct Budgets;

fn evicted(pod: &Value) -> bool {
    condition(pod, "DisruptionTarget").is_some_and(|have| have["reason"] == "EvictionByEvictionAPI")
}

impl Rule for Budgets {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Pod, Some(before), Some(after)) = (change.kind, &change.before, &change.after) else {
            return Ok(());
        };
        let goes = is_active(before) && meta::is_terminating(after) && evicted(after) && is_ready(before);
        if !goes {
            return Ok(());
        }
        for budget in truth.view.in_namespace(Kind::DisruptionBudget, &change.key.namespace) {
            let selector = LabelSelector::from_object(&budget["spec"]["selector"]);
            if !selector.is_ok_and(|selector| selector.matches_object(after)) {
                continue;
            }
            let counted = meta::at(budget, &["status", "disruptedPods", &change.key.name]).is_some();
            if !counted {
                return Err(format!("pod {} is evicted and budget {} does not know", change.key, meta::name(budget)));
            }
            if budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) < 0 {
                return Err(format!("budget {} is overdrawn", meta::name(budget)));
            }
        }
        Ok(())
    }
}
