//! Log drivers and their options, checked at create. Pure; refusals are in Docker's words.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use crate::{Error, LogConfig, Result};

/// Where journald listens.
pub(super) const JOURNALD: &str = "/run/systemd/journal/socket";

/// Whether lines go elsewhere than into files.
pub(crate) fn is_remote(driver: &str) -> bool {
    matches!(driver, "syslog" | "journald" | "fluentd" | "gelf")
}

/// Names of all drivers, for `info`.
pub const DRIVERS: [&str; 7] = ["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"];

/// Options of every driver.
const COMMON: [&str; 6] =
    ["mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
/// Options that say what goes beside each line.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

fn own(driver: &str) -> &'static [&'static str] {
    match driver {
        "json-file" | "local" => &["max-size", "max-file", "compress"],
        "syslog" => &[
            "syslog-address",
            "syslog-facility",
            "syslog-format",
            "syslog-tls-ca-cert",
            "syslog-tls-cert",
            "syslog-tls-key",
            "syslog-tls-skip-verify",
        ],
        "gelf" => &[
            "gelf-address",
            "gelf-compression-type",
            "gelf-compression-level",
            "gelf-tcp-max-reconnect",
            "gelf-tcp-reconnect-delay",
        ],
        "fluentd" => &[
            "fluentd-address",
            "fluentd-async",
            "fluentd-async-connect",
            "fluentd-async-reconnect-interval",
            "fluentd-buffer-limit",
            "fluentd-max-retries",
            "fluentd-read-timeout",
            "fluentd-request-ack",
            "fluentd-retry-wait",
            "fluentd-sub-second-precision",
            "fluentd-write-timeout",
        ],
        _ => &[],
    }
}

/// The driver of the container runtime interface: lines go in its own format to the file that its option `path` names, which whoever
/// reads it rotates and removes. Docker does not know it.
pub(crate) const CRI: &str = "cri";

/// With a size the engine rotates it itself, and reads it.
const CRI_OPTIONS: [&str; 3] = ["path", "max-size", "max-file"];

/// Whether somebody else rotates the log, to names that nobody here knows.
pub(crate) fn is_rotated_elsewhere(log: &LogConfig) -> bool {
    log.driver == CRI && !log.options.contains_key("max-size")
}

/// Where the lines of a container with the driver [`CRI`] go.
pub(crate) fn cri_path(log: &LogConfig) -> Option<PathBuf> {
    (log.driver == CRI).then(|| log.options.get("path").map(PathBuf::from)).flatten()
}

pub(crate) fn check(log: &LogConfig) -> Result<()> {
    if log.driver == CRI {
        return match cri_path(log) {
            Some(path) if path.is_absolute() && log.options.keys().all(|name| CRI_OPTIONS.contains(&name.as_str())) => {
                Ok(())
            }
            _ => {
                Err(Error::Invalid(format!("log driver 'cri' needs an absolute path; its options are {CRI_OPTIONS:?}")))
            }
        };
    }
    let driver = if log.driver.is_empty() { "json-file" } else { &log.driver };
    if !DRIVERS.contains(&driver) {
        return Err(Error::Invalid(format!("logger: no log driver named '{driver}' is registered")));
    }
    for name in log.options.keys().map(String::as_str) {
        let attributes = !matches!(driver, "none" | "local") && ATTRIBUTES.contains(&name);
        let common = driver != "none" && COMMON.contains(&name);
        if !(attributes || common || own(driver).contains(&name)) {
            return Err(Error::Invalid(format!("unknown log opt '{name}' for {driver} log driver")));
        }
    }
    let option = |name: &str| log.options.get(name).map(String::as_str);
    for name in ["labels-regex", "env-regex"] {
        if let Some(pattern) = option(name).filter(|pattern| !pattern.is_empty()) {
            regex::Regex::new(pattern).map_err(|e| Error::Invalid(format!("invalid value for {name}: {e}")))?;
        }
    }
    super::subject::check_tag(option("tag").unwrap_or_default())?;
    match option("mode") {
        None | Some("blocking" | "non-blocking") => {}
        Some(other) => return Err(Error::Invalid(format!("logger: logging mode not supported: {other}"))),
    }
    for name in ["compress", "cache-compress"] {
        match option(name) {
            None | Some("false") => {}
            Some("true") => return Err(Error::Unsupported("compressed log files are not supported".into())),
            Some(other) => return Err(Error::Invalid(format!("invalid value for {name}: {other}"))),
        }
    }
    for name in ["cache-disabled", "fluentd-async", "fluentd-request-ack", "fluentd-sub-second-precision"] {
        if option(name).is_some_and(|value| parse_bool(value).is_none()) {
            return Err(Error::Invalid(format!("invalid value for {name}: {}", option(name).unwrap_or_default())));
        }
    }
    match driver {
        "syslog" => check_syslog(log)?,
        "gelf" => check_gelf(log)?,
        "fluentd" => {
            if option("fluentd-request-ack").and_then(parse_bool) == Some(true) {
                return Err(Error::Unsupported("fluentd-request-ack is not supported".into()));
            }
            fluentd_address(log)?;
        }
        "journald" if !std::path::Path::new(JOURNALD).exists() => {
            return Err(Error::Invalid("journald is not enabled on this host".into()));
        }
        _ => {}
    }
    Ok(())
}

/// Docker's `cache-disabled`: the file is only what is still to be delivered. A file of the container runtime interface is read by
/// whoever asked for it.
pub(crate) fn reading_is_disabled(log: &LogConfig) -> bool {
    is_rotated_elsewhere(log)
        || is_remote(&log.driver) && log.options.get("cache-disabled").and_then(|value| parse_bool(value)) == Some(true)
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Where a driver delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unixgram(PathBuf),
    UnixStream(PathBuf),
    Udp(String),
    Tcp(String),
}

/// `host[:port]`, with brackets around an IPv6 address.
fn with_port(host: &str, port: u16) -> String {
    let bare_v6 = host.ends_with(']') || (host.matches(':').count() > 1 && !host.starts_with('['));
    match host.rsplit_once(':') {
        Some((_, digits)) if !bare_v6 && digits.parse::<u16>().is_ok() => host.to_owned(),
        _ if host.starts_with('[') || !host.contains(':') => format!("{host}:{port}"),
        _ => format!("[{host}]:{port}"),
    }
}

fn check_syslog(log: &LogConfig) -> Result<()> {
    if let Some(name) = log.options.keys().find(|name| name.starts_with("syslog-tls")) {
        return Err(Error::Unsupported(format!("{name}: syslog over TLS is not supported")));
    }
    syslog_address(log)?;
    let facility = log.options.get("syslog-facility").map_or("daemon", String::as_str);
    if facility_number(facility).is_none() {
        return Err(Error::Invalid(format!("invalid syslog facility: {facility}")));
    }
    match log.options.get("syslog-format").map_or("", String::as_str) {
        "" | "rfc3164" | "rfc5424" | "rfc5424micro" => Ok(()),
        _ => Err(Error::Invalid("Invalid syslog format".into())),
    }
}

pub(super) fn syslog_address(log: &LogConfig) -> Result<Address> {
    let Some(address) = log.options.get("syslog-address").filter(|a| !a.is_empty()) else {
        return Ok(Address::Unixgram("/dev/log".into()));
    };
    let Some((scheme, rest)) = address.split_once("://") else {
        return Err(Error::Invalid("unable to parse syslog-address: it needs a scheme, as in udp://host:514".into()));
    };
    match scheme {
        "unix" | "unixgram" if !rest.starts_with('/') => {
            Err(Error::Invalid(format!("syslog-address {address:?}: the path must be absolute")))
        }
        "unix" => Ok(Address::UnixStream(rest.into())),
        "unixgram" => Ok(Address::Unixgram(rest.into())),
        "udp" => Ok(Address::Udp(with_port(rest, 514))),
        "tcp" => Ok(Address::Tcp(with_port(rest, 514))),
        "tcp+tls" => Err(Error::Unsupported("syslog-address tcp+tls: syslog over TLS is not supported".into())),
        other => Err(Error::Invalid(format!("unsupported scheme: '{other}'"))),
    }
}

pub(super) fn facility_number(name: &str) -> Option<u8> {
    const NAMES: [&str; 12] =
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
    if let Ok(number) = name.parse::<u8>() {
        return (number <= 23).then_some(number);
    }
    if let Some(local) = name.strip_prefix("local").and_then(|n| n.parse::<u8>().ok()) {
        return (local <= 7).then_some(16 + local);
    }
    NAMES.iter().position(|known| *known == name).map(|at| at as u8)
}

fn check_gelf(log: &LogConfig) -> Result<()> {
    let address = gelf_address(log)?;
    let option = |name: &str| log.options.get(name).map(String::as_str);
    let udp_only = ["gelf-compression-type", "gelf-compression-level"];
    if matches!(address, Address::Tcp(_))
        && let Some(name) = udp_only.iter().find(|name| option(name).is_some())
    {
        return Err(Error::Invalid(format!("compression is only supported on UDP: {name}")));
    }
    match option("gelf-compression-type") {
        None | Some("gzip" | "zlib" | "none") => {}
        Some(other) => {
            return Err(Error::Invalid(format!(
                "unknown value {other:?} for \"gelf-compression-type\" for gelf log driver"
            )));
        }
    }
    match option("gelf-compression-level").map(str::parse::<i8>) {
        None | Some(Ok(-1..=9)) => Ok(()),
        Some(_) => Err(Error::Invalid("unknown value for \"gelf-compression-level\" for gelf log driver".into())),
    }
}

pub(super) fn gelf_address(log: &LogConfig) -> Result<Address> {
    let address = log.options.get("gelf-address").map(String::as_str).unwrap_or_default();
    if address.is_empty() {
        return Err(Error::Invalid("gelf-address is a required parameter".into()));
    }
    match address.split_once("://") {
        Some(("udp", rest)) if rest.contains(':') => Ok(Address::Udp(rest.into())),
        Some(("tcp", rest)) if rest.contains(':') => Ok(Address::Tcp(rest.into())),
        Some(("udp" | "tcp", _)) => {
            Err(Error::Invalid("gelf: please provide gelf-address as proto://host:port".into()))
        }
        _ => Err(Error::Invalid("gelf: endpoint needs to be TCP or UDP".into())),
    }
}

pub(super) fn fluentd_address(log: &LogConfig) -> Result<Address> {
    let address = log.options.get("fluentd-address").map(String::as_str).unwrap_or_default();
    match address.split_once("://") {
        None if address.is_empty() => Ok(Address::Tcp("127.0.0.1:24224".into())),
        None => Ok(Address::Tcp(with_port(address, 24224))),
        Some(("tcp", rest)) if !rest.contains('/') => Ok(Address::Tcp(with_port(rest, 24224))),
        Some(("unix", rest)) if rest.starts_with('/') && rest.len() > 1 => Ok(Address::UnixStream(rest.into())),
        Some(("tls", _)) => Err(Error::Unsupported("fluentd-address tls: fluentd over TLS is not supported".into())),
        _ => Err(Error::Invalid(format!("invalid fluentd-address {address:?}"))),
    }
}

/// A name is looked up for each connection: the receiver may move.
pub(super) fn resolve(address: &str) -> std::io::Result<SocketAddr> {
    let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, format!("{address} has no address"));
    address.to_socket_addrs()?.next().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(driver: &str, pairs: &[(&str, &str)]) -> LogConfig {
        LogConfig {
            driver: driver.into(),
            options: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn addresses_have_schemes_and_default_ports() {
        let syslog =
            |address| syslog_address(&log("syslog", &[("syslog-address", address)])).map_err(|e| e.to_string());
        assert_eq!(syslog(""), Ok(Address::Unixgram("/dev/log".into())));
        assert_eq!(syslog("udp://h"), Ok(Address::Udp("h:514".into())));
        assert_eq!(syslog("tcp://[::1]"), Ok(Address::Tcp("[::1]:514".into())));
        assert_eq!(syslog("tcp://::1"), Ok(Address::Tcp("[::1]:514".into())));
        assert_eq!(syslog("tcp://[::1]:6"), Ok(Address::Tcp("[::1]:6".into())));
        assert_eq!(syslog("unixgram:///x"), Ok(Address::Unixgram("/x".into())));
        assert_eq!(syslog("http://h").unwrap_err(), "unsupported scheme: 'http'");
        let fluentd = |address| fluentd_address(&log("fluentd", &[("fluentd-address", address)])).ok();
        assert_eq!(fluentd("h"), Some(Address::Tcp("h:24224".into())));
        assert_eq!(fluentd("h:1"), Some(Address::Tcp("h:1".into())));
        assert_eq!(fluentd("unix:///s"), Some(Address::UnixStream("/s".into())));
        assert_eq!(fluentd("unix://"), None);
    }

    #[test]
    fn options_are_each_drivers_own() {
        type Options = &'static [(&'static str, &'static str)];
        let rows: [(&str, Options, &str); 11] = [
            ("awslogs", &[], "logger: no log driver named 'awslogs' is registered"),
            ("local", &[("tag", "x")], "unknown log opt 'tag' for local log driver"),
            ("none", &[("mode", "blocking")], "unknown log opt 'mode' for none log driver"),
            ("syslog", &[("gelf-address", "x")], "unknown log opt 'gelf-address' for syslog log driver"),
            ("syslog", &[("syslog-facility", "what")], "invalid syslog facility: what"),
            ("gelf", &[], "gelf-address is a required parameter"),
            ("gelf", &[("gelf-address", "http://x:1")], "gelf: endpoint needs to be TCP or UDP"),
            ("json-file", &[("mode", "fast")], "logger: logging mode not supported: fast"),
            ("json-file", &[("compress", "true")], "compressed log files are not supported"),
            ("json-file", &[("tag", "{{.What}}")], "invalid log tag \"{{.What}}\": no field What"),
            ("fluentd", &[("fluentd-async", "perhaps")], "invalid value for fluentd-async: perhaps"),
        ];
        for (driver, pairs, wanted) in rows {
            assert_eq!(check(&log(driver, pairs)).unwrap_err().to_string(), wanted);
        }
        check(&log("", &[("max-size", "1m"), ("labels", "a"), ("env-regex", "^X")])).unwrap();
        check(&log("syslog", &[("syslog-facility", "local7"), ("tag", "{{.Name}}/{{.ID}}")])).unwrap();
        check(&log("gelf", &[("gelf-address", "udp://h:1"), ("gelf-compression-level", "-1")])).unwrap();
    }

    #[test]
    fn facilities_by_name_and_number() {
        let rows = [("daemon", Some(3)), ("local0", Some(16)), ("local8", None), ("23", Some(23)), ("24", None)];
        for (name, number) in rows {
            assert_eq!(facility_number(name), number);
        }
    }
}
