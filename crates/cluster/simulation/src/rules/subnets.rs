//! No two nodes have one subnet, and a node keeps the one that it has.

use cache::Kind;
use controllers::Cidr;
use resources::{Value, meta};

use super::{Change, Rule, Truth};

pub struct OncePerNode;

fn subnets(node: &Value) -> Vec<Cidr> {
    let all = meta::list_at(node, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    all.filter_map(|text| text.parse().ok()).collect()
}

impl Rule for OncePerNode {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Node, Some(after)) = (change.kind, &change.after) else { return Ok(()) };
        let own = subnets(after);
        let before = change.before.as_ref().filter(|before| meta::uid(before) == meta::uid(after));
        if let Some(had) = before.map(|before| subnets(before)).filter(|had| !had.is_empty() && *had != own) {
            return Err(format!("node {} had the subnets {had:?} and has {own:?}", change.key));
        }
        let others = truth.view.list(Kind::Node).filter(|other| meta::uid(other) != meta::uid(after));
        for other in others {
            let shared = subnets(other).into_iter().find(|theirs| own.iter().any(|own| own.overlaps(theirs)));
            if let Some(shared) = shared {
                return Err(format!("nodes {} and {} have one subnet: {shared}", change.key, meta::name(other)));
            }
        }
        Ok(())
    }
}
