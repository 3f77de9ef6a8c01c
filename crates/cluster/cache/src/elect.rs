//! Which of several processes runs the parts: the one that holds a Lease and renews it. Time on this machine's own clock
//! decides, never a comparison of clocks: a lease is over when nobody has changed it for as long as it lasts.

use std::time::Duration;

use client::{Client, Gvr};
use resources::{Status, Value, decode, meta};
use serde_json::json;
use tokio::time::Instant;

const LEASES: Gvr = Gvr::new("coordination.k8s.io", "v1", "leases");
const NAMESPACE: &str = "kube-system";
/// As upstream's defaults: how long a lease lasts, how long its holder tries to renew it, how often everybody looks.
const LEASE: Duration = Duration::from_secs(15);
const RENEWED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What to do about a lease that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Renew,
    Take,
    Wait,
}

/// Pure. `unchanged` is how long this process has seen the lease as it is.
fn decide(lease: &Value, me: &str, unchanged: Duration) -> Move {
    let lasts = lease["spec"]["leaseDurationSeconds"].as_u64().map_or(LEASE, Duration::from_secs);
    match meta::str_at(lease, &["spec", "holderIdentity"]) {
        holder if holder == me => Move::Renew,
        "" => Move::Take,
        _ if unchanged > lasts => Move::Take,
        _ => Move::Wait,
    }
}

/// The lease as its holder writes it. Pure.
fn held(lease: &Value, me: &str, takes: bool, now: &str) -> Value {
    let mut lease = lease.clone();
    let transitions = lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
    let spec = &mut lease["spec"];
    spec["holderIdentity"] = me.into();
    spec["leaseDurationSeconds"] = LEASE.as_secs().into();
    spec["renewTime"] = now.into();
    if takes {
        spec["acquireTime"] = now.into();
        spec["leaseTransitions"] = (transitions + 1).into();
    }
    lease
}

/// A candidate for a lease.
pub struct Election {
    api: Client,
    name: String,
    me: String,
    /// The version that was seen last, and when it was new.
    seen: Option<(String, Instant)>,
}

impl Election {
    /// `me` differs among all candidates, also from an earlier process on the same machine.
    pub fn new(api: Client, name: &str, me: &str) -> Self {
        Self { api, name: name.to_owned(), me: me.to_owned(), seen: None }
    }

    /// One look; answers whether the lease is held now.
    async fn look(&mut self) -> Result<bool, Status> {
        let now = decode::format_time(client::now(), 6);
        let lease = match self.api.get(&LEASES, NAMESPACE, &self.name).await {
            Err(status) if status.code == 404 => {
                let fresh = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": NAMESPACE}, "spec": {}});
                let mut first = held(&fresh, &self.me, true, &now);
                first["spec"]["leaseTransitions"] = 0.into();
                return match self.api.create(&LEASES, NAMESPACE, &first).await {
                    Ok(_) => Ok(true),
                    Err(status) if status.code == 409 => Ok(false),
                    Err(status) => Err(status),
                };
            }
            other => other?,
        };
        let version = meta::resource_version(&lease);
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => {
                let since = Instant::now();
                self.seen = Some((version.to_owned(), since));
                since
            }
        };
        let step = decide(&lease, &self.me, since.elapsed());
        if step == Move::Wait {
            return Ok(false);
        }
        match self.api.update(&LEASES, &held(&lease, &self.me, step == Move::Take, &now)).await {
            Ok(_) => Ok(true),
            // Somebody was faster.
            Err(status) if status.code == 409 => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// Ends when the lease is held.
    pub async fn won(&mut self) {
        loop {
            match self.look().await {
                Ok(true) => {
                    tracing::info!(lease = self.name, holder = self.me, "leads");
                    return;
                }
                Ok(false) => {}
                Err(status) => tracing::warn!(lease = self.name, message = status.message, "cannot look at the lease"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Renews; ends when the lease is lost, or cannot be renewed for so long that another may have it soon.
    pub async fn lost(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let left = RENEWED_WITHIN.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.look()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => break,
                Ok(Err(status)) => {
                    tracing::warn!(lease = self.name, message = status.message, "cannot renew the lease");
                }
                Err(_) => break,
            }
            if renewed.elapsed() >= RENEWED_WITHIN {
                break;
            }
        }
        tracing::warn!(lease = self.name, holder = self.me, "leads no more");
    }

    /// Gives the lease back, so that the next one need not wait.
    pub async fn resign(&self) {
        let Ok(lease) = self.api.get(&LEASES, NAMESPACE, &self.name).await else { return };
        if meta::str_at(&lease, &["spec", "holderIdentity"]) == self.me {
            let mut free = lease;
            free["spec"]["holderIdentity"] = "".into();
            free["spec"]["leaseDurationSeconds"] = 1.into();
            let _ = self.api.update(&LEASES, &free).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_over() {
        let lease = |holder: &str| json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 2}});
        let secs = Duration::from_secs;
        for (holder, unchanged, expected) in [
            ("me", secs(0), Move::Renew),
            ("me", secs(60), Move::Renew),
            ("other", secs(15), Move::Wait),
            ("other", secs(16), Move::Take),
            ("", secs(0), Move::Take),
        ] {
            assert_eq!(decide(&lease(holder), "me", unchanged), expected, "{holder} {unchanged:?}");
        }
        let taken = held(&lease("other"), "me", true, "now");
        assert_eq!((&taken["spec"]["leaseTransitions"], &taken["spec"]["acquireTime"]), (&json!(3), &json!("now")));
        let renewed = held(&taken, "me", false, "later");
        assert_eq!((&renewed["spec"]["leaseTransitions"], &renewed["spec"]["acquireTime"]), (&json!(3), &json!("now")));
    }
}
