//! The engine itself: `info`, `version`, `events`, `system df` and the prune commands.

use std::io::{BufRead, BufReader, Write};

use serde_json::{Map, Value, json};

use super::{Command, Context, out};
use crate::client::http::Body;
use crate::client::{filters, query};
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, list, switch, text};
use crate::show;
use crate::template::{Template, go_json};
use crate::text::printable;
use crate::units;

const FORMAT: Flag = text("format", "Format output using a custom template: json, or a Go template").short('f');

/// Renders one object by `--format`.
pub(super) fn formatted(format: &str, value: &Value) -> Result<u8, Failure> {
    if format == "json" {
        out(&format!("{}\n", go_json(value)))?;
        return Ok(0);
    }
    let invalid = |problem: String| Failure::new(format!("template parsing error: template: :1: {problem}"));
    let template = Template::parse(format).map_err(|problem| invalid(problem).code(64))?.strict();
    out(&format!("{}\n", template.render(value).map_err(invalid)?))?;
    Ok(0)
}

pub(super) static VERSION: Command = Command {
    name: "version",
    usage: "[OPTIONS]",
    about: "Show the version information",
    examples: "  knarr version --format '{{.Server.Version}}'",
    flags: &[&[FORMAT]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let server = context.client.get("/version");
        let client = json!({
            "Version": env!("CARGO_PKG_VERSION"),
            "ApiVersion": "1.47",
            "Os": "linux",
            "Arch": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "Context": "default",
        });
        if let Some(format) = matches.text("format") {
            let code = formatted(format, &json!({"Client": client, "Server": server.as_ref().ok()}))?;
            return server.map(|_| code);
        }
        let field = |value: &Value, name: &str| value[name].as_str().unwrap_or("").to_owned();
        let mut text = format!(
            "Client: Knarr\n Version:           {}\n API version:       {}\n OS/Arch:           {}/{}\n",
            field(&client, "Version"),
            field(&client, "ApiVersion"),
            field(&client, "Os"),
            field(&client, "Arch"),
        );
        let server = match server {
            Ok(server) => server,
            Err(failure) => {
                out(&text)?;
                return Err(failure);
            }
        };
        let name = server.pointer("/Platform/Name").and_then(Value::as_str).filter(|name| !name.is_empty());
        text.push_str(&format!(
            "\nServer: {}\n Engine:\n  Version:          {}\n  API version:      {} (minimum version {})\n  OS/Arch:          {}/{}\n  Kernel:           {}\n",
            name.unwrap_or("Knarr"),
            field(&server, "Version"),
            field(&server, "ApiVersion"),
            field(&server, "MinAPIVersion"),
            field(&server, "Os"),
            field(&server, "Arch"),
            field(&server, "KernelVersion"),
        ));
        out(&text)?;
        Ok(0)
    },
};

pub(super) static INFO: Command = Command {
    name: "info",
    usage: "[OPTIONS]",
    about: "Display information about the engine and this machine",
    examples: "  knarr info --format '{{.Containers}} containers'",
    flags: &[&[FORMAT]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let info = context.client.get("/info")?;
        if let Some(format) = matches.text("format") {
            return formatted(format, &info);
        }
        out(&describe(context, &info))?;
        for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            eprintln!("{warning}");
        }
        Ok(0)
    },
};

fn describe(context: &Context, info: &Value) -> String {
    let text = |name: &str| match &info[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut lines = vec![
        format!("Client: Knarr {}", env!("CARGO_PKG_VERSION")),
        format!(" Host: {}", context.client.host()),
        String::new(),
        "Server:".into(),
        format!(" Containers: {}", text("Containers")),
        format!("  Running: {}", text("ContainersRunning")),
        format!("  Paused: {}", text("ContainersPaused")),
        format!("  Stopped: {}", text("ContainersStopped")),
        format!(" Images: {}", text("Images")),
        format!(" Server Version: {}", text("ServerVersion")),
        format!(" Storage Driver: {}", text("Driver")),
    ];
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        lines.push(format!("  {}: {}", pair[0].as_str().unwrap_or(""), pair[1].as_str().unwrap_or("")));
    }
    let plugins = |kind: &str| {
        let names = info["Plugins"][kind].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(" ")
    };
    let security = info["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend([
        format!(" Logging Driver: {}", text("LoggingDriver")),
        format!(" Cgroup Driver: {}", text("CgroupDriver")),
        format!(" Cgroup Version: {}", text("CgroupVersion")),
        format!(" Networks: {}", plugins("Network")),
        format!(" Log: {}", plugins("Log")),
        format!(" Default Runtime: {}", text("DefaultRuntime")),
        format!(" Security Options: {}", security.collect::<Vec<_>>().join(" ")),
        format!(" Kernel Version: {}", text("KernelVersion")),
        format!(" Operating System: {}", text("OperatingSystem")),
        format!(" OSType: {}", text("OSType")),
        format!(" Architecture: {}", text("Architecture")),
        format!(" CPUs: {}", text("NCPU")),
        format!(" Total Memory: {}", units::size_binary(info["MemTotal"].as_f64().unwrap_or(0.0))),
        format!(" Name: {}", text("Name")),
        format!(" ID: {}", text("ID")),
        format!(" Root Dir: {}", text("DockerRootDir")),
        format!(" Live Restore Enabled: {}", text("LiveRestoreEnabled")),
    ]);
    lines.retain(|line| !line.ends_with(": ") || line == "Server:");
    lines.join("\n") + "\n"
}

pub(super) static EVENTS: Command = Command {
    name: "events",
    usage: "[OPTIONS]",
    about: "Get real time events from the engine",
    examples: "  knarr events --filter type=container\n  knarr events --since 1h --until 0s --format json",
    flags: &[&[
        list("filter", "Filter output based on conditions provided").short('f'),
        text("format", "Format output using a custom template: json, or a Go template"),
        text("since", "Show all events created since timestamp"),
        text("until", "Stream events until this timestamp"),
    ]],
    interspersed: true,
    arity: Arity::None,
    run: events,
};

fn events(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let now = units::now_nanos();
    let time = |flag: &str| matches.text(flag).map(|text| units::api_time(text, now)).transpose();
    let (since, until) = (time("since")?, time("until")?);
    let filters = filters(matches.list("filter"))?;
    let mut parameters = Vec::new();
    for (name, value) in [("since", &since), ("until", &until)] {
        if let Some(value) = value {
            parameters.push((name, value.as_str()));
        }
    }
    if !matches.list("filter").is_empty() {
        parameters.push(("filters", &filters));
    }
    let format = matches.text("format");
    let template = match format {
        None | Some("json") => None,
        Some(format) => {
            Some(Template::parse(format).map_err(|e| Failure::new(format!("template parsing error: {e}")).code(64))?)
        }
    };
    let answer = context.client.request("GET", &format!("/events{}", query(&parameters)), Body::Empty)?;
    let mut stdout = std::io::stdout().lock();
    for line in BufReader::new(answer).lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let event: Value =
            serde_json::from_str(&line).map_err(|e| Failure::new(format!("an event is not JSON: {e}")))?;
        let text = match (&template, format) {
            (Some(template), _) => template.render(&event)?,
            (None, Some(_)) => go_json(&event),
            (None, None) => printable(&event_line(&event)),
        };
        writeln!(stdout, "{text}")?;
        stdout.flush()?;
    }
    Ok(0)
}

/// `2026-11-21T01:02:03.000000000Z container start 0123 (image=busybox, name=web)`.
fn event_line(event: &Value) -> String {
    let nanos = i128::from(event["timeNano"].as_i64().unwrap_or(0));
    let time = jiff::Timestamp::from_nanosecond(nanos).map(|time| {
        let local = time.to_zoned(jiff::tz::TimeZone::system());
        local.strftime("%Y-%m-%dT%H:%M:%S%.9f%:z").to_string().replace("+00:00", "Z")
    });
    let field = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let empty = Map::new();
    let attributes = event.pointer("/Actor/Attributes").and_then(Value::as_object).unwrap_or(&empty);
    let pairs: Vec<String> =
        attributes.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    let pairs = if pairs.is_empty() { String::new() } else { format!(" ({})", pairs.join(", ")) };
    format!("{} {} {} {}{pairs}", time.unwrap_or_default(), field("/Type"), field("/Action"), field("/Actor/ID"))
}

pub(super) static DF: Command = Command {
    name: "df",
    usage: "[OPTIONS]",
    about: "Show disk usage of the engine",
    examples: "",
    flags: &[&[
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        switch("verbose", "Show detailed information on space usage").short('v'),
    ]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let usage = context.client.get("/system/df")?;
        if matches.is("verbose") {
            out(&verbose_usage(&usage)?)?;
            return Ok(0);
        }
        let headings: show::Headings = &[
            ("Type", "TYPE"),
            ("TotalCount", "TOTAL"),
            ("Active", "ACTIVE"),
            ("Size", "SIZE"),
            ("Reclaimable", "RECLAIMABLE"),
        ];
        let default = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
        let format = matches.text("format").filter(|format| *format != "table").unwrap_or(default);
        out(&show::rows(format, headings, &usage_rows(&usage))?)?;
        Ok(0)
    },
};

/// `df -v`: every image, container and volume with its size.
fn verbose_usage(usage: &Value) -> Result<String, Failure> {
    let list = |name: &str| usage[name].as_array().cloned().unwrap_or_default();
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or(0.0).max(0.0);
    let short = |value: &Value| {
        let id = value["Id"].as_str().unwrap_or("");
        crate::text::short_id(id).to_owned()
    };
    let now = units::now();
    let ago = |value: &Value| {
        let age = now - value["Created"].as_i64().unwrap_or(0);
        format!("{} ago", units::human_duration(age))
    };
    let mut images = vec!["REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS".to_owned()];
    for image in list("Images") {
        let name = image["RepoTags"][0].as_str().unwrap_or("<none>:<none>").to_owned();
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "<none>"));
        let (size, shared) = (number(&image, "Size"), number(&image, "SharedSize"));
        images.push(format!(
            "{repository}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}",
            short(&image),
            ago(&image),
            units::size4(size),
            units::size4(shared),
            units::size4((size - shared).max(0.0)),
            image["Containers"].as_i64().unwrap_or(0).max(0),
        ));
    }
    let mut containers = vec!["CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES".to_owned()];
    for container in list("Containers") {
        let text = |name: &str| container[name].as_str().unwrap_or("").to_owned();
        let volumes = container["Mounts"].as_array().into_iter().flatten().filter(|m| m["Type"] == "volume").count();
        let name = container["Names"][0].as_str().unwrap_or("").trim_start_matches('/').to_owned();
        containers.push(format!(
            "{}\t{}\t{}\t{volumes}\t{}\t{}\t{}\t{name}",
            short(&container),
            text("Image"),
            crate::text::quoted(&crate::text::ellipsis(&text("Command"), 20)),
            units::size4(number(&container, "SizeRw")),
            ago(&container),
            text("Status"),
        ));
    }
    let mut volumes = vec!["VOLUME NAME\tLINKS\tSIZE".to_owned()];
    for volume in list("Volumes").iter().map(super::volume::row) {
        let text = |name: &str| volume[name].as_str().unwrap_or("").to_owned();
        volumes.push(format!("{}\t{}\t{}", text("Name"), text("Links"), text("Size")));
    }
    let cache: f64 = list("BuildCache").iter().map(|record| number(record, "Size")).sum();
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: {}\n",
        show::align(&images),
        show::align(&containers),
        show::align(&volumes),
        units::size4(cache)
    ))
}

fn usage_rows(usage: &Value) -> Vec<Value> {
    let list = |name: &str| usage[name].as_array().cloned().unwrap_or_default();
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or(0.0).max(0.0);
    let row = |kind: &str, total: usize, active: usize, size: f64, reclaimable: f64| {
        let percent = if size > 0.0 { format!(" ({}%)", (reclaimable / size * 100.0) as i64) } else { String::new() };
        json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": units::size4(size),
            "Reclaimable": format!("{}{percent}", units::size4(reclaimable)),
        })
    };
    let images = list("Images");
    let used: Vec<&Value> = images.iter().filter(|image| image["Containers"].as_i64().unwrap_or(0) > 0).collect();
    let layers = usage["LayersSize"].as_f64().unwrap_or(0.0);
    let in_use: f64 = used.iter().map(|image| number(image, "Size") - number(image, "SharedSize")).sum();
    let containers = list("Containers");
    let running = |container: &&Value| matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"));
    let all: f64 = containers.iter().map(|container| number(container, "SizeRw")).sum();
    let idle: f64 = containers.iter().filter(|c| !running(c)).map(|container| number(container, "SizeRw")).sum();
    let volumes = list("Volumes");
    let volume = |value: &Value, name: &str| {
        value.pointer(&format!("/UsageData/{name}")).and_then(Value::as_f64).unwrap_or(0.0).max(0.0)
    };
    let volume_size: f64 = volumes.iter().map(|value| volume(value, "Size")).sum();
    let volume_idle: f64 =
        volumes.iter().filter(|value| volume(value, "RefCount") == 0.0).map(|value| volume(value, "Size")).sum();
    let volumes_used = volumes.iter().filter(|value| volume(value, "RefCount") > 0.0).count();
    let cache = list("BuildCache");
    let is = |record: &Value, name: &str| record[name] == true;
    let own = |record: &&Value| !is(record, "Shared");
    let cache_size: f64 = cache.iter().filter(own).map(|record| number(record, "Size")).sum();
    let unread = cache.iter().filter(own).filter(|record| !is(record, "InUse"));
    let cache_idle: f64 = unread.map(|record| number(record, "Size")).sum();
    vec![
        row("Images", images.len(), used.len(), layers, (layers - in_use).max(0.0)),
        row("Containers", containers.len(), containers.iter().filter(running).count(), all, idle),
        row("Local Volumes", volumes.len(), volumes_used, volume_size, volume_idle),
        row("Build Cache", cache.len(), cache.iter().filter(|r| is(r, "InUse")).count(), cache_size, cache_idle),
    ]
}

pub(super) const FORCE: Flag = switch("force", "Do not prompt for confirmation").short('f');
pub(super) const FILTER: Flag = list("filter", "Provide filter values (e.g. \"until=<timestamp>\")");
const ALL: Flag = switch("all", "Remove all unused images, not just dangling ones").short('a');

/// Asks on the terminal; no is the answer of a missing one.
pub(super) fn confirmed(matches: &Matches, warning: &str) -> Result<bool, Failure> {
    if matches.is("force") {
        return Ok(true);
    }
    out(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn prune_containers(context: &Context, wanted: &[String]) -> Result<(String, f64), Failure> {
    let answer =
        context.client.post(&format!("/containers/prune{}", query(&[("filters", &filters(wanted)?)])), None)?;
    let ids: Vec<&str> =
        answer["ContainersDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let text = if ids.is_empty() { String::new() } else { format!("Deleted Containers:\n{}\n\n", ids.join("\n")) };
    Ok((text, answer["SpaceReclaimed"].as_f64().unwrap_or(0.0)))
}

fn prune_images(context: &Context, wanted: &[String], all: bool) -> Result<(String, f64), Failure> {
    let mut wanted = wanted.to_vec();
    wanted.push(format!("dangling={}", !all));
    let answer = context.client.post(&format!("/images/prune{}", query(&[("filters", &filters(&wanted)?)])), None)?;
    let lines =
        super::images::removed(&answer["ImagesDeleted"]).replace("Untagged", "untagged").replace("Deleted", "deleted");
    let text = if lines.is_empty() { String::new() } else { format!("Deleted Images:\n{lines}\n") };
    Ok((text, answer["SpaceReclaimed"].as_f64().unwrap_or(0.0)))
}

pub(super) fn report(parts: &[(String, f64)]) -> Result<u8, Failure> {
    let text: String = parts.iter().map(|(text, _)| text.as_str()).collect();
    let total: f64 = parts.iter().map(|(_, bytes)| bytes).sum();
    out(&format!("{text}Total reclaimed space: {}\n", units::size4(total)))?;
    Ok(0)
}

pub(super) static CONTAINER_PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove all stopped containers",
    examples: "  knarr container prune -f --filter until=24h",
    flags: &[&[FORCE, FILTER]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| match confirmed(matches, "WARNING! This will remove all stopped containers.")? {
        true => report(&[prune_containers(context, matches.list("filter"))?]),
        false => Ok(0),
    },
};

pub(super) static IMAGE_PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove unused images",
    examples: "",
    flags: &[&[FORCE, FILTER, ALL]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let warning = match matches.is("all") {
            true => "WARNING! This will remove all images without at least one container associated to them.",
            false => "WARNING! This will remove all dangling images.",
        };
        match confirmed(matches, warning)? {
            true => report(&[prune_images(context, matches.list("filter"), matches.is("all"))?]),
            false => Ok(0),
        }
    },
};

pub(super) static NETWORK_PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove all unused networks",
    examples: "",
    flags: &[&[FORCE, FILTER]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let warning = "WARNING! This will remove all custom networks not used by at least one container.";
        if confirmed(matches, warning)? {
            out(&super::networks::prune(context, matches.list("filter"))?)?;
        }
        Ok(0)
    },
};

pub(super) static SYSTEM_PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove unused data",
    examples: "",
    flags: &[&[FORCE, FILTER, ALL, switch("volumes", "Prune anonymous volumes")]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let images = if matches.is("all") {
            "all images without at least one container associated to them"
        } else {
            "all dangling images"
        };
        let volumes =
            if matches.is("volumes") { "  - all anonymous volumes not used by at least one container\n" } else { "" };
        let warning = format!(
            "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n{volumes}  - {images}\n"
        );
        if !confirmed(matches, &warning)? {
            return Ok(0);
        }
        let wanted = matches.list("filter");
        let mut parts = vec![prune_containers(context, wanted)?];
        parts.push((super::networks::prune(context, wanted)?, 0.0));
        if matches.is("volumes") {
            // Only containers and images have an age.
            let ageless: Vec<String> = wanted.iter().filter(|f| !f.starts_with("until=")).cloned().collect();
            parts.push(super::volume::prune(context, &ageless, false)?);
        }
        parts.push(prune_images(context, wanted, matches.is("all"))?);
        report(&parts)
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({"Type": "container", "Action": "start", "timeNano": 0, "Actor": {"ID": "abc", "Attributes": {"image": "busybox", "name": "web"}}});
        assert!(
            event_line(&event).ends_with(" container start abc (image=busybox, name=web)"),
            "{}",
            event_line(&event)
        );
    }

    #[test]
    fn usage_is_summed_by_kind() {
        let usage = json!({
            "LayersSize": 1000, "Images": [{"Containers": 1, "Size": 600, "SharedSize": 0}, {"Containers": 0, "Size": 400, "SharedSize": 0}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
        });
        let rows = usage_rows(&usage);
        assert_eq!(
            rows[0],
            json!({"Type": "Images", "TotalCount": "2", "Active": "1", "Size": "1kB", "Reclaimable": "400B (40%)"})
        );
        assert_eq!(rows[1]["Reclaimable"], "30B (75%)");
    }
}
