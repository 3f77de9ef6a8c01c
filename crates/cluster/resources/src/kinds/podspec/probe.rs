//! What asks a container how it is, and what is done when it starts and stops.

use serde_json::Value;

use crate::kinds::rules::Faults;
use crate::meta::list_at;

const ONE_HANDLER: &str = "may not specify more than 1 handler type";

pub(super) fn all(container: &Value, path: &str, faults: &mut Faults) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&container[name], name, &format!("{path}.{name}"), faults);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &str, faults: &mut Faults) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], 0, path, faults);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        faults.non_negative(probe, field, path);
    }
    faults.positive(probe, "terminationGracePeriodSeconds", path);
    if name == "readinessProbe" {
        if probe["terminationGracePeriodSeconds"].is_number() {
            let value = probe["terminationGracePeriodSeconds"].clone();
            let here = format!("{path}.terminationGracePeriodSeconds");
            faults.invalid(&here, value, "must not be set for readinessProbes");
        }
    } else if probe["successThreshold"].as_i64().is_some_and(|count| count != 1) {
        faults.invalid(&format!("{path}.successThreshold"), probe["successThreshold"].clone(), "must be 1");
    }
}

pub(super) fn lifecycle(lifecycle: &Value, grace_secs: i64, path: &str, faults: &mut Faults) {
    for name in ["postStart", "preStop"] {
        if lifecycle[name].is_object() {
            let handlers = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(&lifecycle[name], &handlers, grace_secs, &format!("{path}.{name}"), faults);
        }
    }
}

/// Exactly one of `kinds`, and that one right.
fn handler(handler: &Value, kinds: &[&str], grace_secs: i64, path: &str, faults: &mut Faults) {
    let mut any = false;
    for kind in kinds.iter().filter(|kind| handler[**kind].is_object()) {
        let here = format!("{path}.{kind}");
        if any {
            faults.forbidden(&here, ONE_HANDLER);
            continue;
        }
        any = true;
        let action = &handler[*kind];
        match *kind {
            "exec" => {
                if list_at(action, &["command"]).is_empty() {
                    faults.required(&format!("{here}.command"), "");
                }
            }
            "httpGet" => http_get(action, &here, faults),
            "tcpSocket" => faults.port(&action["port"], &format!("{here}.port")),
            "grpc" => faults.port(&action["port"], &format!("{here}.port")),
            _ => {
                let secs = action["seconds"].as_i64().unwrap_or(0);
                if !(0..=grace_secs).contains(&secs) {
                    let detail =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_secs})");
                    faults.invalid(&here, secs, detail);
                }
            }
        }
    }
    if !any {
        faults.required(path, "must specify a handler type");
    }
}

fn http_get(action: &Value, path: &str, faults: &mut Faults) {
    if action["path"].as_str().unwrap_or_default().is_empty() {
        faults.required(&format!("{path}.path"), "");
    }
    faults.port(&action["port"], &format!("{path}.port"));
    faults.one_of(action, "scheme", path, &["HTTP", "HTTPS"]);
    for (at, header) in list_at(action, &["httpHeaders"]).iter().enumerate() {
        let name = header["name"].as_str().unwrap_or_default();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
                used for validation is '[-A-Za-z0-9]+')";
            faults.invalid(&format!("{path}.httpHeaders[{at}].name"), name, detail);
        }
    }
}
