//! Which pods new connections may be led to on this node. A pod that is to end asks until it is none of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Shared by the data plane, which writes, and the node agent, which waits.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// How many services lead to a pod, by its uid.
    pods: Arc<Mutex<BTreeMap<String, usize>>>,
    /// The newest revision of slices that is in the kernel.
    revision: Arc<watch::Sender<u64>>,
    changed: Arc<watch::Sender<()>>,
}

impl Default for Outlets {
    fn default() -> Self {
        Self {
            pods: Arc::default(),
            revision: Arc::new(watch::Sender::new(0)),
            changed: Arc::new(watch::Sender::new(())),
        }
    }
}

impl Outlets {
    /// A service leads to other pods than before. Called after the kernel has it.
    pub(crate) fn exchange(&self, before: &[String], after: &[String]) {
        if before == after {
            return;
        }
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        for pod in after {
            *pods.entry(pod.clone()).or_default() += 1;
        }
        for pod in before {
            if let Some(count) = pods.get_mut(pod) {
                *count -= 1;
                if *count == 0 {
                    pods.remove(pod);
                }
            }
        }
        drop(pods);
        self.changed.send_replace(());
    }

    /// Everything that slices said up to this revision is in the kernel.
    pub(crate) fn reach(&self, revision: u64) {
        let newer = self.revision.send_if_modified(|now| {
            let newer = revision > *now;
            *now = revision.max(*now);
            newer
        });
        if newer {
            self.changed.send_replace(());
        }
    }

    /// Waits until this node does what slices said up to this revision, at most for so long. Whether it does.
    pub async fn reached(&self, revision: u64, patience: Duration) -> bool {
        let mut now = self.revision.subscribe();
        let there = now.wait_for(|now| *now >= revision);
        tokio::time::timeout(patience, there).await.is_ok_and(|there| there.is_ok())
    }

    /// Turns whenever the kernel was told something new.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn leads_to(&self, pod: &str) -> bool {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).contains_key(pod)
    }

    /// Waits until nothing leads to the pod any more, at most for so long. Whether that is so.
    pub async fn left(&self, pod: &str, patience: Duration) -> bool {
        let mut changed = self.changed.subscribe();
        let gone = async {
            while self.leads_to(pod) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, gone).await.is_ok()
    }
}

/// How long connections that are there already may still be answered.
const DRAIN: Duration = Duration::from_millis(400);
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Waits until no stream to these addresses is open any more, for a moment at most: what was asked just before a pod left the
/// data plane is to be answered. Longer ones are told by the pod itself, which gets its grace.
pub async fn drain(addresses: &[IpAddr]) {
    let until = tokio::time::Instant::now() + DRAIN;
    loop {
        let wanted = addresses.to_vec();
        let open = tokio::task::spawn_blocking(move || {
            let mut open = false;
            let looked = linux::netlink::Socket::netfilter().and_then(|mut socket| {
                socket.flows(|flow| open |= flow.is_open && wanted.contains(&flow.answers_from))
            });
            looked.is_ok() && open
        });
        if !open.await.unwrap_or(false) || tokio::time::Instant::now() >= until {
            return;
        }
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pod_is_left_when_the_last_service_leaves_it() {
        let outlets = Outlets::default();
        let pod = || vec!["u".to_owned()];
        outlets.exchange(&[], &pod());
        outlets.exchange(&[], &pod());
        outlets.exchange(&pod(), &[]);
        assert!(!outlets.left("u", Duration::from_millis(1)).await);
        let waiting = tokio::spawn({
            let outlets = outlets.clone();
            async move { outlets.left("u", Duration::from_secs(60)).await }
        });
        outlets.exchange(&pod(), &[]);
        assert!(waiting.await.unwrap());
        assert!(outlets.left("other", Duration::ZERO).await);
    }

    #[tokio::test]
    async fn a_revision_is_reached_once_and_never_lost() {
        let outlets = Outlets::default();
        assert!(!outlets.reached(7, Duration::from_millis(1)).await);
        let waiting = tokio::spawn({
            let outlets = outlets.clone();
            async move { outlets.reached(7, Duration::from_secs(60)).await }
        });
        outlets.reach(8);
        assert!(waiting.await.unwrap());
        outlets.reach(3);
        assert!(outlets.reached(8, Duration::ZERO).await);
    }
}
