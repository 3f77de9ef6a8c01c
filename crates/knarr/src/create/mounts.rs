//! `--volume`, `--mount` and `--tmpfs`: their small languages, brought into the API's form.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::text::quoted;

pub(super) struct Volumes {
    /// `source:destination[:options]`, relative sources made absolute.
    pub binds: Vec<String>,
    /// Destinations without a source.
    pub anonymous: Vec<String>,
}

pub(super) fn volumes(flags: &[String], folder: &str) -> Result<Volumes, String> {
    let mut out = Volumes { binds: Vec::new(), anonymous: Vec::new() };
    for flag in flags {
        let parts: Vec<&str> = flag.split(':').collect();
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!("invalid volume specification: '{flag}'"));
        }
        match parts.as_slice() {
            [destination] => {
                if !destination.starts_with('/') {
                    return Err(format!(
                        "invalid volume specification: '{flag}': the path in the container must be absolute"
                    ));
                }
                out.anonymous.push((*destination).to_owned());
            }
            [source, rest @ ..] => out.binds.push(format!("{}:{}", absolute(source, folder), rest.join(":"))),
            [] => {}
        }
    }
    Ok(out)
}

/// A path that begins with a dot is one of the client's; a plain word is a volume's name.
fn absolute(source: &str, folder: &str) -> String {
    if source != "." && source != ".." && !source.starts_with("./") && !source.starts_with("../") {
        return source.to_owned();
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in source.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

pub(super) fn tmpfs(flags: &[String]) -> BTreeMap<&str, &str> {
    flags.iter().map(|flag| flag.split_once(':').unwrap_or((flag, ""))).collect()
}

pub(super) fn mounts(flags: &[String], folder: &str) -> Result<Vec<Value>, String> {
    flags
        .iter()
        .map(|flag| {
            mount(flag, folder).map_err(|why| format!("invalid argument {} for \"--mount\" flag: {why}", quoted(flag)))
        })
        .collect()
}

fn mount(flag: &str, folder: &str) -> Result<Value, String> {
    let mut kind = "volume".to_owned();
    let mut mount = Map::new();
    let (mut bind, mut volume, mut tmpfs, mut image) = (Map::new(), Map::new(), Map::new(), Map::new());
    for field in fields(flag)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        // Only switches may stand without a value.
        let switch = || match value {
            None => Ok(true),
            Some(text) => crate::flags::parse_bool(text).ok_or_else(|| format!("invalid value for {key}: {text}")),
        };
        match key.as_str() {
            "readonly" | "ro" => {
                mount.insert("ReadOnly".into(), json!(switch()?));
                continue;
            }
            "volume-nocopy" => {
                volume.insert("NoCopy".into(), json!(switch()?));
                continue;
            }
            "bind-nonrecursive" => {
                bind.insert("NonRecursive".into(), json!(switch()?));
                continue;
            }
            "bind-create-src" => {
                bind.insert("CreateMountpoint".into(), json!(switch()?));
                continue;
            }
            _ => {}
        }
        let value = value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.as_str() {
            "type" => kind = value.to_ascii_lowercase(),
            "source" | "src" => {
                mount.insert("Source".into(), json!(absolute(value, folder)));
            }
            "target" | "dst" | "destination" => {
                mount.insert("Target".into(), json!(value));
            }
            "consistency" => {
                mount.insert("Consistency".into(), json!(value.to_ascii_lowercase()));
            }
            "bind-propagation" => {
                bind.insert("Propagation".into(), json!(value.to_ascii_lowercase()));
            }
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => {
                    bind.insert("NonRecursive".into(), json!(true));
                }
                "writable" => {
                    bind.insert("ReadOnlyNonRecursive".into(), json!(true));
                }
                "readonly" => {
                    bind.insert("ReadOnlyForceRecursive".into(), json!(true));
                }
                _ => {
                    return Err(format!(
                        "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    ));
                }
            },
            "volume-subpath" => {
                volume.insert("Subpath".into(), json!(value));
            }
            "volume-label" => {
                let (name, label) = value.split_once('=').unwrap_or((value, ""));
                child(&mut volume, "Labels").insert(name.to_owned(), json!(label));
            }
            "volume-driver" => {
                child(&mut volume, "DriverConfig").insert("Name".into(), json!(value));
            }
            "volume-opt" => {
                let (name, option) = value.split_once('=').unwrap_or((value, ""));
                child(child(&mut volume, "DriverConfig"), "Options").insert(name.to_owned(), json!(option));
            }
            "tmpfs-size" => {
                let size = crate::units::parse_bytes(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
                tmpfs.insert("SizeBytes".into(), json!(size));
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| format!("invalid value for {key}: {value}"))?;
                tmpfs.insert("Mode".into(), json!(mode));
            }
            "image-subpath" => {
                image.insert("Subpath".into(), json!(value));
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if kind.is_empty() {
        return Err("type is required".into());
    }
    if !mount.contains_key("Target") {
        return Err("target is required".into());
    }
    for (options, name, wanted) in [
        (bind, "BindOptions", "bind"),
        (volume, "VolumeOptions", "volume"),
        (tmpfs, "TmpfsOptions", "tmpfs"),
        (image, "ImageOptions", "image"),
    ] {
        if options.is_empty() {
            continue;
        }
        if kind != wanted {
            return Err(format!("cannot mix '{wanted}-*' options with mount type '{kind}'"));
        }
        mount.insert(name.into(), Value::Object(options));
    }
    mount.insert("Type".into(), json!(kind));
    Ok(Value::Object(mount))
}

fn child<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    map.entry(name).or_insert_with(|| json!({})).as_object_mut().expect("only objects are put here")
}

/// Comma-separated fields, of which each may be quoted whole: `type=bind,"src=/a,b",dst=/c`.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut out = vec![String::new()];
    let mut letters = text.chars().peekable();
    let mut inside = false;
    while let Some(c) = letters.next() {
        let field = out.last_mut().expect("one field at least");
        match c {
            '"' if inside && letters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if inside => inside = false,
            '"' if field.is_empty() => inside = true,
            '"' => return Err("bare \" in non-quoted-field".into()),
            ',' if !inside => out.push(String::new()),
            c => field.push(c),
        }
    }
    if inside { Err("extraneous or missing \" in quoted-field".into()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(flag: &str) -> Result<Value, String> {
        mount(flag, "/here/now")
    }

    #[test]
    fn mounts_read_dockers_language() {
        let cases = [
            (
                "type=bind,src=./data,dst=/data,readonly",
                json!({"Type": "bind", "Source": "/here/now/data", "Target": "/data", "ReadOnly": true}),
            ),
            (
                "type=bind,\"src=/a,b\",target=/c,bind-propagation=rslave",
                json!({"Type": "bind", "Source": "/a,b", "Target": "/c", "BindOptions": {"Propagation": "rslave"}}),
            ),
            (
                "type=tmpfs,destination=/t,tmpfs-size=64m,tmpfs-mode=1777",
                json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 67_108_864, "Mode": 1023}}),
            ),
            ("source=data,target=/d", json!({"Type": "volume", "Source": "data", "Target": "/d"})),
        ];
        for (flag, expected) in cases {
            assert_eq!(one(flag).unwrap(), expected, "{flag}");
        }
    }

    #[test]
    fn wrong_mounts_say_what_is_wrong() {
        let cases = [
            ("type=bind,src=/a", "target is required"),
            ("type=bind,src", "must be a key=value pair"),
            ("type=bind,dst=/a,colour=red", "unexpected key 'colour'"),
            ("type=bind,dst=/a,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
            ("type=tmpfs,dst=/a,tmpfs-mode=9", "invalid value for tmpfs-mode"),
            ("type=bind,\"src=/a", "missing \""),
        ];
        for (flag, expected) in cases {
            let error = one(flag).expect_err(flag);
            assert!(error.contains(expected), "{flag}: {error}");
        }
    }

    #[test]
    fn volumes_are_binds_names_or_anonymous() {
        let flags = ["/a:/b:ro", "../x:/b", "name:/data", "/anonymous"].map(str::to_owned);
        let found = volumes(&flags, "/here/now").unwrap();
        assert_eq!(found.binds, ["/a:/b:ro", "/here/x:/b", "name:/data"]);
        assert_eq!(found.anonymous, ["/anonymous"]);
        for flag in ["a:b:c:d", ":/b", "/a:", "relative"] {
            assert!(volumes(&[flag.to_owned()], "/").is_err(), "{flag}");
        }
    }
}
