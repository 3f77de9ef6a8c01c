//! An image as a volume: its layers, read-only, mounted beside the pod's other files. A container that is never started holds the
//! layers, so that nobody removes them meanwhile; it goes with the pod's sandbox.

use std::path::{Path, PathBuf};

use linux::mount::{self, MountFlags, Overlay};
use rustix::fs::OFlags;

use crate::engine_runtime::{EngineRuntime, blocking, told};
use crate::runtime::{ContainerRequest, RuntimeError, labels};

impl EngineRuntime {
    /// Makes the volume or finds it; `request` names pod, volume and image.
    pub(crate) async fn mount_image(&self, request: &ContainerRequest, place: &Path) -> Result<PathBuf, RuntimeError> {
        let mut create = self.request(request);
        create.name = Some(format!("k8s_VOLUME_{}_{}_{}", request.name, request.pod_name, request.pod_uid));
        create.config.labels.remove(labels::CONTAINER);
        create.config.labels.insert(labels::TYPE.into(), "podsandbox".into());
        // An image that is only data names no program; this one is never run.
        create.config.entrypoint = Some(vec!["/none".into()]);
        let name = create.name.clone().unwrap_or_default();
        let id = match self.engine().create(create).await {
            Ok(created) => created.id.to_string(),
            Err(engine::Error::NameInUse { .. }) => name,
            Err(error) => return Err(told(error)),
        };
        let layers = self.engine().inspect(&id, false).await.map_err(told)?.graph.lowers;
        let place = place.to_owned();
        blocking(move || mount_layers(&layers, &place).map(|()| place)).await
    }
}

fn mount_layers(layers: &[PathBuf], place: &Path) -> Result<(), RuntimeError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        RuntimeError::Failed(format!("{what} {}: {error}", place.display()))
    };
    if mount::is_mount_point(place).map_err(|error| failed("look at", &error))? {
        return Ok(());
    }
    // An overlay without an upper layer needs two lower ones.
    let empty = place.with_extension("empty");
    for directory in [place, &empty] {
        std::fs::create_dir_all(directory).map_err(|error| failed("make", &error))?;
    }
    let open = |path: &Path| {
        linux::fs::open_host(path, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|error| failed("open the layers of", &error))
    };
    let mut fds = layers.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    fds.push(open(&empty)?);
    if fds.len() < 2 {
        fds.push(open(place)?);
    }
    use std::os::fd::AsFd;
    let overlay = Overlay {
        lowers: fds.iter().map(AsFd::as_fd).collect(),
        upper: None,
        options: Vec::new(),
        source: Some("knarr-image".into()),
    };
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    overlay.mount_at(place, flags).map_err(|error| failed("mount the image on", &error))
}
