//! Which instance this command is about: the flags before the command, the environment, and the defaults.

use std::path::PathBuf;

use crate::client::http::Host;
use crate::flags::{Flag, Matches, switch, text};

pub const FLAGS: &[Flag] = &[
    text("host", "Engine to talk to: unix:///PATH or tcp://ADDRESS:PORT (default: the socket in the run directory)")
        .short('H'),
    text("root", "Directory of everything that lasts (default: /var/lib/knarr)"),
    text("run", "Directory of this boot's state and of the socket (default: /run/knarr)"),
    switch("debug", "Say more about what happens").short('D'),
    text("log-level", "").short('l').hidden(),
    switch("version", "Print version information and quit").short('v'),
    text("context", "Name of the context: there is only \"default\"").short('c').hidden(),
    text("config", "").hidden(),
    switch("tls", "").refused("connections are local; use an ssh tunnel for another machine"),
    switch("tlsverify", "").refused("connections are local; use an ssh tunnel for another machine"),
];

#[derive(Debug, Clone)]
pub struct Settings {
    pub root: PathBuf,
    pub run: PathBuf,
    pub host: Host,
    /// The host is this instance's own socket, so an engine may be started there.
    pub own_host: bool,
    pub debug: bool,
    /// The root is one that somebody named, not the usual one.
    pub root_named: bool,
}

/// What the environment says. A function, so that tests need no real one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Settings {
    /// `--host` wins over `--run`, which wins over `DOCKER_HOST`.
    pub fn new(matches: &Matches, environment: Environment<'_>, is_root: bool) -> Result<Self, String> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let home = || set("HOME").unwrap_or_else(|| "/".into());
        let directory = |flag: &str, variable: &str, system: &str, user: &dyn Fn() -> String| {
            let chosen = matches.text(flag).map(str::to_owned).or_else(|| set(variable));
            let path = PathBuf::from(chosen.unwrap_or_else(|| if is_root { system.to_owned() } else { user() }));
            if path.is_absolute() {
                Ok(path)
            } else {
                std::path::absolute(&path).map_err(|e| format!("--{flag} {}: {e}", path.display()))
            }
        };
        let root = directory("root", "KNARR_ROOT", "/var/lib/knarr", &|| {
            format!("{}/knarr", set("XDG_DATA_HOME").unwrap_or_else(|| format!("{}/.local/share", home())))
        })?;
        let run = directory("run", "KNARR_RUN", "/run/knarr", &|| match set("XDG_RUNTIME_DIR") {
            Some(folder) => format!("{folder}/knarr"),
            None => format!("{}/.knarr/run", home()),
        })?;
        let own = Host::Unix(run.join("docker.sock"));
        let named = match (matches.text("host"), matches.given("run")) {
            (Some(host), _) => Some(Host::parse(host)?),
            (None, true) => None,
            (None, false) => set("DOCKER_HOST").map(|host| Host::parse(&host)).transpose()?,
        };
        let host = named.unwrap_or_else(|| own.clone());
        let root_named = matches.given("root") || set("KNARR_ROOT").is_some();
        Ok(Self { own_host: host == own, root, run, host, debug: matches.is("debug"), root_named })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &[&str], variables: &[(&str, &str)], is_root: bool) -> Settings {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let matches = crate::flags::parse(&[FLAGS], false, &words).unwrap();
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::new(&matches, &environment, is_root).unwrap()
    }

    #[test]
    fn the_nearest_setting_wins() {
        let plain = settings(&[], &[], true);
        assert_eq!(plain.host.to_string(), "unix:///run/knarr/docker.sock");
        assert!(plain.own_host);
        let elsewhere = settings(&[], &[("DOCKER_HOST", "unix:///run/docker.sock")], true);
        assert!(!elsewhere.own_host && elsewhere.host.to_string() == "unix:///run/docker.sock");
        let run = settings(&["--run", "/tmp/r"], &[("DOCKER_HOST", "unix:///run/docker.sock")], true);
        assert!(run.own_host && run.host.to_string() == "unix:///tmp/r/docker.sock");
        assert!(!settings(&["-H", "tcp://127.0.0.1:2375", "--run", "/tmp/r"], &[], true).own_host);
    }

    #[test]
    fn an_unprivileged_user_has_places_of_their_own() {
        let user = settings(&[], &[("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/1000")], false);
        assert_eq!(user.root, PathBuf::from("/home/ann/.local/share/knarr"));
        assert_eq!(user.run, PathBuf::from("/run/user/1000/knarr"));
    }
}
