//! Paths below volumes.

use std::fs;
use std::path::{Path, PathBuf};

/// A path below a volume, mounted at a place of ours by descriptor: what the workload does to links meanwhile leads nowhere.
pub fn sub_path(volume: &Path, below: &str, place: &Path) -> Result<PathBuf, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("subPath {below:?}: {what}: {error}");
    let root = linux::fs::Root::open(volume).map_err(|error| failed("open the volume", &error))?;
    let fd = match root.open_path(below) {
        Ok(fd) => fd,
        Err(error) if error.is(linux::Errno::NOENT) => {
            root.mkdir_all(below, rustix::fs::Mode::from_raw_mode(0o755)).map_err(|error| failed("make it", &error))?;
            root.open_path(below).map_err(|error| failed("open it", &error))?
        }
        Err(error) => return Err(failed("open it", &error)),
    };
    let stat = linux::fs::fstat(&fd).map_err(|error| failed("look at it", &error))?;
    let is_directory = linux::fs::file_type(&stat) == rustix::fs::FileType::Directory;
    if linux::mount::is_mount_point(place).unwrap_or(false) {
        linux::mount::unmount_lazily(place).map_err(|error| failed("unmount an older one", &error))?;
    }
    let parent = place.parent().unwrap_or(place);
    fs::create_dir_all(parent).map_err(|error| failed("make its place", &error))?;
    if is_directory {
        fs::create_dir_all(place).map_err(|error| failed("make its place", &error))?;
    } else {
        fs::write(place, "").map_err(|error| failed("make its place", &error))?;
    }
    let tree = linux::mount::clone_tree(&fd, true).map_err(|error| failed("take it", &error))?;
    linux::mount::attach_at(tree, place).map_err(|error| failed("mount it", &error))?;
    Ok(place.to_owned())
}

/// The file that says that a pod's volume stands for an image, which the runtime mounts itself. It lies beside the volumes, where
/// no workload writes, and volumes have no dots in their names.
pub fn image_note(directory: &Path, volume: &str) -> PathBuf {
    directory.join("volumes").join(format!("{volume}.image"))
}

/// The image that a path stands for, and what of it is meant; `directory` is that of the pod's small files.
pub fn image_of(directory: &Path, path: &Path) -> Option<(String, PathBuf)> {
    let within = path.strip_prefix(directory.join("volumes")).ok()?;
    let volume = within.components().next()?.as_os_str();
    let image = fs::read_to_string(image_note(directory, volume.to_str()?)).ok()?;
    Some((image, within.strip_prefix(volume).ok()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_stands_for_an_image_is_known_with_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, place) = (dir.path(), dir.path().join("volumes/data"));
        fs::create_dir_all(&place).unwrap();
        assert_eq!(image_of(pod, &place), None);
        fs::write(image_note(pod, "data"), "sha256:abc").unwrap();
        assert_eq!(image_of(pod, &place), Some(("sha256:abc".into(), PathBuf::new())));
        assert_eq!(image_of(pod, &place.join("a/b")), Some(("sha256:abc".into(), PathBuf::from("a/b"))));
        assert_eq!(image_of(pod, &pod.join("volumes/other")), None);
        // What a workload writes says nothing, wherever it lies.
        fs::write(place.join("x.image"), "sha256:abc").unwrap();
        assert_eq!(image_of(pod, Path::new("/srv/data")), None);
        fs::create_dir(dir.path().join("srv")).unwrap();
        fs::write(dir.path().join("srv/data.image"), "sha256:abc").unwrap();
        assert_eq!(image_of(pod, &dir.path().join("srv/data")), None);
    }
}
