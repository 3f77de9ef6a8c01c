//! Create: check everything, take the name, make the root file system, commit, publish.

use std::sync::Arc;

use jiff::Timestamp;

use super::records::{CONTAINERS, ContainerRecord, StateRecord, VOLUMES, VolumeRecord};
use super::{Container, Inner};
use crate::decide::merge::merge_config;
use crate::decide::mounts::{ContainerMount, parse_volumes_from, plan_mounts};
use crate::decide::names::{generate_name, parse_name};
use crate::decide::{caps, request, signal};
use crate::spec::{self, NamespaceMode};
use crate::{ContainerId, CreateRequest, Created, Error, HostConfig, MountKind, Result};

/// The engine's own hard limit: what a container may be given without the right to raise it.
fn hard_limit(name: &str) -> u64 {
    let resource = linux::rlimit::Resource::from_name(name);
    resource.and_then(|resource| linux::rlimit::get(resource).ok()).map_or(u64::MAX, |limit| limit.hard)
}

impl Inner {
    /// Blocking.
    pub(crate) fn create(&self, request: CreateRequest) -> Result<Created> {
        let CreateRequest { name, platform, config, mut host, networks } = request;
        let mut warnings = Vec::new();
        request::check_config(&config)?;
        request::fill_defaults(&mut host, &self.facts);
        request::check_host(&host, self.facts.cpus, &mut warnings)?;
        request::check_shared(&config, &host)?;
        // CAP_SYS_RESOURCE.
        let may_raise = self.facts.capabilities >> 24 & 1 == 1;
        request::warn_of_lesser(&host, may_raise, hard_limit, &mut warnings);
        let mut asked = networks;
        if !config.mac_address.is_empty() {
            // The older place of the first network's.
            let settings = asked.entry(host.network_mode.clone()).or_default();
            if settings.mac_address.is_empty() {
                settings.mac_address.clone_from(&config.mac_address);
            }
        }
        let user_network = !matches!(host.network_mode.as_str(), "bridge" | "host" | "none");
        if user_network && !host.links.is_empty() {
            let settings = asked.entry(host.network_mode.clone()).or_default();
            settings.links.extend(host.links.iter().cloned());
        }
        let networks = self.networks.check_request(&mut host.network_mode, asked).map_err(|error| match error {
            // Docker finds out as it starts the container.
            Error::NoSuchNetwork(_) => Error::NotFound(format!("failed to set up container networking: {error}")),
            other => other,
        })?;
        crate::decide::ports::wanted_ports(&host, &config.exposed_ports)?;
        spec::check_files(&config.hostname, &config.domainname, &host)?;
        caps::decide_caps(&host.cap_add, &host.cap_drop, host.privileged, self.facts.capabilities)?;
        let security = spec::parse_security_opt(&host.security_opt)?;
        super::seccomp::check(&security.seccomp)?;
        self.settle_joined(&mut host)?;

        let image = self.image_for_create(&config.image, platform.as_deref())?;
        let mut config = merge_config(config, &image.config)?;
        request::check_config(&config)?;
        if let Some(name) = &config.stop_signal {
            signal::parse_signal(name)?;
        }
        let mut mounts = plan_mounts(&config, &host)?;
        self.add_volumes_from(&host, &mut mounts)?;
        for mount in mounts.iter().filter(|m| m.kind == MountKind::Bind && !m.create_source) {
            if !std::path::Path::new(&mount.source).exists() {
                return Err(Error::Invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    mount.source
                )));
            }
        }

        let id = self.new_id();
        if config.hostname.is_empty() {
            let shared =
                spec::uts_mode(&host)? == NamespaceMode::Host || spec::network_mode(&host)? == NamespaceMode::Host;
            config.hostname = if shared { super::info::hostname() } else { id.short() };
        }
        let name = self.take_name(name.as_deref(), id)?;
        let settled = self.settle_users(id, &host, &mounts).and_then(|users| {
            self.settle_images(id, &mut mounts)?;
            Ok((users, self.settle_volumes(id, &mut mounts)?))
        });
        let (users, volumes) = match settled {
            Ok(settled) => settled,
            Err(error) => {
                self.registry().release(&name, id);
                return Err(error);
            }
        };
        let record = ContainerRecord {
            name: name.clone(),
            created_at: Timestamp::now(),
            image: image.id,
            platform: "linux".into(),
            config,
            host,
            mounts,
            networks,
            users,
        };
        match self.commit_new(id, record, &volumes) {
            Ok(container) => {
                self.volumes_settled(id, &volumes, true);
                self.container_event(&container, "create", &[]);
                Ok(Created { id, warnings })
            }
            Err(error) => {
                self.volumes_settled(id, &volumes, false);
                self.registry().release(&name, id);
                Err(error)
            }
        }
    }

    fn take_name(&self, asked: Option<&str>, id: ContainerId) -> Result<String> {
        if let Some(asked) = asked.filter(|n| !n.is_empty()) {
            let name = parse_name(asked)?.to_owned();
            self.registry().reserve_name(&name, id)?;
            return Ok(name);
        }
        for attempt in 0.. {
            let name = generate_name(u64::from_le_bytes(self.random_bytes()), attempt);
            if self.registry().reserve_name(&name, id).is_ok() {
                return Ok(name);
            }
        }
        unreachable!("later attempts have ever more digits")
    }

    /// The root file system first, then the record: a crash in between leaves a snapshot that nobody speaks of, which
    /// the next start removes.
    fn commit_new(
        &self,
        id: ContainerId,
        record: ContainerRecord,
        volumes: &[(String, VolumeRecord)],
    ) -> Result<Arc<Container>> {
        let key = id.to_string();
        vocab::crash::point("engine.create.before_snapshot");
        // Its folders go away again unless they are kept.
        let snapshot = self.images.prepare_files(&key, &record.image)?;
        let images = self.prepare_images(id, &record.mounts)?;
        vocab::crash::point("engine.create.after_snapshot");
        // One commit for all of it. A state is written when there is one: a record without is that of a new container.
        self.db.write(|txn| {
            snapshot.record(txn)?;
            images.iter().try_for_each(|image| image.record(txn))?;
            for (name, volume) in volumes {
                txn.put(&VOLUMES, name, volume)?;
            }
            txn.put(&CONTAINERS, &id, &record)?;
            Ok::<_, Error>(())
        })?;
        snapshot.keep();
        images.into_iter().for_each(|image| drop(image.keep()));
        vocab::crash::point("engine.create.after_commit");
        let container = Arc::new(Container::new(id, record, StateRecord::default()));
        self.registry().insert(container.clone());
        Ok(container)
    }

    fn add_volumes_from(&self, host: &HostConfig, mounts: &mut Vec<ContainerMount>) -> Result<()> {
        for text in &host.volumes_from {
            let from = parse_volumes_from(text)?;
            let other = self.find(from.container).map_err(|error| match error {
                Error::NoSuchContainer(_) => {
                    Error::NotFound(format!("could not get container for {}: {error}", from.container))
                }
                other => other,
            })?;
            for mount in other.record().mounts.iter().filter(|m| m.kind != MountKind::Tmpfs) {
                // What the new container's image declares yields, what its caller asked for stays.
                let covered = mounts.iter().position(|m| m.destination == mount.destination);
                match covered {
                    Some(at) if mounts[at].anonymous => drop(mounts.remove(at)),
                    Some(_) => continue,
                    None => {}
                }
                mounts.push(ContainerMount {
                    rw: mount.rw && !from.read_only,
                    mode: from.mode.to_owned(),
                    ..mount.clone()
                });
            }
        }
        Ok(())
    }

    /// Containers whose namespaces are to be joined must exist. They are remembered by id: names may change.
    fn settle_joined(&self, host: &mut HostConfig) -> Result<()> {
        let joined =
            [("network", spec::network_mode(host)?), ("PID", spec::pid_mode(host)?), ("IPC", spec::ipc_mode(host)?)];
        let joined = joined.into_iter().filter_map(|(what, mode)| match mode {
            NamespaceMode::Container(name) => Some((what, name.to_owned())),
            _ => None,
        });
        for (what, name) in joined.collect::<Vec<_>>() {
            let other = self.find(&name).map_err(|error| match error {
                Error::NoSuchContainer(_) if what == "network" => {
                    Error::NotFound(format!("joining network namespace of container: {error}"))
                }
                other => other,
            })?;
            let mode = match what {
                "network" => &mut host.network_mode,
                "PID" => &mut host.pid_mode,
                _ => &mut host.ipc_mode,
            };
            *mode = format!("container:{}", other.id);
        }
        Ok(())
    }
}
