//! Which cluster a command talks to: a kubeconfig, read as kubectl reads it. Pure but for the files it names.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::Value;

use crate::failure::Failure;

/// How the API is reached and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `host:port`.
    pub address: String,
    /// What comes before each path; without a slash at its end.
    pub prefix: String,
    /// The name that the server's certificate must have.
    pub server_name: String,
    /// PEM; empty: the system's authorities.
    pub authority: Vec<u8>,
    /// Certificate and key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<String>,
    pub namespace: String,
}

/// Where a kubeconfig comes from: the flag, `KUBECONFIG` (the first file that exists), the cloud that runs here, the user's.
pub fn find(
    flag: Option<&str>,
    variable: Option<&str>,
    running: Option<&str>,
    home: Option<&str>,
) -> Result<PathBuf, Failure> {
    if let Some(path) = flag {
        return Ok(path.into());
    }
    let named = variable.unwrap_or_default().split(':').filter(|path| !path.is_empty());
    if let Some(path) = named.map(PathBuf::from).find(|path| path.exists()) {
        return Ok(path);
    }
    if let Some(path) = running {
        return Ok(path.into());
    }
    let users = home.map(|home| Path::new(home).join(".kube/config")).filter(|path| path.exists());
    users.ok_or_else(|| {
        Failure::new(
            "no cluster is named: start one with 'knarr up', or say --kubeconfig FILE or KUBECONFIG=FILE".to_owned(),
        )
    })
}

/// Reads the file and what it names.
pub fn load(path: &Path, context: Option<&str>) -> Result<Config, Failure> {
    let failed = |what: String| Failure::new(format!("kubeconfig {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let read = |name: &str| std::fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    parse(&value, context, &read).map_err(failed)
}

type Reader<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, String>;

fn parse(value: &Value, context: Option<&str>, read: Reader<'_>) -> Result<Config, String> {
    let named = |list: &str, name: &str, field: &str| -> Result<Value, String> {
        let entries = value[list].as_array().into_iter().flatten();
        let found = entries.into_iter().find(|entry| entry["name"] == name).map(|entry| entry[field].clone());
        found.ok_or_else(|| format!("{field} {name:?} does not exist"))
    };
    let name = context.or(value["current-context"].as_str()).unwrap_or_default();
    if name.is_empty() {
        return Err("it has no current context: say --context NAME".into());
    }
    let context = named("contexts", name, "context")?;
    let word = |value: &Value, field: &str| value[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let cluster = named("clusters", &word(&context, "cluster").unwrap_or_default(), "cluster")?;
    let user = match word(&context, "user") {
        Some(user) => named("users", &user, "user")?,
        None => Value::Null,
    };
    let bytes = |value: &Value, field: &str| -> Result<Option<Vec<u8>>, String> {
        if let Some(data) = word(value, &format!("{field}-data")) {
            let decoded = base64::engine::general_purpose::STANDARD.decode(data.trim());
            return decoded.map(Some).map_err(|error| format!("{field}-data: {error}"));
        }
        word(value, field).map(|file| read(&file)).transpose()
    };
    let server = word(&cluster, "server").ok_or("the cluster has no server")?;
    if cluster["insecure-skip-tls-verify"] == true {
        return Err("insecure-skip-tls-verify is not supported: name the server's certificate-authority".into());
    }
    let Some(rest) = server.strip_prefix("https://") else {
        return Err(format!("server {server:?}: only https:// is spoken"));
    };
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let address = if has_port { authority.to_owned() } else { format!("{authority}:443") };
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let identity = match (bytes(&user, "client-certificate")?, bytes(&user, "client-key")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("client-certificate and client-key go together".into()),
    };
    let token = match (word(&user, "token"), word(&user, "tokenFile")) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(String::from_utf8_lossy(&read(&file)?).trim().to_owned()),
        (None, None) => None,
    };
    for field in ["exec", "auth-provider", "username"] {
        if !user[field].is_null() {
            return Err(format!("the user's {field} is not supported: use a certificate or a token"));
        }
    }
    Ok(Config {
        server_name: word(&cluster, "tls-server-name").unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned()),
        address,
        prefix: prefix.trim_end_matches('/').to_owned(),
        authority: bytes(&cluster, "certificate-authority")?.unwrap_or_default(),
        identity,
        token,
        namespace: word(&context, "namespace").unwrap_or_else(|| "default".into()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nothing(name: &str) -> Result<Vec<u8>, String> {
        Ok(format!("file {name}\n").into_bytes())
    }

    fn sample() -> Value {
        json!({"current-context": "a", "contexts": [
            {"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "web"}},
            {"name": "b", "context": {"cluster": "d", "user": "t"}},
            {"name": "e", "context": {"cluster": "c", "user": "x"}}],
            "clusters": [
                {"name": "c", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority-data": "Y2E="}},
                {"name": "d", "cluster": {"server": "https://[::1]:7/prefix/", "certificate-authority": "ca.pem"}}],
            "users": [
                {"name": "u", "user": {"client-certificate-data": "Y2VydA==", "client-key-data": "a2V5"}},
                {"name": "t", "user": {"tokenFile": "token"}},
                {"name": "x", "user": {"exec": {"command": "aws"}}}]})
    }

    #[test]
    fn a_context_names_cluster_user_and_namespace() {
        let config = parse(&sample(), None, &nothing).unwrap();
        assert_eq!((config.address.as_str(), config.namespace.as_str()), ("127.0.0.1:6443", "web"));
        assert_eq!(config.authority, b"ca");
        assert_eq!(config.identity, Some((b"cert".to_vec(), b"key".to_vec())));
        let other = parse(&sample(), Some("b"), &nothing).unwrap();
        assert_eq!(
            (other.address.as_str(), other.prefix.as_str(), other.server_name.as_str()),
            ("[::1]:7", "prefix", "::1")
        );
        assert_eq!((other.token.as_deref(), other.namespace.as_str()), (Some("file token"), "default"));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(parse(&sample(), Some("z"), &nothing).unwrap_err(), "context \"z\" does not exist");
        assert!(parse(&sample(), Some("e"), &nothing).unwrap_err().contains("exec is not supported"));
        assert!(parse(&json!({}), None, &nothing).unwrap_err().contains("no current context"));
    }

    #[test]
    fn the_nearest_kubeconfig_wins() {
        let path = |flag, variable, running| find(flag, variable, running, None).unwrap();
        assert_eq!(path(Some("f"), Some("/"), Some("r")), PathBuf::from("f"));
        assert_eq!(path(None, Some("/not/there:/"), Some("r")), PathBuf::from("/"));
        assert_eq!(path(None, None, Some("r")), PathBuf::from("r"));
        assert!(find(None, None, None, None).unwrap_err().message.contains("knarr up"));
    }
}
