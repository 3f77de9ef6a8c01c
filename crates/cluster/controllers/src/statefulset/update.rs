//! A rolling update: from the highest ordinal down to the partition, never more away than `maxUnavailable`. Pure.

use std::sync::Arc;

use resources::{Value, meta};

use super::{Look, identity};
use crate::pods;

/// The pods that go now.
pub fn choose<'a>(look: &Look<'a>) -> Vec<&'a Arc<Value>> {
    let limit = &look.set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
    let most = if limit.is_null() { 1 } else { pods::share(limit, look.replicas, true).max(1) };
    let serves = |pod: &Value| look.is_healthy(pod) && look.is_available(pod);
    let away =
        look.ordinals().filter(|ordinal| !look.wanted.get(ordinal).is_some_and(|pod| serves(pod))).count() as i64;
    let mut left = most - away;
    let mut chosen = Vec::new();
    for ordinal in look.ordinals().rev().take_while(|ordinal| *ordinal >= look.start + look.partition()) {
        let Some(pod) = look.wanted.get(&ordinal).copied() else { continue };
        if meta::is_terminating(pod) || identity::revision(pod) == look.update {
            continue;
        }
        // One that serves nobody is counted as away already.
        let spare = !serves(pod);
        if !spare && left <= 0 {
            break;
        }
        left -= i64::from(!spare);
        chosen.push(pod);
    }
    chosen
}
