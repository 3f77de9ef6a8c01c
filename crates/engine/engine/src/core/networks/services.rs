//! What a cloud's services leave in the kernel when it was not taken down: the engine names it, for nobody else would.

use std::collections::BTreeSet;

use linux::netlink::Socket;
use linux::netlink::nft::Family;

use super::Networks;
use super::pods::Pods;
use crate::Result;

const REMEDY: &str = "start the cloud of this run directory and take it down: knarr up, knarr down";

impl Networks {
    /// Names of links and tables are the cloud's; a node that has them has a network of pods as well.
    pub(super) fn look_at_services(
        &self,
        pods: &Pods,
        links: &BTreeSet<String>,
        mut add: impl FnMut(String, &str, &str),
    ) -> Result<()> {
        if pods.network().is_some() {
            return Ok(());
        }
        let tag = self.bridges.tag();
        let link = format!("c{tag}-svc");
        if links.contains(&link) {
            add(link, "the addresses of services, and no cloud runs here", REMEDY);
        }
        let mut netfilter = Socket::netfilter()?;
        for table in ["services", "policies"].map(|what| format!("knarr-{tag}-{what}")) {
            if netfilter.has_table(Family::Inet, &table)? {
                add(format!("nftables table inet {table}"), "rules of services, and no cloud runs here", REMEDY);
            }
        }
        Ok(())
    }
}
