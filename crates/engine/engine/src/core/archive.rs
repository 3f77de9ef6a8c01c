//! `docker cp`. Every path is resolved beneath the container's root by descriptor: a running container's own view of it,
//! or a detached mount of one that does not run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::archive;
use jiff::Timestamp;
use linux::fs::Root;
use linux::idmap::{IdMaps, IdSpan};

use super::inner::blocking;
use super::start::UserFiles;
use super::{Container, Inner};
use crate::decide::mounts::clean;
use crate::stream::{Body, ByteSink};
use crate::{ByteStream, Error, PathStat, Result, Status};

#[derive(Debug, Clone, Copy)]
pub(crate) struct PutOptions {
    pub(crate) no_overwrite_dir_non_dir: bool,
    pub(crate) copy_uid_gid: bool,
}

/// A root and a path in it.
struct Place {
    root: Root,
    path: PathBuf,
    /// What the container's ids are here, where it has not the host's.
    ids: Option<IdMaps>,
    /// Keeps a volume reachable meanwhile.
    _volume: Option<crate::volumes::Held>,
}

impl Inner {
    /// Blocking.
    pub(crate) fn archive_stat(self: &Arc<Self>, container: &Container, path: &str) -> Result<PathStat> {
        let place = self.place(container, path, false)?;
        let facts = archive::stat(&place.root, &place.path).map_err(|e| failed(container, path, e))?;
        Ok(shown(path, facts))
    }

    pub(crate) async fn archive_get(
        self: &Arc<Self>,
        container: &Arc<Container>,
        path: &str,
    ) -> Result<(PathStat, ByteStream)> {
        let (inner, held, asked) = (self.clone(), container.clone(), path.to_owned());
        let (place, stat) = blocking(move || -> Result<_> {
            let place = inner.place(&held, &asked, false)?;
            let facts = archive::stat(&place.root, &place.path).map_err(|e| failed(&held, &asked, e))?;
            Ok((place, shown(&asked, facts)))
        })
        .await?;
        let (sender, stream) = ByteStream::channel(16);
        let (inner, held) = (self.clone(), container.clone());
        tokio::task::spawn_blocking(move || {
            let mut sink = ByteSink::new(sender.clone());
            let packed = archive::pack_of(&place.root, &place.path, place.ids.as_ref(), &mut sink).and_then(|()| {
                std::io::Write::flush(&mut sink).map_err(|source| image::Error::Stream { what: "copy", source })
            });
            match packed {
                Ok(()) => inner.container_event(&held, "archive-path", &[]),
                Err(error) => drop(sender.blocking_send(Err(error.into()))),
            }
        });
        Ok((stat, stream))
    }

    /// Blocking.
    pub(crate) fn archive_put(
        self: &Arc<Self>,
        container: &Container,
        path: &str,
        options: PutOptions,
        mut body: Body,
    ) -> Result<()> {
        let record = container.record();
        let writable = record.mounts.iter().any(|m| m.rw && inside(&clean(path), &m.destination).is_some());
        if record.host.readonly_rootfs && !writable {
            return Err(Error::Other {
                what: format!("cannot copy to {path}"),
                kind: vocab::ErrorKind::Forbidden,
                message: "container rootfs is marked read-only".into(),
            });
        }
        // Nothing may mount the root file system a second time for writing.
        let running = matches!(container.status(), Status::Running | Status::Paused);
        let _alone = (!running).then(|| container.operation.blocking_lock());
        let place = self.place(container, path, true)?;
        // Docker's rule, whatever the flag is called: files become the user's that the container runs as, if it names one.
        let owner = if options.copy_uid_gid && !record.config.user.is_empty() {
            let user = UserFiles::read(&place.root).resolve(&record.config.user, &[])?;
            Some((user.uid, user.gid))
        } else {
            None
        };
        let options = archive::UnpackOptions {
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
            owner,
            rootless: false,
        };
        unpack(&place, &mut body, &options).map_err(|e| failed(container, path, e))?;
        self.container_event(container, "extract-to-dir", &[]);
        Ok(())
    }

    /// Where a path of the container is. One that runs shows everything that it has mounted; of one that does not, a
    /// volume or bind is entered by its source.
    fn place(self: &Arc<Self>, container: &Container, path: &str, writable: bool) -> Result<Place> {
        let record = container.record();
        let state = container.state();
        if matches!(state.status, Status::Running | Status::Paused) {
            let root = Root::open(format!("/proc/{}/root", state.pid))?;
            // The number may have been given to somebody else meanwhile (RT-31).
            let ours = container.pidfd().is_ok_and(|fd| !linux::pidfd::has_ended(&*fd).unwrap_or(true));
            if !ours {
                return Err(container.not_running());
            }
            return Ok(Place { root, path: absolute(path), ids: record.users.clone(), _volume: None });
        }
        let cleaned = clean(path);
        let mounts = record.mounts.iter().filter(|m| !m.source.is_empty() || !m.volume.is_empty());
        let covering = mounts.filter_map(|m| Some((m, inside(&cleaned, &m.destination)?)));
        if let Some((mount, rest)) = covering.max_by_key(|(m, _)| m.destination.len()) {
            // A slash at the end means something, and cleaning takes it away.
            let slash = if path.ends_with('/') || path.ends_with("/.") { "/." } else { "" };
            let volume = match mount.volume.as_str() {
                "" => None,
                name => Some(crate::volumes::Held::new(self.clone(), name.to_owned())?),
            };
            let mut root = match &volume {
                Some(volume) => volume.root()?,
                None if mount.kind == crate::MountKind::Image => self.open_image(container, mount)?,
                None => Root::open(&mount.source)?,
            };
            if !mount.subpath.is_empty() {
                root = root.sub(&mount.subpath)?;
            }
            return Ok(Place { root, path: PathBuf::from(format!("/{rest}{slash}")), ids: None, _volume: volume });
        }
        container.let_root_go();
        let root = Root::from_fd(self.images.mount(&container.id.to_string(), writable)?);
        Ok(Place { root, path: absolute(path), ids: record.users.as_ref().map(on_disk), _volume: None })
    }
}

/// Files on disk have the ids that the container sees, and none that it does not have.
fn on_disk(users: &IdMaps) -> IdMaps {
    let same = |spans: &Vec<IdSpan>| spans.iter().map(|span| IdSpan { outside: span.inside, ..*span }).collect();
    IdMaps { uid: same(&users.uid), gid: same(&users.gid) }
}

fn unpack(place: &Place, body: &mut Body, options: &archive::UnpackOptions) -> image::Result<()> {
    let mut put = || archive::unpack_of(&place.root, &place.path, place.ids.as_ref(), body, options);
    let Some(ids) = &place.ids else { return put() };
    let root = |spans| linux::idmap::outside(spans, 0).unwrap_or(linux::idmap::OVERFLOW);
    let (uid, gid) = (root(&ids.uid), root(&ids.gid));
    // A thread of its own: whose files it makes is a thread's, and stays.
    std::thread::scope(|scope| {
        let put = scope.spawn(move || {
            linux::cred::make_files_as(uid, gid)
                .map_err(|source| image::Error::Kernel { what: "make files as the container's root".into(), source })?;
            put()
        });
        put.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

/// What follows `dir` in `path`, if `path` is below it or is it.
fn inside<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(dir)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

fn failed(container: &Container, path: &str, error: image::Error) -> Error {
    match error.kind() {
        vocab::ErrorKind::NotFound => Error::NoSuchPath { container: container.id.to_string(), path: path.to_owned() },
        _ => error.into(),
    }
}

fn shown(path: &str, facts: archive::PathFacts) -> PathStat {
    let above = clean(&format!("{path}/.."));
    let link_target = facts.link_target.map_or_else(String::new, |target| {
        let target = target.to_string_lossy();
        if target.starts_with('/') { clean(&target) } else { clean(&format!("{above}/{target}")) }
    });
    PathStat {
        name: facts.name,
        size_bytes: facts.size_bytes,
        mode: facts.mode,
        mtime: Timestamp::new(facts.mtime.secs, facts.mtime.nanos as i32).unwrap_or_default(),
        link_target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_inside_a_mount_by_whole_components() {
        let rows = [
            ("/data", "/data", Some("")),
            ("/data/x/y", "/data", Some("x/y")),
            ("/database", "/data", None),
            ("/", "/data", None),
        ];
        for (path, dir, wanted) in rows {
            assert_eq!(inside(path, dir), wanted, "{path} {dir}");
        }
    }
}
