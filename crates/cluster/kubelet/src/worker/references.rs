//! What a pod refers to in the API, and what holds while the API is away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cache::Kind;
use client::Gvr;
use jiff::Timestamp;
use resources::{Status, Value, meta};
use serde_json::json;

use super::{Refused, Worker};
use crate::container::{self, Found};
use crate::files;
use crate::runtime::Runtime;

/// Something that a pod refers to could not be had.
#[derive(Debug)]
pub(super) struct Unfound {
    /// The API does not answer, so that nothing is known about it.
    pub away: bool,
    pub message: String,
}

impl From<Status> for Unfound {
    fn from(status: Status) -> Self {
        Self { away: status.code >= 500, message: status.message }
    }
}

impl From<String> for Unfound {
    fn from(message: String) -> Self {
        Self { away: false, message }
    }
}

/// Why a pod's volumes are not ready.
pub(super) enum Unready {
    Unfound(Unfound),
    Refused(Refused),
}

impl From<Unfound> for Unready {
    fn from(unfound: Unfound) -> Self {
        Self::Unfound(unfound)
    }
}

impl From<Refused> for Unready {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl<R: Runtime> Worker<R> {
    /// ConfigMaps, Secrets and Services that the pod refers to. While the API is away, what it said last holds: a pod is
    /// healed without it.
    pub(super) async fn find(&mut self, pod: &Value) -> Result<Found, Unfound> {
        let (maps, secrets) = container::references(pod);
        let named =
            |kind: Kind, names: &BTreeSet<String>| names.iter().map(|name| (kind, name.clone())).collect::<Vec<_>>();
        let kept = named(Kind::ConfigMap, &maps).into_iter().chain(named(Kind::Secret, &secrets)).collect();
        self.doors.objects.keep(&self.uid, &kept);
        let namespace = meta::namespace(pod);
        let mut found = Found::default();
        for (names, kind) in [(maps, Kind::ConfigMap), (secrets, Kind::Secret)] {
            for name in names {
                let object = match self.doors.objects.get(kind, namespace, &name, &self.uid, &self.nudge).await {
                    Err(status) if status.code >= 500 && self.found.is_some() => {
                        return Ok(self.found.clone().unwrap_or_default());
                    }
                    object => object?.map(|object| Value::clone(&object)),
                };
                let all = if kind == Kind::ConfigMap { &mut found.maps } else { &mut found.secrets };
                all.insert(name, object);
            }
        }
        found.services = self.services(namespace);
        self.found = Some(found.clone());
        Ok(found)
    }

    fn services(&self, namespace: &str) -> Vec<Arc<Value>> {
        let view = self.doors.view.read().unwrap_or_else(PoisonError::into_inner);
        let mut services: Vec<Arc<Value>> = view.in_namespace(Kind::Service, namespace).cloned().collect();
        if namespace != "default" {
            services.extend(view.get(Kind::Service, "default", "kubernetes").cloned());
        }
        services
    }

    /// What a container's environment is made of. One that takes nothing from ConfigMaps and Secrets does without the API.
    pub(super) async fn find_for(&mut self, pod: &Value, container: &Value) -> Result<Found, String> {
        match self.find(pod).await {
            Err(unfound) if unfound.away && !container::refers(container) => {
                Ok(Found { services: self.services(meta::namespace(pod)), ..Found::default() })
            }
            other => other.map_err(|unfound| unfound.message),
        }
    }

    /// Tokens are taken anew when four fifths of their time have passed.
    pub(super) async fn refresh_tokens(&mut self, pod: &Value) -> Result<(), Unfound> {
        let now = Timestamp::now();
        for wanted in files::tokens(pod) {
            if self.tokens.get(&wanted).is_some_and(|(_, until)| *until > now) {
                continue;
            }
            let had = self.tokens.contains_key(&wanted);
            let audiences: Vec<&str> = [wanted.audience.as_str()].into_iter().filter(|a| !a.is_empty()).collect();
            let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
                "audiences": audiences, "expirationSeconds": wanted.seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta::name(pod), "uid": meta::uid(pod)}}});
            let account = match meta::str_at(pod, &["spec", "serviceAccountName"]) {
                "" => "default",
                account => account,
            };
            let accounts = Gvr::new("", "v1", "serviceaccounts");
            let made = self.doors.api.create_sub(&accounts, meta::namespace(pod), account, "token", &body).await;
            let token = match made {
                // A fifth of its time is left to the old one.
                Err(status) if status.code >= 500 && had => continue,
                made => made.map_err(|status| {
                    let message = format!("fetch a token of service account {account}: {}", status.message);
                    Unfound { message, ..Unfound::from(status) }
                })?,
            };
            let text = meta::str_at(&token, &["status", "token"]).to_owned();
            let until = now.saturating_add(Duration::from_secs(wanted.seconds.unsigned_abs() * 4 / 5)).unwrap_or(now);
            self.tokens.insert(wanted, (text, until));
        }
        Ok(())
    }

    fn volumes_file(&self) -> PathBuf {
        self.doors.pod_directory(&self.uid).join("volumes.json")
    }

    /// Keeps where the pod's volumes are, for an agent that starts while the API is away.
    pub(super) fn keep_volumes(&mut self) {
        if self.kept == self.volumes {
            return;
        }
        let text = json!(self.volumes).to_string();
        match crate::certificates::write_secret(&self.volumes_file(), text.as_bytes()) {
            Ok(()) => self.kept = self.volumes.clone(),
            Err(error) => tracing::warn!(pod = self.uid, %error, "cannot keep where the pod's volumes are"),
        }
    }

    /// Takes the volumes as an earlier agent has left them. Whether all of them are there.
    pub(super) fn restore_volumes(&mut self) -> bool {
        let Ok(bytes) = std::fs::read(self.volumes_file()) else { return false };
        let Ok(kept) = serde_json::from_slice::<BTreeMap<String, PathBuf>>(&bytes) else { return false };
        let there = !kept.is_empty() && kept.values().all(|path| path.exists());
        if there {
            self.volumes = kept;
        }
        there
    }
}
