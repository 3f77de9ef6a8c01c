//! A rolling update: old pods go within `maxUnavailable`, or new ones come beside them within `maxSurge`. Pure.

use std::sync::Arc;

use resources::{Value, meta};

use super::{Look, Plan};
use crate::pods;

pub fn plan(look: &Look<'_>) -> Plan {
    let rolling = &look.set["spec"]["updateStrategy"]["rollingUpdate"];
    let desired = look.nodes.iter().filter(|(_, verdict)| verdict.runs).count() as i64;
    let surge = look.surge();
    let mut unavailable = pods::share(&rolling["maxUnavailable"], desired, true);
    if surge == 0 && unavailable == 0 {
        // Percentages of few nodes come to nothing, and nothing would ever move.
        unavailable = 1;
    }
    if surge > 0 { beside(look, surge) } else { instead(look, unavailable) }
}

/// Old pods go; [`Look::place`] puts new ones where they were.
fn instead(look: &Look<'_>, most: i64) -> Plan {
    let mut plan = Plan::default();
    let (mut missing, mut serving) = (0, Vec::new());
    for (node, _) in look.nodes.iter().filter(|(_, verdict)| verdict.stays) {
        match look.on(node) {
            [] => missing += 1,
            [pod] if meta::is_terminating(pod) => missing += 1,
            [pod] if look.is_updated(pod) => missing += i64::from(!look.is_available(pod)),
            // Nobody misses a pod that does not serve.
            [pod] if !look.is_available(pod) => {
                missing += 1;
                plan.delete.push((*pod).clone());
            }
            [pod] => serving.push((*pod).clone()),
            // More than one: their number is put right first.
            _ => {}
        }
    }
    plan.delete.extend(serving.into_iter().take((most - missing).max(0) as usize));
    plan
}

/// New pods come beside old ones, which go when the new ones serve.
fn beside(look: &Look<'_>, most: i64) -> Plan {
    let mut plan = Plan::default();
    let (mut surging, mut serving) = (0, Vec::new());
    for (node, verdict) in look.nodes.iter().filter(|(_, verdict)| verdict.stays) {
        let live = look.on(node).iter().copied().filter(|pod| !meta::is_terminating(pod));
        let (new, old): (Vec<&Arc<Value>>, Vec<&Arc<Value>>) = live.partition(|pod| look.is_updated(pod));
        let name = || meta::name(node).to_owned();
        match (new.first(), old.first()) {
            (Some(new), Some(old)) => match look.is_available(new) {
                true => plan.delete.push(Arc::clone(old)),
                false => surging += 1,
            },
            (None, Some(old)) if verdict.runs => match look.is_available(old) {
                true => serving.push(name()),
                // Nobody misses a pod that does not serve.
                false => plan.create.push(name()),
            },
            _ => {}
        }
    }
    plan.create.extend(serving.into_iter().take((most - surging).max(0) as usize));
    plan
}
