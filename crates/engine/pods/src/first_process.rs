//! The first process of a pod whose containers share one process namespace: somebody has to be process 1 there, to reap what is
//! orphaned and to keep the namespace when a container ends. It is a container of the engine's without a file in its root but
//! this program, so that the keeper looks after it as after any other; only such pods have one.

use engine::{CreateRequest, ImportRequest, RemoveOptions};
use vocab::ErrorKind;

use crate::engine_runtime::{EngineRuntime, told};
use crate::runtime::{ContainerRequest, Foreign, Limits, RuntimeError, labels};

/// The image without files, made when it is first needed.
pub const IMAGE: &str = "knarr.local/pause:1";
/// The program that `init` puts into a container, and the word that makes it wait and reap.
const PROGRAM: &str = "/sbin/docker-init";
const WAIT: &str = "--pause";

fn name(request: &ContainerRequest) -> String {
    // Another kubelet may make a second sandbox of a pod beside the first.
    let attempt = request.foreign.as_ref().map_or("0", |foreign| &foreign.sandbox[..foreign.sandbox.len().min(12)]);
    format!("k8s_POD_{}_{}_{}_{attempt}", request.pod_name, request.pod_namespace, request.pod_uid)
}

impl EngineRuntime {
    /// Makes and starts it, or finds it again; its id.
    pub(crate) async fn first_process(&self, request: &ContainerRequest) -> Result<String, RuntimeError> {
        let own = ContainerRequest {
            pod_uid: request.pod_uid.clone(),
            pod_name: request.pod_name.clone(),
            pod_namespace: request.pod_namespace.clone(),
            name: "POD".into(),
            image: IMAGE.into(),
            command: Some(vec![PROGRAM.into(), WAIT.into()]),
            hostname: request.hostname.clone(),
            host_network: request.host_network,
            host_ipc: request.host_ipc,
            class: request.class,
            foreign: request.foreign.as_ref().map(|foreign| Foreign {
                sandbox: foreign.sandbox.clone(),
                cgroup_parent: foreign.cgroup_parent.clone(),
                ..Foreign::default()
            }),
            cap_drop: vec!["ALL".into()],
            no_new_privileges: true,
            read_only_root: true,
            oom_score_adj: -998,
            limits: Limits { cpu_shares: crate::groups::SHARES_MIN, ..Limits::default() },
            ..ContainerRequest::default()
        };
        let mut create: CreateRequest = self.request(&own);
        create.name = Some(name(&own));
        create.host.init = Some(true);
        create.config.labels.remove(labels::CONTAINER);
        create.config.labels.insert(labels::TYPE.into(), "podsandbox".into());
        let id = match self.engine().create(create.clone()).await {
            Ok(created) => created.id.to_string(),
            Err(engine::Error::NameInUse { .. }) => name(&own),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let import = ImportRequest { reference: Some(IMAGE.into()), ..ImportRequest::default() };
                // An archive without entries is its two closing blocks.
                let (sender, body) = engine::Body::channel();
                let _ = sender.send(vec![0; 1024].into()).await;
                drop(sender);
                self.engine().image_import(import, body).await.map_err(told)?;
                self.engine().create(create).await.map_err(told)?.id.to_string()
            }
            Err(error) => return Err(told(error)),
        };
        match self.engine().start(&id).await {
            Err(error) if error.kind() != ErrorKind::NotModified => Err(told(error)),
            _ => Ok(id),
        }
    }

    /// Ends it and removes it, if the sandbox has one.
    pub(crate) async fn end_first_process(&self, sandbox: &str) -> Result<(), RuntimeError> {
        let mut options = engine::ListOptions { all: true, ..engine::ListOptions::default() };
        options.filters.insert("label", format!("{}=podsandbox", labels::TYPE));
        let all = self.engine().list(options).await.map_err(told)?.into_iter();
        let label = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get(labels::SANDBOX).or_else(|| labels.get(labels::POD_UID)).is_some_and(|of| of == sandbox)
        };
        for found in all.filter(|found| label(&found.labels)) {
            let removed =
                self.engine().remove(&found.id.to_string(), RemoveOptions { force: true, volumes: true }).await;
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(told(error)),
                _ => {}
            }
        }
        Ok(())
    }
}
