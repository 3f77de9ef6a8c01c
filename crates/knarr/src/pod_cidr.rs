//! Which subnets a cloud's pods have: what was asked for, else what it had before, else what nobody else on this machine uses.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use apiserver::ServiceRange;
use cache::Kind;
use client::{Client, DeleteOptions};
use controllers::Cidr;
use network::{Bridges, Subnet, names};
use resources::{Value, meta};

use crate::failure::Failure;

/// What servers and agents use unless somebody says otherwise.
pub const USUAL: &str = "10.42.0.0/16";

/// The subnets of all nodes' pods, for as long as it is held.
#[derive(Debug)]
pub struct ClusterCidrs {
    pub all: Vec<Cidr>,
    /// Another cloud of this machine chooses another subnet while this lives.
    _claim: Option<OwnedFd>,
}

impl ClusterCidrs {
    pub fn texts(&self) -> Vec<String> {
        self.all.iter().map(Cidr::to_string).collect()
    }

    /// `root`: the cloud's, which remembers. `asked`: `--cluster-cidr`. `usual`: this is the cloud at the usual place. `services`: where
    /// no pod can be.
    pub fn choose(
        root: &Path,
        tag: &str,
        usual: bool,
        asked: Option<&str>,
        services: ServiceRange,
    ) -> Result<Self, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(format!("knarr up: choose the pods' subnet: {error}"));
        let file = root.join("cluster").join("pod-cidr");
        let bridges = Bridges::new(tag);
        let _choosing = bridges.choosing().map_err(|error| failed(&error))?;
        // Pods that run on keep their addresses: the bridge says that its subnet is this cloud's.
        let own = bridges.links().map_err(|error| failed(&error))?.contains(&names::pod_bridge(tag));
        let taken = if own { Vec::new() } else { bridges.taken().map_err(|error| failed(&error))? };
        let chosen = match asked {
            Some(text) => {
                let all =
                    parse(text).map_err(|error| Failure::new(format!("knarr up: --cluster-cidr {text}: {error}")))?;
                check(&all, services, &taken)
                    .map_err(|error| Failure::new(format!("knarr up: --cluster-cidr {text}: {error}")))?;
                let claim = all.first().and_then(|first| claim(&first.to_string()));
                Self { all, _claim: claim }
            }
            None => {
                let saved = fs::read_to_string(&file).ok().and_then(|text| parse(text.trim()).ok());
                let saved = saved.filter(|all| own || check(all, services, &taken).is_ok());
                let candidates = saved.into_iter().chain(candidates(tag, usual).map(|cidr| vec![cidr]));
                let free = candidates.filter(|all| check(all, services, &taken).is_ok());
                let mut claimed = free.filter_map(|all| Some(Self { _claim: Some(claim(&all[0].to_string())?), all }));
                claimed.next().ok_or_else(|| failed(&"all are in use; name one with --cluster-cidr"))?
            }
        };
        let made =
            file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&file, chosen.texts().join(",")));
        made.map_err(|error| failed(&format_args!("write {}: {error}", file.display())))?;
        Ok(chosen)
    }
}

fn claim(cidr: &str) -> Option<OwnedFd> {
    linux::net::claim(format!("knarr-pods-{cidr}").as_bytes()).ok()
}

/// One subnet, or one of each family.
pub fn parse(text: &str) -> Result<Vec<Cidr>, String> {
    let all = text.split(',').map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
    let v6 = |cidr: &Cidr| cidr.to_string().contains(':');
    match all.as_slice() {
        [_] => Ok(all),
        [one, other] if v6(one) != v6(other) => Ok(all),
        _ => Err("expected one subnet, or one of each family".into()),
    }
}

fn check(all: &[Cidr], services: ServiceRange, taken: &[Subnet]) -> Result<(), String> {
    let services = format!("{}/{}", services.base, services.prefix);
    for cidr in all {
        if services.parse().is_ok_and(|services| cidr.overlaps(&services)) {
            return Err(format!("{cidr} overlaps with the services' addresses, {services}"));
        }
        let subnet: Option<Subnet> = cidr.to_string().parse().ok();
        let other = taken.iter().find(|other| other.prefix() > 0 && subnet.is_some_and(|own| own.overlaps(other)));
        if let Some(other) = other {
            return Err(format!("{cidr} overlaps with {other}, which this machine uses already"));
        }
    }
    Ok(())
}

/// 10.42.0.0/16 first for the cloud at the usual place. Others begin elsewhere, each where it began before, so that clouds that
/// never run at the same time rarely have to move.
fn candidates(tag: &str, usual: bool) -> impl Iterator<Item = Cidr> + use<> {
    let ten = (42..96).chain(112..255).map(|second| format!("10.{second}.0.0/16"));
    let shared = (64..128).map(|second| format!("100.{second}.0.0/16"));
    let all: Vec<Cidr> = ten.chain(shared).filter_map(|text| text.parse().ok()).collect();
    let hash = tag.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let begin = if usual { 0 } else { hash as usize % all.len() };
    (0..all.len()).map(move |at| all[(begin + at) % all.len()])
}

/// A node that has a subnet outside of the cluster's gets another: a node's subnet cannot change, so its object is made anew.
pub async fn renumber(api: &Client, node: &str, cluster: &[Cidr]) -> Result<(), resources::Status> {
    let nodes = Kind::Node.gvr();
    let mut object = match api.get(&nodes, "", node).await {
        Err(status) if status.code == 404 => return Ok(()),
        other => other?,
    };
    let has = meta::list_at(&object, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    let has: Vec<Cidr> = has.filter_map(|text| text.parse().ok()).collect();
    if has.is_empty() || has.iter().all(|part| cluster.iter().any(|cluster| cluster.overlaps(part))) {
        return Ok(());
    }
    tracing::warn!(node, ?has, "the node's subnet is not the cluster's any more: it gets another");
    api.delete(&nodes, "", node, &DeleteOptions { grace_secs: Some(0), ..DeleteOptions::default() }).await?;
    for field in ["podCIDR", "podCIDRs"] {
        object["spec"].as_object_mut().map(|spec| spec.remove(field));
    }
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        object["metadata"].as_object_mut().map(|meta| meta.remove(field));
    }
    api.create(&nodes, "", &object).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subnet_or_one_of_each_family() {
        for (text, expected) in [
            ("10.42.0.0/16", true),
            ("10.42.0.0/16,fd00:1::/56", true),
            ("10.42.0.0/16,10.43.0.0/16", false),
            ("10.42.0.0/16,", false),
            ("all", false),
        ] {
            assert_eq!(parse(text).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn what_the_machine_or_services_have_is_refused() {
        let taken: Vec<Subnet> = ["10.42.4.0/24", "0.0.0.0/0"].map(|text| text.parse().unwrap()).into();
        let services = ServiceRange { base: [10, 96, 0, 0].into(), prefix: 16 };
        let why = |text: &str| check(&parse(text).unwrap(), services, &taken).err().unwrap_or_default();
        assert_eq!(why("10.42.0.0/16"), "10.42.0.0/16 overlaps with 10.42.4.0/24, which this machine uses already");
        assert_eq!(why("10.96.0.0/12"), "10.96.0.0/12 overlaps with the services' addresses, 10.96.0.0/16");
        assert_eq!(why("10.100.0.0/16"), "", "what services could have elsewhere is free here");
        assert_eq!(why("10.43.0.0/16"), "");
    }

    #[test]
    fn the_usual_cloud_begins_where_people_expect_it() {
        let first = |tag: &str, usual: bool| candidates(tag, usual).next().unwrap().to_string();
        assert_eq!(first("0123abcd", true), "10.42.0.0/16");
        assert_ne!(first("0123abcd", false), first("0123abce", false));
        assert_eq!(candidates("0123abcd", false).count(), 54 + 143 + 64);
    }
}
