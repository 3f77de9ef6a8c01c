//! Where containers' logs are, as every kubelet lays them out: collectors of logs find whose they are by their paths.
//!
//! `pods/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log` are the files, older ones beside them with a number at the end;
//! `containers/NAME_NAMESPACE_CONTAINER-ID.log` are links to them.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use resources::{Value, meta};

/// The tree of one node: `/var/log`, or a directory of the instance's own.
#[derive(Debug, Clone)]
pub struct PodLogs {
    base: PathBuf,
}

/// A container's place in the tree, beneath `pods`. Pure.
fn place(pod: &Value, container: &str, attempt: u32) -> PathBuf {
    let pod = format!("{}_{}_{}", meta::namespace(pod), meta::name(pod), meta::uid(pod));
    Path::new(&pod).join(container).join(format!("{attempt}.log"))
}

impl PodLogs {
    pub fn new(base: &Path) -> Self {
        Self { base: base.to_owned() }
    }

    /// A directory of each pod's is in there.
    pub fn pods(&self) -> PathBuf {
        self.base.join("pods")
    }

    fn links(&self) -> PathBuf {
        self.base.join("containers")
    }

    /// The file for a container that is about to be made.
    pub fn prepare(&self, pod: &Value, container: &str, attempt: u32) -> io::Result<PathBuf> {
        let file = self.pods().join(place(pod, container, attempt));
        fs::create_dir_all(file.parent().unwrap_or(&self.base))?;
        fs::create_dir_all(self.links())?;
        Ok(file)
    }

    /// Links a container's id to its file. Relative, so that it also leads there where the tree is mounted elsewhere.
    pub fn link(&self, pod: &Value, container: &str, attempt: u32, id: &str) -> io::Result<()> {
        let name = format!("{}_{}_{container}-{id}.log", meta::name(pod), meta::namespace(pod));
        match symlink(Path::new("../pods").join(place(pod, container, attempt)), self.links().join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// What all logs of a container hold.
    pub fn bytes(&self, pod: &Value, container: &str) -> u64 {
        let place = self.pods().join(place(pod, container, 0));
        let all = fs::read_dir(place.parent().unwrap_or(&self.base)).into_iter().flatten().flatten();
        all.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }

    /// Takes the files of a container away, with it. Whoever may write where logs are may have put links there: none is followed.
    pub fn forget(&self, id: &str) {
        for link in self.all_links(|name| name.ends_with(&format!("-{id}.log"))) {
            if let Some((directory, own)) = fs::read_link(&link).ok().as_deref().and_then(target)
                && let Ok(root) = linux::fs::Root::open(self.pods())
            {
                // The rotated ones have its name and a number.
                let beside = entries(&self.pods().join(&directory));
                for old in beside.into_iter().filter(|old| is_part_of(&own, old)) {
                    let _ = root.unlink(directory.join(old));
                }
            }
            let _ = fs::remove_file(link);
        }
    }

    /// Takes away everything of a pod.
    pub fn forget_pod(&self, uid: &str) {
        let end = format!("_{uid}");
        for name in entries(&self.pods()).into_iter().filter(|name| name.ends_with(&end)) {
            for link in self.all_links(|_| true) {
                if fs::read_link(&link).is_ok_and(|target| target.starts_with(Path::new("../pods").join(&name))) {
                    let _ = fs::remove_file(link);
                }
            }
            if let Err(error) = fs::remove_dir_all(self.pods().join(&name)) {
                tracing::warn!(%error, directory = name, "cannot remove a pod's logs");
            }
        }
    }

    fn all_links(&self, which: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let names = entries(&self.links()).into_iter().filter(|name| which(name));
        names.map(|name| self.links().join(name)).collect()
    }
}

/// The directory beneath `pods` and the file in it that a link of ours leads to.
fn target(link: &Path) -> Option<(PathBuf, String)> {
    let below = link.strip_prefix("../pods").ok()?;
    let parts: Vec<&str> = below.components().map(|part| part.as_os_str().to_str()).collect::<Option<_>>()?;
    match parts[..] {
        [pod, container, file] if !parts.contains(&"..") => Some((Path::new(pod).join(container), file.to_owned())),
        _ => None,
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn is_part_of(log: &str, name: &str) -> bool {
    let rest = name.strip_prefix(log);
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(|n| n.parse::<u32>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_are_found_by_pod_and_by_container_and_go_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let logs = PodLogs::new(directory.path());
        let pod = |name: &str| json!({"metadata": {"namespace": "d", "name": name, "uid": format!("u-{name}")}});
        for (pod, container, attempt, id) in
            [(pod("web"), "c", 0, "id0"), (pod("web"), "c", 1, "id1"), (pod("db"), "c", 0, "id2")]
        {
            let file = logs.prepare(&pod, container, attempt).unwrap();
            fs::write(&file, id).unwrap();
            fs::write(file.with_extension("log.1"), "old").unwrap();
            logs.link(&pod, container, attempt, id).unwrap();
            logs.link(&pod, container, attempt, id).unwrap();
        }
        let shown = || {
            let mut all = Vec::new();
            for link in logs.all_links(|_| true) {
                all.push(format!(
                    "{} {}",
                    link.file_name().unwrap().to_string_lossy(),
                    fs::read_to_string(&link).unwrap()
                ));
            }
            all.sort();
            all.join(", ")
        };
        assert_eq!(shown(), "db_d_c-id2.log id2, web_d_c-id0.log id0, web_d_c-id1.log id1");
        assert_eq!(logs.bytes(&pod("web"), "c"), 12);
        logs.forget("id0");
        assert_eq!(shown(), "db_d_c-id2.log id2, web_d_c-id1.log id1");
        assert_eq!(entries(&logs.pods().join("d_web_u-web/c")).len(), 2, "the other's file and its older one");
        logs.forget_pod("u-web");
        logs.forget_pod("web");
        assert_eq!((shown().as_str(), entries(&logs.pods())), ("db_d_c-id2.log id2", vec!["d_db_u-db".to_owned()]));
        for foreign in
            ["/etc/passwd", "../../etc/passwd", "../pods/../x/0.log", "../pods/a/../0.log", "../pods/a/0.log"]
        {
            assert_eq!(target(Path::new(foreign)), None, "{foreign}");
        }
        assert!(is_part_of("0.log", "0.log.12") && !is_part_of("0.log", "0.log.x") && !is_part_of("0.log", "10.log"));
    }
}
