//! Who one is to registries: `~/.docker/config.json` and Docker's credential helpers, shared with the stock client.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Under which Docker keeps the login to its own registry.
pub const INDEX: &str = "https://index.docker.io/v1/";
/// A helper answers this name where the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// The configuration file, as a document whose other fields stay what they are.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    document: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
    pub identity_token: String,
}

impl Login {
    fn to_json(&self) -> Value {
        json!({ "username": self.username, "password": self.password, "identitytoken": self.identity_token })
    }
}

/// The key of a registry in the file.
pub fn key_of(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    match bare.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => INDEX.to_owned(),
        host => host.to_owned(),
    }
}

impl Store {
    pub fn open() -> Result<Self, Failure> {
        let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".docker");
        let path = folder.unwrap_or_else(home).join("config.json");
        let document = match std::fs::read(&path) {
            Ok(bytes) if bytes.is_empty() => json!({}),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| Failure::new(format!("{}: not a JSON object", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(Failure::new(format!("read {}: {error}", path.display()))),
        };
        Ok(Self { path, document })
    }

    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The helper that keeps a registry's credentials, if not the file does.
    pub fn helper(&self, key: &str) -> Option<String> {
        let own = self.document["credHelpers"][key].as_str();
        own.or(self.document["credsStore"].as_str()).filter(|name| !name.is_empty()).map(str::to_owned)
    }

    pub fn get(&self, key: &str) -> Result<Option<Login>, Failure> {
        if let Some(helper) = self.helper(key) {
            let Some(answer) = run(&helper, "get", key)? else { return Ok(None) };
            let answer: Value = serde_json::from_str(&answer)
                .map_err(|error| Failure::new(format!("docker-credential-{helper} get: {error}")))?;
            let (user, secret) = (text(&answer["Username"]), text(&answer["Secret"]));
            return Ok(Some(match user == TOKEN_USER {
                true => Login { identity_token: secret, ..Login::default() },
                false => Login { username: user, password: secret, ..Login::default() },
            }));
        }
        let entries = self.document["auths"].as_object();
        // Older files have addresses where newer ones have hosts.
        let found = entries.into_iter().flatten().find(|(known, _)| *known == key || key_of(known) == key);
        Ok(found.map(|(_, entry)| parse(entry)))
    }

    /// All registries that there may be a login for.
    fn keys(&self) -> Vec<String> {
        let mut keys = std::collections::BTreeSet::new();
        for (field, to_key) in [("auths", true), ("credHelpers", false)] {
            let names = self.document[field].as_object().into_iter().flatten().map(|(name, _)| name);
            keys.extend(names.map(|name| if to_key { key_of(name) } else { name.clone() }));
        }
        if let Some(helper) = self.document["credsStore"].as_str().filter(|name| !name.is_empty()) {
            // One that cannot list is asked for those that the file names.
            let listed = run(helper, "list", "").ok().flatten().and_then(|text| serde_json::from_str(&text).ok());
            let listed: serde_json::Map<String, Value> = listed.unwrap_or_default();
            keys.extend(listed.into_iter().map(|(name, _)| name));
        }
        keys.into_iter().collect()
    }

    pub fn put(&mut self, key: &str, login: &Login) -> Result<(), Failure> {
        if let Some(helper) = self.helper(key) {
            let (user, secret) = match login.identity_token.is_empty() {
                true => (login.username.as_str(), &login.password),
                false => (TOKEN_USER, &login.identity_token),
            };
            let entry = json!({"ServerURL": key, "Username": user, "Secret": secret});
            run(&helper, "store", &entry.to_string())?;
            self.document["auths"][key] = json!({});
            return self.save();
        }
        let pair = STANDARD.encode(format!("{}:{}", login.username, login.password));
        self.document["auths"][key] = match login.identity_token.is_empty() {
            true => json!({ "auth": pair }),
            // The token stands for the password, which is not kept.
            false => {
                json!({"auth": STANDARD.encode(format!("{}:", login.username)), "identitytoken": login.identity_token})
            }
        };
        self.save()
    }

    /// Whether there was anything to remove.
    pub fn remove(&mut self, key: &str) -> Result<bool, Failure> {
        let mut removed = false;
        if let Some(helper) = self.helper(key) {
            removed = run(&helper, "erase", key)?.is_some();
        }
        if let Some(entries) = self.document["auths"].as_object_mut() {
            let before = entries.len();
            entries.retain(|known, _| known != key && key_of(known) != key);
            removed |= entries.len() != before;
        }
        if removed {
            self.save()?;
        }
        Ok(removed)
    }

    /// Whole or not at all, and for nobody else to read.
    fn save(&self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("write {}: {error}", self.path.display()));
        if let Some(folder) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        // A link stays a link: what it leads to is replaced.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let draft = path.with_extension(format!("json.{}", std::process::id()));
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(serde_json::to_string_pretty(&self.document)?.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&draft);
            failed(error)
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn parse(entry: &Value) -> Login {
    let pair = entry["auth"].as_str().and_then(|auth| String::from_utf8(STANDARD.decode(auth).ok()?).ok());
    let (user, password) = pair.as_deref().and_then(|pair| pair.split_once(':')).unwrap_or_default();
    let or = |own: &Value, other: &str| own.as_str().filter(|text| !text.is_empty()).unwrap_or(other).to_owned();
    Login {
        username: or(&entry["username"], user),
        password: or(&entry["password"], password.trim_end_matches('\0')),
        identity_token: text(&entry["identitytoken"]),
    }
}

/// Asks a helper. Nothing: it has no such credentials.
fn run(helper: &str, action: &str, input: &str) -> Result<Option<String>, Failure> {
    let program = format!("docker-credential-{helper}");
    let failed =
        |error: std::io::Error| Failure::new(format!("error getting credentials - err: {program} {action}: {error}"));
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().map_err(failed)?;
    let answer = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    match done.status.success() {
        true => Ok(Some(answer)),
        false if answer.contains("credentials not found") => Ok(None),
        false => Err(Failure::new(format!("error getting credentials - err: {}, out: `{answer}`", done.status))),
    }
}

/// The `X-Registry-Auth` header for a registry, if there is anything to say.
pub fn header(domain: &str) -> Result<Option<String>, Failure> {
    let key = key_of(domain);
    let Some(login) = Store::open()?.get(&key)?.filter(|login| *login != Login::default()) else { return Ok(None) };
    let mut value = login.to_json();
    value["serveraddress"] = key.into();
    Ok(Some(URL_SAFE.encode(value.to_string())))
}

/// The `X-Registry-Config` header: every login that there is, since only the engine knows which registries a build asks.
pub fn all_header() -> Result<Option<String>, Failure> {
    let store = Store::open()?;
    let mut all = serde_json::Map::new();
    for key in store.keys() {
        // As with docker, a helper that fails for one registry does not end a build that may ask others.
        match store.get(&key) {
            Ok(Some(login)) if login != Login::default() => {
                all.insert(key, login.to_json());
            }
            Ok(_) => {}
            Err(failure) => eprintln!("WARNING: {key}: {}", failure.message),
        }
    }
    Ok((!all.is_empty()).then(|| URL_SAFE.encode(Value::Object(all).to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(document: Value) -> Store {
        Store { path: "/nowhere".into(), document }
    }

    #[test]
    fn logins_are_found_under_old_and_new_names() {
        let pair = STANDARD.encode("ann:p:w");
        let file = store(json!({"auths": {
            "https://index.docker.io/v1/": {"auth": pair},
            "https://old.example/v1/": {"username": "bob", "password": "x"},
            "new.example:5000": {"auth": STANDARD.encode("c:"), "identitytoken": "t"},
        }}));
        let login = |user: &str, password: &str, token: &str| {
            Some(Login { username: user.into(), password: password.into(), identity_token: token.into() })
        };
        assert_eq!(file.get(&key_of("docker.io")).unwrap(), login("ann", "p:w", ""));
        assert_eq!(file.get(&key_of("old.example")).unwrap(), login("bob", "x", ""));
        assert_eq!(file.get(&key_of("https://new.example:5000/v2/")).unwrap(), login("c", "", "t"));
        assert_eq!(file.get("other").unwrap(), None);
    }

    #[test]
    fn a_helper_of_ones_own_comes_before_the_general_one() {
        let file = store(json!({"credsStore": "all", "credHelpers": {"a.example": "own"}}));
        assert_eq!(file.helper("a.example").as_deref(), Some("own"));
        assert_eq!(file.helper("b.example").as_deref(), Some("all"));
        assert_eq!(store(json!({})).helper("b.example"), None);
    }
}
