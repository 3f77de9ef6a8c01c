//! Keeps the table of policies what the cluster says.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cache::{Kind, View};
use linux::netlink::nft::{Table, difference};
use resources::Value;
use tokio::sync::{mpsc, watch};

use crate::apply::Applied;
use crate::run::Guard;

/// What it has to hear of.
pub const KINDS: &[Kind] = &[Kind::Pod, Kind::Namespace, Kind::NetworkPolicy];
/// After the kernel refused something.
const RETRY: Duration = Duration::from_secs(1);

/// The network policies of one node.
pub struct Policies {
    node: String,
    table: String,
    /// Addresses of this node that every pod may ask for names.
    always: Vec<IpAddr>,
    view: Arc<RwLock<View>>,
    applied: Applied,
    /// What the kernel has.
    now: Option<Table>,
}

impl Policies {
    pub fn new(node: &str, table: &str, always: Vec<IpAddr>, view: Arc<RwLock<View>>) -> Self {
        Self { node: node.to_owned(), table: table.to_owned(), always, view, applied: Applied::new(table), now: None }
    }

    /// Runs until `changes` ends. Nothing is applied before `listed`: half of the policies would let through what others forbid.
    pub async fn run(
        mut self,
        mut changes: mpsc::UnboundedReceiver<(Kind, Arc<Value>)>,
        mut listed: watch::Receiver<bool>,
    ) {
        let mut guard = Guard::new()
            .inspect_err(|error| tracing::warn!(%error, "policies are not put back when somebody flushes them"))
            .ok();
        let mut good = false;
        loop {
            let ready = *listed.borrow();
            tokio::select! {
                change = changes.recv() => {
                    if change.is_none() {
                        return;
                    }
                    while changes.try_recv().is_ok() {}
                }
                changed = listed.changed(), if !ready => {
                    if changed.is_err() {
                        return;
                    }
                }
                lost = Guard::lost(&mut guard, &mut self.applied) => {
                    if !lost {
                        continue;
                    }
                    tracing::warn!(table = self.table, "somebody removed rules of network policies; putting them back");
                    self.now = None;
                    good = false;
                }
                () = tokio::time::sleep(RETRY), if ready && !good => {}
            }
            if *listed.borrow() {
                good = match tokio::task::block_in_place(|| self.apply(!good)) {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::error!(%error, "cannot apply network policies; trying again");
                        self.now = None;
                        false
                    }
                };
            }
        }
    }

    fn apply(&mut self, anew: bool) -> linux::Result<()> {
        let policies = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            super::policies(&view, &self.node)
        };
        if policies.is_empty() {
            // No table is the fastest one. What an earlier process left goes as well.
            if anew || self.now.take().is_some() {
                self.applied.remove()?;
            }
            return Ok(());
        }
        let wanted = super::table(&self.table, &self.always, &policies);
        let change = self.now.as_ref().and_then(|now| difference(now, &wanted));
        match change {
            Some(change) => self.applied.change(&change, || wanted.clone())?,
            None => self.applied.replace(&wanted)?,
        }
        self.now = Some(wanted);
        Ok(())
    }
}
