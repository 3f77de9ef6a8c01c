//! What the API said last, in files: an agent that starts while no server answers goes on from there.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use resources::Value;
use tokio::sync::watch;

use crate::{Kind, View};

/// Changes that come within this time are one write.
const TOGETHER: Duration = Duration::from_millis(500);
/// Of the time at most this part is spent writing.
const SHARE: u32 = 20;

/// Where the objects of each kind are kept, one file a kind.
#[derive(Debug, Clone)]
pub struct Keep {
    directory: PathBuf,
}

impl Keep {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn path(&self, kind: Kind) -> PathBuf {
        self.directory.join(format!("{}.json", kind.gvr().plural))
    }

    /// What was kept of a kind; `None`: nothing ever was, or it cannot be read.
    pub fn load(&self, kind: Kind) -> Option<Vec<Value>> {
        let path = self.path(kind);
        let bytes = fs::read(&path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "what was kept cannot be read"))
            .ok()
    }

    /// Keeps these as all that there is of a kind.
    pub fn store(&self, kind: Kind, objects: &[Arc<Value>]) -> std::io::Result<()> {
        // Pods and services may say what is not everybody's to read.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.path(kind);
        let fresh = path.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        let objects: Vec<&Value> = objects.iter().map(|object| &**object).collect();
        file.write_all(&serde_json::to_vec(&objects)?)?;
        file.sync_data()?;
        fs::rename(&fresh, &path)
    }

    /// Follows what is noticed of a kind until the sender is dropped.
    pub async fn follow(self, kind: Kind, view: Arc<RwLock<View>>, mut noticed: watch::Receiver<u64>) {
        while noticed.changed().await.is_ok() {
            tokio::time::sleep(TOGETHER).await;
            noticed.borrow_and_update();
            let objects: Vec<Arc<Value>> = {
                let view = view.read().unwrap_or_else(PoisonError::into_inner);
                view.list(kind).cloned().collect()
            };
            let keep = self.clone();
            let began = Instant::now();
            let stored = tokio::task::spawn_blocking(move || keep.store(kind, &objects)).await;
            if let Ok(Err(error)) = stored {
                tracing::warn!(directory = %self.directory.display(), %error, "cannot keep what the API says");
            }
            tokio::time::sleep(began.elapsed() * SHARE).await;
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_is_found_again_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let keep = Keep::new(directory.path().join("view"));
        assert_eq!(keep.load(Kind::Pod), None);
        let pod = json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "d"}});
        keep.store(Kind::Pod, &[Arc::new(pod.clone())]).unwrap();
        keep.store(Kind::Service, &[]).unwrap();
        assert_eq!(keep.load(Kind::Pod), Some(vec![pod]));
        assert_eq!(keep.load(Kind::Service), Some(Vec::new()));
        assert_eq!(keep.load(Kind::Node), None);
        let mode = fs::metadata(keep.path(Kind::Pod)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::write(keep.path(Kind::Pod), "half").unwrap();
        assert_eq!(keep.load(Kind::Pod), None);
    }
}
