//! `RUN --mount=type=...`.

use super::Files;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// Absolute; empty for a secret that is only a variable.
    pub target: String,
    /// What a bind or cache mount shows; `None`: nothing (an empty cache).
    pub from: Option<Files>,
    /// Path within [`Mount::from`].
    pub source: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    Bind,
    Cache {
        id: String,
        sharing: Sharing,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Bytes at most; 0: no limit.
    Tmpfs {
        size: u64,
    },
    /// `env`: the name of a variable that holds it, instead of or beside a file.
    Secret {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
        env: Option<String>,
    },
    Ssh {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// A file whose content stands in the Dockerfile.
    Inline {
        data: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// A mount as its text says, `from` still a name.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) mount: Mount,
    pub(super) from: Option<String>,
}

/// `text` has its variables replaced already.
pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let mut kind = None;
    let (mut target, mut source, mut from, mut id) = (None, None, None, None);
    let (mut read_only, mut required) = (None, false);
    let (mut mode, mut uid, mut gid, mut size) = (None, None, None, None);
    let (mut sharing, mut env) = (None, None);
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        // Words that stand alone.
        if value.is_none() {
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" => required = true,
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            continue;
        }
        let value = value.unwrap_or_default();
        let flag = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("invalid value for {key}: {value}")),
        };
        let number =
            |radix: u32| u32::from_str_radix(value, radix).map_err(|_| format!("invalid value {value} for {key}"));
        match key.as_str() {
            "type" => kind = Some(value.to_ascii_lowercase()),
            "target" | "dst" | "destination" => target = Some(value.to_owned()),
            "source" | "src" => source = Some(value.to_owned()),
            "from" => from = Some(value.to_owned()),
            "id" => id = Some(value.to_owned()),
            "readonly" | "ro" => read_only = Some(flag()?),
            "readwrite" | "rw" => read_only = Some(!flag()?),
            "required" => required = flag()?,
            "mode" => mode = Some(number(8)?),
            "uid" => uid = Some(number(10)?),
            "gid" => gid = Some(number(10)?),
            "size" => size = Some(bytes(value).ok_or_else(|| format!("invalid value for {key}: {value}"))?),
            "env" => env = Some(value.to_owned()),
            "sharing" => {
                sharing = Some(match value.to_ascii_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(format!("unsupported sharing value {value:?}")),
                });
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    let kind = kind.unwrap_or_else(|| "bind".into());
    let needs_target =
        || target.clone().filter(|t| !t.is_empty()).ok_or_else(|| format!("{kind} mount requires a target"));
    let refuse = |given: bool, key: &str| {
        if given { Err(format!("unexpected key '{key}' for mount type '{kind}'")) } else { Ok(()) }
    };
    if kind != "cache" {
        refuse(sharing.is_some(), "sharing")?;
    }
    if kind != "tmpfs" {
        refuse(size.is_some(), "size")?;
    }
    if kind != "secret" {
        refuse(env.is_some(), "env")?;
    }
    let mount = match kind.as_str() {
        "bind" => Mount {
            kind: MountKind::Bind,
            target: needs_target()?,
            from: None,
            source: source.unwrap_or_else(|| "/".into()),
            read_only: read_only.unwrap_or(true),
        },
        "cache" => {
            let target = needs_target()?;
            // A path within the cache itself would be followed while other steps change what is there (BL-01).
            let within = source.as_deref().is_some_and(|source| !super::normal_parts(source).is_empty());
            if within && from.is_none() && !vocab::weak::without("cache-source") {
                return Err("a cache mount's source is a path in what 'from' names: there is no from".into());
            }
            Mount {
                kind: MountKind::Cache {
                    id: id.unwrap_or_else(|| target.clone()),
                    sharing: sharing.unwrap_or_default(),
                    mode: mode.unwrap_or(0o755),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                },
                target,
                from: None,
                source: source.unwrap_or_else(|| "/".into()),
                read_only: read_only.unwrap_or(false),
            }
        }
        "tmpfs" => {
            refuse(from.is_some(), "from")?;
            refuse(source.is_some(), "source")?;
            let kind = MountKind::Tmpfs { size: size.unwrap_or(0) };
            Mount { kind, target: needs_target()?, from: None, source: String::new(), read_only: false }
        }
        "secret" => {
            refuse(from.is_some(), "from")?;
            let by_source = source.as_deref().map(base_name);
            let by_target = target.as_deref().map(base_name);
            let id = id.or(by_source).or(by_target).ok_or("one of source, target required")?;
            let target = match (&target, &env) {
                (Some(target), _) => target.clone(),
                (None, Some(_)) => String::new(),
                (None, None) => format!("/run/secrets/{}", base_name(&id)),
            };
            let kind = MountKind::Secret {
                id,
                required,
                mode: mode.unwrap_or(0o400),
                uid: uid.unwrap_or(0),
                gid: gid.unwrap_or(0),
                env,
            };
            Mount { kind, target, from: None, source: String::new(), read_only: true }
        }
        "ssh" => {
            refuse(from.is_some(), "from")?;
            let kind = MountKind::Ssh {
                id: id.or(source).unwrap_or_else(|| "default".into()),
                required,
                mode: mode.unwrap_or(0o600),
                uid: uid.unwrap_or(0),
                gid: gid.unwrap_or(0),
            };
            let target = target.unwrap_or_else(|| "/run/buildkit/ssh_agent.0".into());
            Mount { kind, target, from: None, source: String::new(), read_only: true }
        }
        other => return Err(format!("unsupported mount type {other:?}")),
    };
    Ok(Parsed { mount, from })
}

fn base_name(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

/// Comma-separated, a field may stand in double quotes (RFC 4180).
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(format!("failed to parse csv mounts: a quote is not closed in {text:?}"));
    }
    all.push(field);
    Ok(all)
}

/// `64m`, `1gb`, `1024`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let number: u64 = lower[..digits].parse().ok()?;
    let unit = match lower[digits..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1u64 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_defaults() {
        let bind = parse("target=/x").unwrap().mount;
        assert_eq!((bind.kind, bind.read_only, bind.source.as_str()), (MountKind::Bind, true, "/"));
        let cache = parse("type=cache,dst=/root/.cache,sharing=locked,uid=7,mode=0700").unwrap().mount;
        let MountKind::Cache { id, sharing, mode, uid, .. } = cache.kind else { panic!() };
        assert_eq!((id.as_str(), sharing, mode, uid), ("/root/.cache", Sharing::Locked, 0o700, 7));
        let secret = parse("type=secret,id=a").unwrap().mount;
        assert_eq!(secret.target, "/run/secrets/a");
        let secret = parse("type=secret,id=a,env=A").unwrap().mount;
        assert_eq!(secret.target, "");
        assert_eq!(parse("type=tmpfs,target=/t,size=64m").unwrap().mount.kind, MountKind::Tmpfs { size: 64 << 20 });
        assert_eq!(parse("type=bind,\"target=/a,b\",from=stage").unwrap().mount.target, "/a,b");
    }

    #[test]
    fn mistakes_are_told() {
        for (text, part) in [
            ("type=bind", "requires a target"),
            ("type=nfs,target=/x", "unsupported mount type \"nfs\""),
            ("type=bind,target=/x,size=3", "unexpected key 'size'"),
            ("type=bind,target=/x,what=3", "unexpected key 'what'"),
            ("type=cache,target=/x,sharing=some", "unsupported sharing"),
            ("type=secret", "one of source, target required"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
