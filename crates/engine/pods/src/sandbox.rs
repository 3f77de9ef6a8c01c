//! Pod sandboxes without a process: namespaces held by files, and the pod's small files in memory.
//!
//! A sandbox is made in two steps, between which whoever has the network gives the namespace its interface: [`Sandboxes::prepare`],
//! then [`Sandboxes::finish`] with the addresses. It is one tmpfs at `<run>/pods/<uid>`; the namespace files are mounted inside, so that one unmount ends all of
//! it. Nothing has to run for a sandbox to live, and nothing is remembered elsewhere: the next agent finds it by its mount. The
//! file `ready` is made last; a sandbox without it is made anew.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use linux::mount::{self, MountFlags};
use linux::ns::{self, Namespaces};

use crate::runtime::{RuntimeError, Sandbox, SandboxRequest};

/// Sandboxes of one instance. All calls block.
/// How a pod's small files are held. Some of them the workload can write to (`/etc/hosts`, its last words): that takes from nobody but
/// the pod, and ends there.
const FILES: &str = "mode=0711,size=64m";

#[derive(Debug, Clone)]
pub struct Sandboxes {
    /// `<run>/pods`.
    directory: PathBuf,
}

fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Failed(format!("{what}: {error}"))
}

fn io(path: &Path, what: &str) -> impl FnOnce(std::io::Error) -> RuntimeError {
    let text = format!("{what} {}", path.display());
    move |error| failed(text, error)
}

impl Sandboxes {
    pub fn new(run: &Path) -> Self {
        Self { directory: run.join("pods") }
    }

    pub fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(uid)
    }

    pub fn find(&self, uid: &str) -> Option<Sandbox> {
        let directory = self.path(uid);
        let ips = fs::read_to_string(directory.join("ready")).ok()?;
        Some(Sandbox { ips: ips.split_whitespace().map(str::to_owned).collect(), directory })
    }

    pub fn list(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Namespaces and files. What a crash left half made must have been removed.
    pub fn prepare(&self, request: &SandboxRequest) -> Result<(), RuntimeError> {
        self.prepare_files(request)?;
        self.hold_namespaces(request, &self.path(&request.uid))
    }

    /// The files alone, for a sandbox whose namespaces somebody else holds.
    pub fn prepare_files(&self, request: &SandboxRequest) -> Result<(), RuntimeError> {
        let directory = self.path(&request.uid);
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&directory).map_err(io(&directory, "make"))?;
        vocab::crash::point("pods.sandbox.before_mount");
        mount::mount(
            "knarr-pod",
            &directory,
            Some("tmpfs"),
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(FILES.as_ref()),
        )
        .map_err(|error| failed("mount the pod's files", error))?;
        mount::set_propagation(&directory, mount::Propagation::Private, false)
            .map_err(|error| failed("keep the pod's mounts apart", error))?;
        let resolv = match &request.resolv_conf {
            Some(text) => text.clone(),
            None => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        };
        write(&directory, "resolv.conf", &resolv)?;
        write(&directory, "hostname", &format!("{}\n", request.hostname))?;
        let shm = directory.join("shm");
        fs::DirBuilder::new().create(&shm).map_err(io(&shm, "make"))?;
        fs::set_permissions(&shm, fs::Permissions::from_mode(0o1777)).map_err(io(&shm, "set the mode of"))
    }

    /// The pod has these addresses, and is ready for containers.
    pub fn finish(&self, request: &SandboxRequest, ips: Vec<String>) -> Result<Sandbox, RuntimeError> {
        let directory = self.path(&request.uid);
        write(&directory, "hosts", &hosts(request, &ips))?;
        vocab::crash::point("pods.sandbox.before_ready");
        write(&directory, "ready", &ips.join("\n"))?;
        Ok(Sandbox { ips, directory })
    }

    /// New namespaces, each mounted on a file. A thread of its own enters them and ends.
    fn hold_namespaces(&self, request: &SandboxRequest, directory: &Path) -> Result<(), RuntimeError> {
        let mut kinds = Vec::new();
        if !request.host_network {
            kinds.push((Namespaces::NET, "net"));
            kinds.push((Namespaces::UTS, "uts"));
        }
        if !request.host_ipc {
            kinds.push((Namespaces::IPC, "ipc"));
        }
        for (_, name) in &kinds {
            let path = directory.join(name);
            fs::write(&path, "").map_err(io(&path, "make"))?;
        }
        let (hostname, sysctls) = (request.hostname.clone(), request.sysctls.clone());
        let own_network = !request.host_network;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<(), RuntimeError> {
                for (kind, _) in &kinds {
                    ns::unshare(*kind).map_err(|error| failed("make the pod's namespaces", error))?;
                }
                if own_network {
                    linux::net::loopback_up().map_err(|error| failed("bring up the pod's loopback", error))?;
                    rustix::system::sethostname(hostname.as_bytes())
                        .map_err(|error| failed("set the pod's host name", error))?;
                    // A namespace of one's own has no need for privileged ports, nor raw sockets for ping.
                    for (name, value) in
                        [("ipv4/ip_unprivileged_port_start", "0"), ("ipv4/ping_group_range", "0 2147483647")]
                    {
                        let _ = fs::write(format!("/proc/sys/net/{name}"), value);
                    }
                }
                for (name, value) in &sysctls {
                    let path = PathBuf::from(format!("/proc/sys/{}", name.replace('.', "/")));
                    fs::write(&path, value).map_err(io(&path, "write"))?;
                }
                for (_, name) in &kinds {
                    let source = PathBuf::from(format!("/proc/thread-self/ns/{name}"));
                    mount::mount(&source, directory.join(name), None, MountFlags::BIND, None)
                        .map_err(|error| failed(format_args!("hold the pod's {name} namespace"), error))?;
                }
                Ok(())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn remove(&self, uid: &str) -> Result<(), RuntimeError> {
        let directory = self.path(uid);
        if fs::symlink_metadata(&directory).is_err() {
            return Ok(());
        }
        // A crash between two mounts of the same place leaves more than one.
        while mount::is_mount_point(&directory).map_err(|error| failed("look for the pod's mounts", error))? {
            mount::unmount_lazily(&directory).map_err(|error| failed("unmount the pod's files", error))?;
        }
        vocab::crash::point("pods.sandbox.unmounted");
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&directory, "remove")(error)),
            _ => Ok(()),
        }
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), RuntimeError> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(io(&path, "write"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(io(&path, "set the mode of"))
}

/// `/etc/hosts` of a pod.
fn hosts(request: &SandboxRequest, ips: &[String]) -> String {
    let mut text = match request.host_network {
        true => fs::read_to_string("/etc/hosts").unwrap_or_default(),
        false => String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        ),
    };
    for ip in ips {
        let fqdn = if request.fqdn.is_empty() { String::new() } else { format!("{}\t", request.fqdn) };
        // A host name that is the whole name has its first part as a name as well.
        let short = match request.hostname.split_once('.') {
            Some((short, _)) if request.hostname == request.fqdn => short,
            _ => &request.hostname,
        };
        text.push_str(&format!("{ip}\t{fqdn}{short}\n"));
    }
    if !request.aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for (ip, names) in &request.aliases {
        text.push_str(&format!("{ip}\t{}\n", names.join("\t")));
    }
    text
}
