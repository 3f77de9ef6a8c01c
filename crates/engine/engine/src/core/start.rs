//! Everything that a start needs, gathered and decided before the keeper is asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keeper::client::{StartRequest, Work};
use keeper::{LogDriver, LogSpec, Stdio};
use runtime::RootfsSource;

use super::records::ContainerRecord;
use super::{Container, Inner};
use crate::decide::caps;
use crate::decide::request::{Rotation, log_rotation};
use crate::decide::user::{ExecUser, FILE_BYTES_MAX, resolve_user};
use crate::spec::{self, Joined, NamespaceMode, NetworkFiles, SpecInput};
use crate::{Error, HostConfig, MountKind, Result, Status};

pub(crate) struct Prepared {
    pub(crate) plan: runtime::Plan,
    /// Without sinks.
    pub(crate) request: StartRequest,
    pub(crate) warnings: Vec<String>,
    /// Its network namespace: kept until its first process is in it.
    pub(crate) sandbox: Option<super::networks::Sandbox>,
}

impl Inner {
    /// Blocking.
    pub(crate) fn prepare_start(self: &Arc<Self>, container: &Container) -> Result<Prepared> {
        // Two overlays over one writable layer would not know of each other.
        container.let_root_go();
        let record = container.record();
        self.ensure_mount_sources(container, &record)?;
        let sandbox = self.attach_networks(container, &record)?;
        let prepared = self.prepare_in(container, &record, sandbox);
        if prepared.is_err() {
            self.release_networks(container);
        }
        prepared
    }

    fn prepare_in(
        &self,
        container: &Container,
        record: &ContainerRecord,
        sandbox: Option<super::networks::Sandbox>,
    ) -> Result<Prepared> {
        let (config, host) = (&record.config, &record.host);
        let given = super::devices::requested(&host.resources.device_requests, &self.config.cdi_dirs)?;
        let mut plan = self.plan_container(container, record, sandbox.as_ref(), &given)?;
        let warnings = std::mem::take(&mut plan.warnings);
        let console =
            container.live().saved.console.or(host.console_size).unwrap_or(crate::ConsoleSize { rows: 24, cols: 80 });
        let stdio = if config.tty {
            Stdio::Tty { rows: console.rows, cols: console.cols }
        } else {
            Stdio::Pipes { stdin: config.open_stdin }
        };
        let request = StartRequest {
            id: container.id.to_string(),
            work: Work::container(&plan).map_err(|e| launch_error(record, e))?,
            stdio,
            log: self.log_spec(container, host)?,
            sinks: Vec::new(),
            gated: false,
        };
        Ok(Prepared { plan, request, warnings, sandbox })
    }

    /// What exec needs of a container that an earlier engine launched.
    pub(crate) fn prepare_target(&self, container: &Container) -> Result<runtime::ExecTarget> {
        // What devices brought is in the container's own places; a process beside it joins those.
        Ok(self.plan_container(container, &container.record(), None, &cdi::Edits::default())?.exec_target())
    }

    fn plan_container(
        &self,
        container: &Container,
        record: &ContainerRecord,
        sandbox: Option<&super::networks::Sandbox>,
        given: &cdi::Edits,
    ) -> Result<runtime::Plan> {
        let (config, host) = (&record.config, &record.host);
        let key = container.id.to_string();
        let snapshot = self.images.snapshot(&key)?;
        let dir = self.container_dir(container.id);
        std::fs::create_dir_all(&dir).map_err(|e| Error::internal(format_args!("make {}", dir.display()), e))?;

        let security = spec::parse_security_opt(&host.security_opt)?;
        let user = self.container_user(container, &snapshot, &config.user, &host.group_add)?;
        let files = self.write_network_files(container.id, record, &dir)?;
        let mut joined = self.joined(host)?;
        if let Some(sandbox) = sandbox {
            joined.network = Some(sandbox.path());
        }
        joined.user = match sandbox.and_then(|sandbox| sandbox.user_path()) {
            None => self.shared_user_namespace(record)?,
            own => own,
        };
        let devices =
            if host.privileged { super::devices::all() } else { super::devices::asked(&host.resources.devices)? };
        let view = self.make_view(container)?;
        let init = host.init == Some(true);
        let init_program = PathBuf::from("/proc/self/exe");
        let init_program = std::fs::read_link(&init_program).unwrap_or(init_program);
        let mut spec = spec::build_spec(&SpecInput {
            id: container.id,
            config,
            host,
            security: &security,
            user: &user,
            users: record.users.as_ref(),
            mounts: &self.shown_ids(record, self.volumes.placed(container.id, &record.mounts)),
            files: &files,
            joined: &joined,
            facts: &self.facts,
            seccomp: None,
            devices: &devices,
            view: &view,
            init: init.then_some(init_program.as_path()),
            device_numbers: &super::devices::numbers,
        })?;
        given.apply(&mut spec, &super::devices::node).map_err(super::devices::refused)?;
        let rootfs = RootfsSource::Overlay { lowers: snapshot.lowers, upper: snapshot.upper, work: snapshot.work };
        let mut options = runtime::Options::new(key.clone(), dir);
        let subpaths = record.mounts.iter().filter(|m| !m.subpath.is_empty());
        options.subpaths = subpaths.map(|m| (m.destination.clone(), m.subpath.clone().into())).collect();
        let mut plan = runtime::plan(&spec, &rootfs, &self.runtime_facts, &options)
            .map_err(|e| Error::Start { exit_code: 128, message: format!("OCI runtime create failed: {e}") })?;
        if !host.privileged {
            let names = caps::decide_caps(&host.cap_add, &host.cap_drop, host.privileged, self.facts.capabilities)?;
            plan.process.seccomp = self.seccomp.plan(&security.seccomp, &names)?;
        }
        Ok(plan)
    }

    fn log_spec(&self, container: &Container, host: &HostConfig) -> Result<Option<LogSpec>> {
        let Some(path) = self.log_path(container.id, host) else { return Ok(None) };
        if crate::ship::options::is_rotated_elsewhere(&host.log) {
            return Ok(Some(LogSpec { driver: LogDriver::Cri, path, max_size: None, max_files: 1 }));
        }
        let rotation = log_rotation(&host.log)?;
        if host.log.driver == crate::ship::options::CRI {
            let Rotation { size_bytes_max: max_size, files_max: max_files } = rotation;
            return Ok(Some(LogSpec { driver: LogDriver::Cri, path, max_size, max_files }));
        }
        let subject = crate::ship::subject::Subject::new(container.id, &container.record());
        Ok(Some(LogSpec {
            driver: LogDriver::JsonFile { attrs: subject.file_attributes(&host.log) },
            path,
            max_size: rotation.size_bytes_max,
            max_files: rotation.files_max,
        }))
    }

    /// Who the container runs as, by its own passwd and group files.
    fn container_user(
        &self,
        container: &Container,
        snapshot: &image::Snapshot,
        user: &str,
        group_add: &[String],
    ) -> Result<ExecUser> {
        let image = container.record().image;
        // A container that has written nothing to /etc has the image's files.
        let pristine = std::fs::symlink_metadata(snapshot.upper.join("etc")).is_err();
        let files = match self.user_files.get(&image).filter(|_| pristine) {
            Some(files) => files,
            None => {
                let root = linux::fs::Root::from_fd(self.images.mount(&container.id.to_string(), false)?);
                let files = Arc::new(UserFiles::read(&root));
                if pristine {
                    self.user_files.keep(image, files.clone());
                }
                files
            }
        };
        resolve_user(user, group_add, &files.passwd, &files.group)
    }

    pub(crate) fn write_network_files(
        &self,
        id: crate::ContainerId,
        record: &ContainerRecord,
        dir: &Path,
    ) -> Result<NetworkFiles> {
        let (config, host) = (&record.config, &record.host);
        let network = spec::network_mode(host)?;
        if let NamespaceMode::Container(name) = network {
            // One network, one set of files.
            let other = self.find(name)?;
            let dir = self.container_dir(other.id);
            return Ok(NetworkFiles {
                resolv_conf: dir.join("resolv.conf"),
                hostname: dir.join("hostname"),
                hosts: dir.join("hosts"),
            });
        }
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = dir.join(name);
            // Written in place: a running container that shares it has this inode mounted.
            std::fs::write(&path, text).map_err(|e| Error::internal(format_args!("write {}", path.display()), e))?;
            Ok(path)
        };
        let own = network == NamespaceMode::Private;
        let hosts = if own || !host.extra_hosts.is_empty() {
            let names = spec::HostNames {
                hostname: &config.hostname,
                domainname: &config.domainname,
                extra: &host.extra_hosts,
                addresses: &self.networks.addresses(id),
                gateway: self.networks.host_address(id),
                links: &self.linked(record)?,
            };
            spec::hosts_file(&names)
        } else {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        };
        let resolver = if own && self.networks.has_names(id) {
            spec::NameServers::Embedded
        } else if own {
            spec::NameServers::Reachable
        } else {
            spec::NameServers::Host
        };
        Ok(NetworkFiles {
            resolv_conf: write("resolv.conf", spec::resolv_conf(&host_resolv_conf(), host, resolver))?,
            hostname: write("hostname", format!("{}\n", config.hostname))?,
            hosts: write("hosts", hosts)?,
        })
    }

    /// Links on the default bridge: address, names.
    fn linked(&self, record: &ContainerRecord) -> Result<Vec<(std::net::IpAddr, String)>> {
        let mut linked = Vec::new();
        for link in &record.host.links {
            let (container, alias) = link.split_once(':').unwrap_or((link, link));
            let other = self.find(container)?;
            let address = self.networks.bridge_address(other.id).ok_or_else(|| {
                Error::Conflict(format!("Cannot link to a non running container: /{} AS {alias}", other.name()))
            })?;
            let alias = alias.trim_start_matches('/');
            linked.push((address, format!("{alias} {} {}", other.id.short(), other.name())));
        }
        Ok(linked)
    }

    fn ensure_mount_sources(&self, container: &Container, record: &ContainerRecord) -> Result<()> {
        self.acquire_volumes(container)?;
        self.acquire_images(container)?;
        for mount in &record.mounts {
            match mount.kind {
                MountKind::Bind if mount.create_source => {
                    let path = Path::new(&mount.source);
                    if !path.exists() {
                        std::fs::create_dir_all(path).map_err(|e| Error::Start {
                            exit_code: 128,
                            message: format!(
                                "error while creating mount source path '{}': mkdir {0}: {e}",
                                mount.source
                            ),
                        })?;
                    }
                }
                MountKind::Bind if !Path::new(&mount.source).exists() => {
                    return Err(Error::Invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}",
                        mount.source
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Namespaces of other containers, as paths that name them while they run.
    fn joined(&self, host: &HostConfig) -> Result<Joined> {
        let path = |mode: NamespaceMode<'_>, file: &str| -> Result<Option<PathBuf>> {
            let NamespaceMode::Container(name) = mode else { return Ok(None) };
            let other = self.find(name)?;
            let state = other.state();
            match state.status {
                Status::Running | Status::Paused => Ok(Some(format!("/proc/{}/ns/{file}", state.pid).into())),
                Status::Restarting => Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    other.id
                ))),
                _ => Err(Error::Conflict(format!("cannot join {file} of a non running container: {}", other.id))),
            }
        };
        Ok(Joined {
            pid: path(spec::pid_mode(host)?, "pid")?,
            ipc: path(spec::ipc_mode(host)?, "ipc")?,
            network: path(spec::network_mode(host)?, "net")?,
            user: None,
        })
    }
}

/// The name servers of the host. Where a local stub answers at 127.0.0.53, those behind it.
pub(crate) fn host_resolv_conf() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = spec::host_servers(&text);
    if !servers.is_empty() && servers.iter().all(|server| server == "127.0.0.53") {
        return std::fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or(text);
    }
    text
}

/// `/etc/passwd` and `/etc/group` of a root. Missing, odd or huge files read as empty (RT-15).
#[derive(Debug, Default)]
pub(crate) struct UserFiles {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl UserFiles {
    pub(crate) fn read(root: &linux::fs::Root) -> Self {
        let file = |path: &str| root.read(path, FILE_BYTES_MAX as u64).unwrap_or_default();
        Self { passwd: file("etc/passwd"), group: file("etc/group") }
    }

    pub(crate) fn of_process(pid: i32) -> Self {
        match linux::fs::Root::open(format!("/proc/{pid}/root")) {
            Ok(root) => Self::read(&root),
            Err(_) => Self::default(),
        }
    }

    pub(crate) fn resolve(&self, user: &str, group_add: &[String]) -> Result<ExecUser> {
        resolve_user(user, group_add, &self.passwd, &self.group)
    }

    fn size(&self) -> usize {
        self.passwd.len() + self.group.len()
    }
}

/// The user files of images lately started from: a start in a hurry need not mount anything to read them.
#[derive(Debug, Default)]
pub(crate) struct UserFilesCache(std::sync::Mutex<Vec<(vocab::Digest, Arc<UserFiles>)>>);

impl UserFilesCache {
    const IMAGES_MAX: usize = 32;
    const BYTES_MAX: usize = 64 << 10;

    fn get(&self, image: &vocab::Digest) -> Option<Arc<UserFiles>> {
        let known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        known.iter().find(|(digest, _)| digest == image).map(|(_, files)| files.clone())
    }

    fn keep(&self, image: vocab::Digest, files: Arc<UserFiles>) {
        if files.size() > Self::BYTES_MAX {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if known.len() == Self::IMAGES_MAX {
            known.remove(0);
        }
        known.push((image, files));
    }
}

/// A launch that failed, in Docker's words, with the exit code that its command line makes of them.
pub(crate) fn launch_error(record: &ContainerRecord, error: keeper::client::Error) -> Error {
    let keeper::client::Error::Launch(failure) = &error else {
        return Error::Other {
            what: format!("cannot start container {}", record.name),
            kind: error.kind(),
            message: error.to_string(),
        };
    };
    let (exit_code, text) = (launch_exit_code(failure), failure.to_string());
    let program = crate::decide::merge::command_line(&record.config).0;
    Error::Start { exit_code, message: launch_message(&program, exit_code, &text) }
}

/// 127: no such program; 126: not executable; 128: anything else.
pub(crate) fn launch_exit_code(failure: &runtime::Failure) -> i32 {
    let text = failure.to_string();
    let runtime::Cause::Call(error) = &failure.cause else {
        return match () {
            _ if text.contains("executable file not found") || text.contains("no such file or directory") => 127,
            _ if text.contains("permission denied") || text.contains("is a directory") => 126,
            _ => 128,
        };
    };
    if !failure.step.starts_with("exec") {
        return 128;
    }
    match error.errno() {
        linux::Errno::NOENT | linux::Errno::NOTDIR => 127,
        linux::Errno::ACCESS | linux::Errno::NOEXEC | linux::Errno::ISDIR | linux::Errno::PERM => 126,
        _ => 128,
    }
}

/// Docker's command line reads these words to choose its own exit code.
pub(crate) fn launch_message(program: &str, exit_code: i32, text: &str) -> String {
    const HEAD: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init";
    match exit_code {
        127 if program.contains('/') => {
            format!("{HEAD}: exec: \"{program}\": stat {program}: no such file or directory")
        }
        127 => format!("{HEAD}: exec: \"{program}\": executable file not found in $PATH"),
        126 if text.starts_with("exec: ") => format!("{HEAD}: {text}"),
        126 => format!("{HEAD}: exec: \"{program}\": permission denied ({text})"),
        _ => format!("{HEAD}: {text}"),
    }
}
