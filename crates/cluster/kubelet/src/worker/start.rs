//! Getting a container's image and starting it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use cache::Kind;
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use super::{Refused, Worker};
use crate::actions::{self, Trouble};
use crate::container;
use crate::credentials;
use crate::hooks;
use crate::images::{self, Decision, Pull};
use crate::pod::{self, Role};
use crate::runtime::{ContainerRequest, ImageSeen, Login, Runtime, RuntimeError, Sandbox, Seccomp};

/// How an attempt to start went.
enum Begun {
    Started(String),
    /// Its image is on its way; the worker is nudged when that has ended.
    Pulling,
}

impl<R: Runtime> Worker<R> {
    /// True: something changed, look again at once.
    pub(super) async fn start(&mut self, pod: &Arc<Value>, role: Role, name: &str, attempt: u32) -> bool {
        let found = pod::containers(pod).find(|(of, container)| *of == role && pod::name(container) == name);
        let Some((_, container)) = found else { return false };
        match self.try_start(pod, container, attempt).await {
            Ok(Begun::Pulling) => false,
            Ok(Begun::Started(id)) => {
                self.memory.troubles.remove(name);
                self.memory.note_start(name, attempt, Timestamp::now());
                self.doors.container_event(pod, name, false, "Created", "Container created");
                self.doors.container_event(pod, name, false, "Started", "Container started");
                self.after_start(pod, container, id);
                true
            }
            Err(refused) => {
                let tries = self.memory.troubles.get(name).map_or(0, |trouble| trouble.tries) + 1;
                let Refused { reason, message } = refused;
                // Of images the reason is told; what was wrong has been told before.
                let text = if reason.contains("Image") { reason } else { message.as_str() };
                self.doors.container_event(pod, name, true, "Failed", &format!("Error: {text}"));
                tracing::debug!(
                    pod = meta::name(pod),
                    container = name,
                    reason,
                    message,
                    "a container was not started"
                );
                let image = container["image"].as_str().unwrap_or_default().to_owned();
                let trouble = Trouble { reason, message, image, tries, at: Timestamp::now() };
                self.memory.troubles.insert(name.to_owned(), trouble);
                true
            }
        }
    }

    async fn try_start(&mut self, pod: &Arc<Value>, container: &Value, attempt: u32) -> Result<Begun, Refused> {
        let config = |message: String| Refused::new("CreateContainerConfigError", message);
        let sandbox = self.doors.runtime.find_sandbox(&self.uid).await;
        let sandbox = sandbox.ok_or_else(|| config("the pod's sandbox is gone".into()))?;
        let Some(image) = self.image(pod, container).await? else { return Ok(Begun::Pulling) };
        let found = self.find_for(pod, container).await.map_err(config)?;
        let (node, allocatable) = (&self.doors.node, &self.doors.allocatable);
        let env = container::environment(pod, container, &found, Some(&sandbox), node, allocatable).map_err(config)?;
        let mut number = 0;
        let mounts = container::mounts(container, &env, &self.volumes, |_, volume, below| {
            number += 1;
            let place = sandbox.directory.join("subpaths").join(format!("{}-{attempt}-{number}", pod::name(container)));
            match pods::image_of(&sandbox.directory, volume) {
                // Whoever has the image finds the path in it.
                Some(_) => Ok(volume.join(below)),
                None => pods::sub_path(volume, below, &place),
            }
        })
        .map_err(config)?;
        let mut request =
            container::request(pod, container, attempt, env, mounts, &image, &sandbox, node, self.doors.memory_bytes())
                .map_err(config)?;
        request.hostname = pod::kernel_name(pod, &node.name, &self.doors.fqdn(pod)).map_err(config)?;
        if let Seccomp::Local(path) = &request.seccomp {
            request.seccomp = Seccomp::Profile(self.doors.seccomp_profile(path).map_err(config)?);
        }
        if let Some((_, file)) = &request.message {
            let made = fs::write(file, "").and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o666)));
            made.map_err(|error| config(format!("make {}: {error}", file.display())))?;
        }
        if let Some(target) = container["targetContainerName"].as_str().filter(|target| !target.is_empty()) {
            let seen = self.seen().await.map_err(|error| config(error.to_string()))?;
            let of = actions::current(&seen, target)
                .ok_or_else(|| config(format!("unable to find target container {target:?}")))?;
            request.pid_of = Some(of.id.clone());
        }
        let equipped = self.doors.devices.equip(container, &mut request).await;
        equipped.map_err(|message| Refused::new("UnexpectedAdmissionError", message))?;
        let (logs, name) = (&self.doors.config.logs, pod::name(container));
        let file = logs.prepare(pod, name, attempt);
        request.log = Some(file.map_err(|error| config(format!("make the directory of its log: {error}")))?);
        let id = self.doors.runtime.start(&request).await.map_err(|error| match error {
            RuntimeError::Invalid(message) => Refused::new("CreateContainerError", message),
            error => Refused::new("RunContainerError", error.to_string()),
        })?;
        if let Err(error) = logs.link(pod, name, attempt, &id) {
            tracing::warn!(%error, pod = meta::name(pod), container = name, "cannot link the container's log");
        }
        Ok(Begun::Started(id))
    }

    /// The container's image, which is in use from now on; `None` while it is being pulled.
    async fn image(&mut self, pod: &Arc<Value>, container: &Value) -> Result<Option<ImageSeen>, Refused> {
        let image = self.find_image(pod, container).await?;
        // Also of a container that lives for a moment.
        image.iter().for_each(|image| self.doors.used_images.note(&image.id, Timestamp::now()));
        Ok(image)
    }

    async fn find_image(&mut self, pod: &Arc<Value>, container: &Value) -> Result<Option<ImageSeen>, Refused> {
        let (name, image) = (pod::name(container), container["image"].as_str().unwrap_or_default());
        let tell = |warning: bool, reason: &str, message: &str| {
            self.doors.container_event(pod, name, warning, reason, message);
        };
        if let Err(error) = image.parse::<vocab::Reference>() {
            let text = format!(
                "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format: {error}"
            );
            tell(true, "InspectFailed", &text);
            return Err(Refused::new("InvalidImageName", text));
        }
        let inspect = |error: RuntimeError| {
            Refused::new("ImageInspectError", format!("Failed to inspect image {image:?}: {error}"))
        };
        let present = self.doors.runtime.image(image).await.map_err(inspect)?;
        if let Some((of, pull)) = self.pulls.get(name)
            && of == image
        {
            let Some(pulled) = pull.borrow().clone() else { return Ok(None) };
            self.pulls.remove(name);
            if let Err(error) = pulled.outcome {
                self.doors.container_event(
                    pod,
                    name,
                    true,
                    "Failed",
                    &format!("Failed to pull image {image:?}: {error}"),
                );
                return Err(Refused::new("ErrImagePull", error.to_string()));
            }
            let image_seen = present.ok_or_else(|| {
                Refused::new("ErrImagePull", format!("image {image:?} is not there after it was pulled"))
            })?;
            let (took, waited) = (images::go_duration(pulled.took), images::go_duration(pulled.waited));
            let size = image_seen.size_bytes;
            let text = format!(
                "Successfully pulled image {image:?} in {took} ({waited} including waiting). Image size: {size} bytes."
            );
            self.doors.container_event(pod, name, false, "Pulled", &text);
            return Ok(Some(image_seen));
        }
        let policy = container["imagePullPolicy"].as_str().unwrap_or_default();
        match (images::decide(policy, image, present.as_ref()), present) {
            (Decision::Use, Some(present)) => {
                let text =
                    format!("Container image {image:?} already present on machine and can be accessed by the pod");
                tell(false, "Pulled", &text);
                Ok(Some(present))
            }
            (Decision::Refuse, _) => {
                let text = format!("Container image {image:?} is not present with pull policy of Never");
                tell(true, "ErrImageNeverPull", &text);
                Err(Refused::new("ErrImageNeverPull", text))
            }
            (Decision::Use | Decision::Pull, _) => {
                tell(false, "Pulling", &format!("Pulling image {image:?}"));
                let logins = self.logins(pod, image).await;
                let pull = self.doors.pulls.pull(&self.doors.runtime, image, &logins);
                self.wake_after(pull.clone());
                self.pulls.insert(name.to_owned(), (image.to_owned(), pull));
                Ok(None)
            }
        }
    }

    /// An image as a volume, pulled if need be.
    pub(super) async fn image_volume(
        &mut self,
        pod: &Arc<Value>,
        volume: &Value,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<PathBuf, Refused> {
        let source = &volume["image"];
        let reference = source["reference"].as_str().unwrap_or_default();
        let policy = match source["pullPolicy"].as_str() {
            Some(policy) => policy.to_owned(),
            None if reference.ends_with(":latest") || !reference.contains([':', '@']) => "Always".into(),
            None => "IfNotPresent".into(),
        };
        let wanted = json!({"name": format!("volume {name}"), "image": reference, "imagePullPolicy": policy});
        if self.image(pod, &wanted).await?.is_none() {
            return Err(Refused::new(super::PULLING, reference));
        }
        let request = ContainerRequest {
            pod_uid: self.uid.clone(),
            pod_name: meta::name(pod).into(),
            pod_namespace: meta::namespace(pod).into(),
            name: name.into(),
            image: reference.into(),
            class: crate::qos::group(pod).class,
            ..ContainerRequest::default()
        };
        let place = sandbox.directory.join("volumes").join(name);
        self.doors.runtime.image_volume(&request, &place).await.map_err(|error| {
            Refused::new("FailedMount", format!("MountVolume.SetUp failed for volume {name:?} : {error}"))
        })
    }

    fn wake_after(&self, mut pull: Pull) {
        let nudge = self.nudge.clone();
        tokio::spawn(async move {
            let _ = pull.wait_for(Option::is_some).await;
            nudge.notify_one();
        });
    }

    /// What the pod's pull secrets hold for an image. A secret that is missing is told and passed over, as upstream does.
    async fn logins(&self, pod: &Value, image: &str) -> Vec<Login> {
        let mut secrets = Vec::new();
        for reference in meta::list_at(pod, &["spec", "imagePullSecrets"]) {
            let name = reference["name"].as_str().unwrap_or_default();
            match self.doors.api.get(&Kind::Secret.gvr(), meta::namespace(pod), name).await {
                Ok(secret) => secrets.push(secret),
                Err(status) => {
                    tracing::debug!(secret = name, message = status.message, "cannot read a pull secret");
                    let text = format!(
                        "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
                    );
                    self.doors.event(pod, true, "FailedToRetrieveImagePullSecret", &text);
                }
            }
        }
        credentials::logins(image, &secrets.iter().collect::<Vec<_>>())
    }

    fn after_start(&self, pod: &Arc<Value>, container: &Value, id: String) {
        let hook = container["lifecycle"]["postStart"].clone();
        if !hook.is_object() {
            return;
        }
        let (doors, pod, nudge, name) =
            (self.doors.clone(), pod.clone(), self.nudge.clone(), pod::name(container).to_owned());
        tokio::spawn(async move {
            if let Err(error) = hooks::run(&doors, &pod, &hook, &id).await {
                doors.container_event(
                    &pod,
                    &name,
                    true,
                    "FailedPostStartHook",
                    &format!("PostStartHook failed: {error}"),
                );
                let text = format!("FailedPostStartHook: Stopping container {name}");
                doors.container_event(&pod, &name, false, "Killing", &text);
                let _ = doors.runtime.stop(&id, pod::grace(&pod)).await;
            }
            nudge.notify_one();
        });
    }
}
