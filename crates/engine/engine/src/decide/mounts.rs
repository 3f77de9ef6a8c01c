//! What a request says about mounts, turned into one checked list: binds, volumes and tmpfs by destination.
//!
//! Pure: host paths are checked for existence and volumes made by the shell. Paths inside the container are resolved by
//! the runtime, beneath the new root.

use std::collections::BTreeMap;

use linux::idmap::{IdMaps, IdSpan};
use serde::{Deserialize, Serialize};

use crate::volumes::options::check_name;
use crate::{ContainerConfig, Error, HostConfig, MountKind, MountRequest, Result};

/// One mount of a container, as it is stored and given to every start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerMount {
    pub(crate) kind: MountKind,
    /// For volumes: the name; empty until the shell has made an anonymous one.
    pub(crate) volume: String,
    pub(crate) anonymous: bool,
    /// For binds: the host path. For volumes: filled by the shell.
    pub(crate) source: String,
    /// Cleaned and absolute.
    pub(crate) destination: String,
    pub(crate) rw: bool,
    /// The options as given with `--volume`.
    pub(crate) mode: String,
    pub(crate) propagation: String,
    pub(crate) recursive: bool,
    pub(crate) read_only_submounts: Submounts,
    /// Make a missing host path (a directory) at start.
    pub(crate) create_source: bool,
    /// Fill a new and empty volume with what the image has at the destination.
    pub(crate) copy_up: bool,
    pub(crate) subpath: String,
    /// For a volume that does not exist yet.
    pub(crate) volume_labels: BTreeMap<String, String>,
    pub(crate) volume_options: BTreeMap<String, String>,
    /// Of a volume: whose it is or is to be; empty: whoever has it, else ours.
    pub(crate) driver: String,
    /// Of an image: as it was asked for, and which that was then.
    pub(crate) image_name: String,
    pub(crate) image: Option<vocab::Digest>,
    pub(crate) tmpfs_options: Vec<String>,
    pub(crate) ids: MountIds,
}

/// Whose the files of a bind or volume are in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountIds {
    /// Whose they are on the host.
    #[default]
    Host,
    /// The container's user 0 has what is the host's user 0's, and so on.
    Container,
    /// By maps of their own: the file's id is the inner one, the host's the outer one.
    Maps(IdMaps),
}

/// What a read-only bind does to the mounts beneath its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Submounts {
    #[default]
    ReadOnly,
    /// They stay as they are.
    Untouched,
}

impl Default for ContainerMount {
    fn default() -> Self {
        Self {
            kind: MountKind::Bind,
            volume: String::new(),
            anonymous: false,
            source: String::new(),
            destination: String::new(),
            rw: true,
            mode: String::new(),
            propagation: String::new(),
            recursive: true,
            read_only_submounts: Submounts::ReadOnly,
            create_source: false,
            copy_up: false,
            subpath: String::new(),
            volume_labels: BTreeMap::new(),
            volume_options: BTreeMap::new(),
            driver: String::new(),
            image_name: String::new(),
            image: None,
            tmpfs_options: Vec::new(),
            ids: MountIds::Host,
        }
    }
}

/// `--volumes-from`: whose, and with what mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumesFrom<'a> {
    pub(crate) container: &'a str,
    pub(crate) read_only: bool,
    pub(crate) mode: &'a str,
}

/// Everything but `--volumes-from`, in order of precedence: binds, mounts, tmpfs, then the anonymous volumes of
/// `config.volumes` that nothing else covers.
pub(crate) fn plan_mounts(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<ContainerMount>> {
    let mut mounts: Vec<ContainerMount> = Vec::new();
    let mut add = |mount: ContainerMount| {
        if mounts.iter().any(|m| m.destination == mount.destination) {
            return Err(Error::Invalid(format!("Duplicate mount point: {}", mount.destination)));
        }
        mounts.push(mount);
        Ok(())
    };
    for bind in &host.binds {
        let mut mount = parse_bind(bind)?;
        if mount.kind == MountKind::Volume {
            mount.driver.clone_from(&host.volume_driver);
        }
        add(mount)?;
    }
    for mount in &host.mounts {
        add(check_mount(mount)?)?;
    }
    for (destination, options) in &host.tmpfs {
        add(parse_tmpfs(destination, options)?)?;
    }
    for destination in &config.volumes {
        let destination = clean_destination(destination, &format!("invalid volume specification: '{destination}': "))?;
        if !mounts.iter().any(|m| m.destination == destination) {
            mounts.push(ContainerMount {
                kind: MountKind::Volume,
                anonymous: true,
                destination,
                copy_up: true,
                driver: host.volume_driver.clone(),
                ..Default::default()
            });
        }
    }
    Ok(mounts)
}

/// `container[:mode]`.
pub(crate) fn parse_volumes_from(text: &str) -> Result<VolumesFrom<'_>> {
    let (container, mode) = text.split_once(':').unwrap_or((text, "rw"));
    if container.is_empty() {
        return Err(Error::Invalid(format!("volumes-from specification cannot be an empty string: {text:?}")));
    }
    let known = |word: &str| matches!(word, "ro" | "rw" | "z" | "Z" | "nocopy");
    if !mode.split(',').all(known) {
        return Err(Error::Invalid(format!("invalid mode: {mode}")));
    }
    Ok(VolumesFrom { container, read_only: mode.split(',').any(|w| w == "ro"), mode })
}

/// `source:destination[:options]`, `destination` alone (an anonymous volume), or `name:destination`.
fn parse_bind(text: &str) -> Result<ContainerMount> {
    let refused = |why: &str| Error::Invalid(format!("invalid volume specification: '{text}'{why}"));
    let fields: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match fields[..] {
        [destination] => ("", destination, ""),
        [source, destination] => (source, destination, ""),
        [source, destination, options] => (source, destination, options),
        _ => return Err(refused("")),
    };
    if destination.is_empty() || (fields.len() > 1 && source.is_empty()) {
        return Err(refused(""));
    }
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let before = format!("invalid volume specification: '{text}': invalid mount config for type \"{kind}\": ");
    let mut mount = ContainerMount { destination: clean_destination(destination, &before)?, ..Default::default() };
    options.clone_into(&mut mount.mode);
    if source.starts_with('/') {
        mount.source = clean(source);
        mount.create_source = true;
        mount.propagation = "rprivate".into();
    } else {
        mount.kind = MountKind::Volume;
        mount.copy_up = true;
        if source.is_empty() {
            mount.anonymous = true;
        } else {
            check_name(source)?;
            source.clone_into(&mut mount.volume);
        }
    }
    let mut seen_mode = false;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" | "rw" if seen_mode => return Err(Error::Invalid(format!("invalid mode: {options}"))),
            "ro" | "rw" => {
                seen_mode = true;
                mount.rw = option == "rw";
            }
            // Labels for SELinux and hints for desktop file sharing: nothing to do on this kind of host.
            "z" | "Z" | "consistent" | "cached" | "delegated" | "default" => {}
            "nocopy" if mount.kind == MountKind::Volume => mount.copy_up = false,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if mount.kind == MountKind::Bind => {
                mount.propagation = option.into();
            }
            "rbind" if mount.kind == MountKind::Bind => mount.recursive = true,
            "bind" if mount.kind == MountKind::Bind => mount.recursive = false,
            "idmap" if mount.ids == MountIds::Host => mount.ids = MountIds::Container,
            idmap if idmap.starts_with("idmap=") && mount.ids == MountIds::Host => {
                let ids = parse_idmap(&idmap["idmap=".len()..]);
                mount.ids = ids.ok_or_else(|| Error::Invalid(format!("invalid mode: {options}")))?;
            }
            _ => return Err(Error::Invalid(format!("invalid mode: {options}"))),
        }
    }
    Ok(mount)
}

/// Podman's words: `uids=FILE-HOST-COUNT[#...][;gids=...]`, where the files' ids are and what they are on the host. Of what is left out all
/// ids stay as they are.
fn parse_idmap(text: &str) -> Option<MountIds> {
    const ALL: IdSpan = IdSpan { inside: 0, outside: 0, count: u32::MAX };
    let (mut uid, mut gid) = (None, None);
    for part in text.split(';') {
        let (name, spans) = part.split_once('=')?;
        let list = match name {
            "uids" => &mut uid,
            "gids" => &mut gid,
            _ => return None,
        };
        if list.replace(parse_spans(spans)?).is_some() {
            return None;
        }
    }
    Some(MountIds::Maps(IdMaps { uid: uid.unwrap_or_else(|| vec![ALL]), gid: gid.unwrap_or_else(|| vec![ALL]) }))
}

fn parse_spans(text: &str) -> Option<Vec<IdSpan>> {
    let mut spans: Vec<IdSpan> = Vec::new();
    for triple in text.split('#') {
        let numbers: Vec<u32> = triple.split('-').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [inside, outside, count] = numbers[..] else { return None };
        let span = IdSpan { inside, outside, count };
        // What the kernel would refuse: nothing, beyond the largest id, one id twice, too many lines.
        let flipped = |span: &IdSpan| IdSpan { inside: span.outside, outside: span.inside, count: span.count };
        let clash = |other: &IdSpan| span.shares_outside(other) || flipped(&span).shares_outside(&flipped(other));
        let fits = count > 0 && inside.checked_add(count).is_some() && outside.checked_add(count).is_some();
        if !fits || spans.iter().any(clash) || spans.len() == 340 {
            return None;
        }
        spans.push(span);
    }
    Some(spans)
}

fn check_mount(request: &MountRequest) -> Result<ContainerMount> {
    let kind = match request.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    let refused = |why: String| Error::Invalid(format!("invalid mount config for type \"{kind}\": {why}"));
    if request.target.is_empty() {
        return Err(refused("field Target must not be empty".into()));
    }
    if !request.target.starts_with('/') {
        return Err(refused(format!("invalid mount path: '{}' mount path must be absolute", request.target)));
    }
    let destination = clean(&request.target);
    if destination == "/" {
        return Err(refused("invalid specification: destination can't be '/'".into()));
    }
    let mut mount = ContainerMount { kind: request.kind, destination, rw: !request.read_only, ..Default::default() };
    let foreign = |what: &str| refused(format!("field {what} must not be specified"));
    let options = [
        (MountKind::Bind, "BindOptions", request.bind.is_some()),
        (MountKind::Volume, "VolumeOptions", request.volume.is_some()),
        (MountKind::Tmpfs, "TmpfsOptions", request.tmpfs.is_some()),
        (MountKind::Image, "ImageOptions", request.image_subpath.is_some()),
    ];
    if let Some((_, field, _)) = options.iter().find(|(kind, _, given)| *given && *kind != request.kind) {
        return Err(foreign(field));
    }
    match request.kind {
        MountKind::Bind => {
            if request.source.is_empty() {
                return Err(refused("field Source must not be empty".into()));
            }
            if !request.source.starts_with('/') {
                return Err(refused(format!("invalid mount path: '{}' mount path must be absolute", request.source)));
            }
            mount.source = clean(&request.source);
            let bind = request.bind.clone().unwrap_or_default();
            mount.propagation = match bind.propagation.as_str() {
                "" => "rprivate".into(),
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => bind.propagation,
                other => return Err(refused(format!("invalid propagation mode: {other}"))),
            };
            mount.recursive = !bind.non_recursive;
            mount.create_source = bind.create_mountpoint;
            if bind.read_only_non_recursive || bind.non_recursive {
                mount.read_only_submounts = Submounts::Untouched;
            }
            if bind.read_only_force_recursive {
                if !request.read_only {
                    return Err(refused("ReadOnlyForceRecursive requires ReadOnly".into()));
                }
                if bind.read_only_non_recursive {
                    return Err(refused("ReadOnlyForceRecursive conflicts with ReadOnlyNonRecursive".into()));
                }
                if mount.propagation != "rprivate" {
                    return Err(refused("ReadOnlyForceRecursive requires Propagation to be \"rprivate\"".into()));
                }
            }
        }
        MountKind::Volume => {
            let options = request.volume.clone().unwrap_or_default();
            mount.driver = options.driver;
            mount.copy_up = !options.no_copy && options.subpath.is_empty();
            mount.volume_labels = options.labels;
            mount.volume_options = options.driver_options;
            mount.anonymous = request.source.is_empty();
            if !mount.anonymous {
                check_name(&request.source)?;
                mount.volume = request.source.clone();
            }
            mount.subpath = subpath(&options.subpath)
                .ok_or_else(|| refused("invalid volume subpath: must be a relative path inside the volume".into()))?;
        }
        MountKind::Tmpfs => {
            if !request.source.is_empty() {
                return Err(foreign("Source"));
            }
            let options = request.tmpfs.clone().unwrap_or_default();
            let mut own = Vec::new();
            if request.read_only {
                own.push("ro".to_owned());
            }
            if options.mode != 0 {
                own.push(format!("mode={:o}", options.mode));
            }
            if options.size_bytes < 0 {
                return Err(refused("the tmpfs size must not be negative".into()));
            }
            if options.size_bytes > 0 {
                own.push(format!("size={}", options.size_bytes));
            }
            own.extend(options.options.iter().map(|pair| pair.join("=")));
            mount.tmpfs_options = tmpfs_options(&own)?;
        }
        MountKind::Image => {
            if request.source.is_empty() {
                return Err(refused("field Source must not be empty".into()));
            }
            mount.rw = false;
            mount.image_name.clone_from(&request.source);
            mount.subpath = subpath(request.image_subpath.as_deref().unwrap_or_default())
                .ok_or_else(|| refused("invalid image subpath: must be a relative path inside the image".into()))?;
        }
    }
    Ok(mount)
}

/// A path that does not leave what it is in.
fn subpath(text: &str) -> Option<String> {
    (!text.starts_with('/') && text.split('/').all(|part| part != "..")).then(|| text.to_owned())
}

fn parse_tmpfs(destination: &str, options: &str) -> Result<ContainerMount> {
    let own: Vec<String> = options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
    let tmpfs_options = tmpfs_options(&own)?;
    Ok(ContainerMount {
        kind: MountKind::Tmpfs,
        destination: clean_destination(destination, "")?,
        rw: !tmpfs_options.iter().any(|o| o == "ro"),
        mode: options.into(),
        tmpfs_options,
        ..Default::default()
    })
}

/// Docker's defaults, then the caller's: the last of a pair of opposites wins.
fn tmpfs_options(own: &[String]) -> Result<Vec<String>> {
    const PAIRS: [(&str, &str); 8] = [
        ("ro", "rw"),
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("noexec", "exec"),
        ("sync", "async"),
        ("dirsync", "async"),
        ("noatime", "atime"),
        ("nodiratime", "diratime"),
    ];
    const VALUED: [&str; 8] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"];
    const PROPAGATION: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
    let mut merged: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for option in own {
        let name = option.split('=').next().unwrap_or_default();
        let flag = PAIRS.iter().any(|(a, b)| option == a || option == b);
        let other =
            ["relatime", "norelatime", "strictatime", "nostrictatime", "mand", "nomand"].contains(&option.as_str());
        let valued = option.contains('=') && VALUED.contains(&name);
        if !(flag || other || valued || PROPAGATION.contains(&option.as_str())) {
            return Err(Error::Invalid(format!("invalid tmpfs option {option:?}")));
        }
        merged.retain(|m| {
            let opposite = PAIRS.iter().any(|(a, b)| (m == a && option == b) || (m == b && option == a));
            let replaced = m == option || (valued && m.split('=').next() == Some(name));
            !opposite && !replaced
        });
        // The opposites of flags are the kernel's defaults: leaving the flag out says it.
        if !["suid", "dev", "exec", "async", "atime", "diratime"].contains(&option.as_str()) {
            merged.push(option.clone());
        }
    }
    Ok(merged)
}

/// `before`: how an error begins, which tells what the path was part of.
fn clean_destination(path: &str, before: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::Invalid(format!("{before}invalid mount path: '{path}' mount path must be absolute")));
    }
    match clean(path) {
        root if root == "/" => Err(Error::Invalid(format!("{before}invalid specification: destination can't be '/'"))),
        path => Ok(path),
    }
}

/// Removes `.`, `..`, and doubled slashes lexically, as Docker cleans destinations.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(mount: &ContainerMount) -> String {
        let mut text = format!("{:?} {}{} -> {}", mount.kind, mount.source, mount.volume, mount.destination);
        for (set, word) in [
            (!mount.rw, "ro"),
            (!mount.recursive, "bind"),
            (mount.anonymous, "anonymous"),
            (mount.copy_up, "copy"),
            (mount.create_source, "create"),
        ] {
            if set {
                text.push(' ');
                text.push_str(word);
            }
        }
        for extra in [&mount.propagation, &mount.tmpfs_options.join(",")] {
            if !extra.is_empty() {
                text.push(' ');
                text.push_str(extra);
            }
        }
        text
    }

    #[test]
    fn binds_read_as_docker_reads_them() {
        let rows = [
            ("/a:/b", "Bind /a -> /b create rprivate"),
            ("/a//x/../y:/b/:ro", "Bind /a/y -> /b ro create rprivate"),
            ("/a:/b:rslave,z", "Bind /a -> /b create rslave"),
            ("data:/b", "Volume data -> /b copy"),
            ("data:/b:nocopy,ro", "Volume data -> /b ro"),
            ("/b", "Volume  -> /b anonymous copy"),
        ];
        for (text, wanted) in rows {
            assert_eq!(show(&parse_bind(text).unwrap()), wanted, "{text}");
        }
        for bad in [
            "",
            ":",
            ":/b",
            "/a:",
            "/a:b",
            "/a:/",
            "/a:/b:ro:x",
            "/a:/b:ro,rw",
            "/a:/b:what",
            "d:/b",
            "a/b:/c",
            "../x:/c",
            "/a:/b:nocopy",
        ] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_kind_refuses_the_options_of_the_others() {
        let kinds = [
            (MountKind::Bind, "/data"),
            (MountKind::Volume, "data"),
            (MountKind::Tmpfs, ""),
            (MountKind::Image, "data"),
        ];
        for (kind, source) in kinds {
            for (given, _) in kinds {
                let request = MountRequest {
                    kind,
                    source: source.into(),
                    target: "/b".into(),
                    bind: (given == MountKind::Bind).then(Default::default),
                    volume: (given == MountKind::Volume).then(Default::default),
                    tmpfs: (given == MountKind::Tmpfs).then(Default::default),
                    image_subpath: (given == MountKind::Image).then(|| "c".into()),
                    read_only: false,
                    consistency: String::new(),
                };
                match check_mount(&request) {
                    Ok(_) => assert_eq!(kind, given),
                    Err(error) => {
                        assert_ne!(kind, given, "{error}");
                        let wanted = format!(
                            "invalid mount config for type \"{}\": field {given:?}Options must not be specified",
                            format!("{kind:?}").to_lowercase()
                        );
                        assert_eq!(error.to_string(), wanted);
                    }
                }
            }
        }
    }

    #[test]
    fn a_mount_has_the_ids_that_it_was_asked_for() {
        let shown = |text: &str| match parse_bind(text).map(|mount| mount.ids) {
            Ok(MountIds::Maps(maps)) => {
                let side = |spans: &[IdSpan]| linux::idmap::lines(spans).trim_end().replace('\n', ",");
                format!("{} | {}", side(&maps.uid), side(&maps.gid))
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        };
        let rows = [
            ("/a:/b", "Host"),
            ("/a:/b:ro,idmap", "Container"),
            ("data:/b:idmap=uids=0-1000-1", "0 1000 1 | 0 0 4294967295"),
            ("/a:/b:idmap=uids=0-1000-1#1000-0-1;gids=0-5-10", "0 1000 1,1000 0 1 | 0 5 10"),
            ("/a:/b:idmap=gids=7-8-9", "0 0 4294967295 | 7 8 9"),
        ];
        for (text, wanted) in rows {
            assert_eq!(shown(text), wanted, "{text}");
        }
        for bad in [
            "idmap=",
            "idmap=uids",
            "idmap=uids=",
            "idmap=uids=0-1",
            "idmap=uids=0-1-0",
            "idmap=uids=0-1--1",
            "idmap=uids=0-1-4294967295",
            "idmap=uids=0-1-x",
            "idmap=@uids=0-1-1",
            "idmap=uids=0-5-9#3-50-1",
            "idmap=uids=0-5-9#30-7-1",
            "idmap=uids=0-1-1;uids=0-1-1",
            "idmap=uids=0-1-1;groups=0-1-1",
            "idmap,idmap",
            "idmap,idmap=uids=0-1-1",
            "idmaps",
        ] {
            assert_eq!(shown(&format!("/a:/b:{bad}")), format!("invalid mode: {bad}"));
        }
        let many = (0..341).map(|n| format!("{n}-{n}-1")).collect::<Vec<_>>().join("#");
        assert!(shown(&format!("/a:/b:idmap=uids={many}")).starts_with("invalid mode"));
    }

    #[test]
    fn tmpfs_options_merge_over_the_defaults() {
        let rows = [
            ("", "noexec,nosuid,nodev"),
            ("exec,size=64k", "nosuid,nodev,size=64k"),
            ("size=1m,size=2m,rw", "noexec,nosuid,nodev,size=2m,rw"),
            ("ro,mode=1770", "noexec,nosuid,nodev,ro,mode=1770"),
        ];
        for (options, wanted) in rows {
            assert_eq!(parse_tmpfs("/run", options).unwrap().tmpfs_options.join(","), wanted);
        }
        for bad in ["lowerdir=/", "size", "what", "exec=1"] {
            assert!(parse_tmpfs("/run", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_images_volume_yields_to_what_was_asked_for_and_duplicates_are_refused() {
        let config = ContainerConfig { volumes: ["/data/".into(), "/b".into()].into(), ..Default::default() };
        let host = HostConfig { binds: vec!["/a:/b".into()], ..Default::default() };
        let got: Vec<String> = plan_mounts(&config, &host).unwrap().iter().map(show).collect();
        assert_eq!(got, ["Bind /a -> /b create rprivate", "Volume  -> /data anonymous copy"]);
        let host = HostConfig { binds: vec!["/a:/b".into(), "/c:/b/".into()], ..Default::default() };
        assert_eq!(plan_mounts(&config, &host).unwrap_err().to_string(), "Duplicate mount point: /b");
    }

    #[test]
    fn volumes_from_reads_name_and_mode() {
        assert_eq!(parse_volumes_from("x:ro").unwrap(), VolumesFrom { container: "x", read_only: true, mode: "ro" });
        assert!(!parse_volumes_from("x").unwrap().read_only);
        assert!(parse_volumes_from(":ro").is_err() && parse_volumes_from("x:what").is_err());
    }
}
