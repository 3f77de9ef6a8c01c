//! update: new limits for a running container.

use std::io::Read;

use linux::cgroup::Resources;
use oci_spec::runtime::LinuxResources;

use crate::plan::resources_of;

use super::args::{Flag, Parsed, parse, value};
use super::control::group;
use super::state::{Dir, Doing};
use super::{Context, Fatal, Outcome};

const FLAGS: &[Flag] = &[
    value(&["resources", "r"]),
    value(&["blkio-weight"]),
    value(&["cpu-period"]),
    value(&["cpu-quota"]),
    value(&["cpu-burst"]),
    value(&["cpu-rt-period"]),
    value(&["cpu-rt-runtime"]),
    value(&["cpu-share"]),
    value(&["cpuset-cpus"]),
    value(&["cpuset-mems"]),
    value(&["cpu-idle"]),
    value(&["memory"]),
    value(&["memory-reservation"]),
    value(&["memory-swap"]),
    value(&["kernel-memory"]),
    value(&["kernel-memory-tcp"]),
    value(&["pids-limit"]),
    value(&["l3-cache-schema"]),
    value(&["mem-bw-schema"]),
];

pub(super) fn update(context: &Context, rest: &[String]) -> Outcome {
    let flags = parse(rest, FLAGS)?;
    // runc takes flags after the id, too.
    let (id, flags) = match flags.words.split_first() {
        None => return Err("runc: \"update\" requires exactly 1 argument(s), and 0 were given".into()),
        Some((id, [])) => (id.clone(), flags),
        Some((id, more)) => {
            let mut all: Vec<String> = rest.iter().take(rest.len() - more.len() - 1).cloned().collect();
            all.extend(more.iter().cloned());
            (id.clone(), parse(&all, FLAGS)?)
        }
    };
    for name in ["l3-cache-schema", "mem-bw-schema"] {
        if flags.get(name).is_some() {
            return Err(format!("--{name}: Intel RDT is not supported").into());
        }
    }
    let resources = match flags.get("resources") {
        Some(path) => resources_of(&read(path)?)?,
        None => from_flags(&flags)?,
    };
    let dir = Dir::of(&context.root, &id)?;
    let record = dir.read()?;
    if record.doing(&dir) == Doing::Stopped {
        return Err("container not running".into());
    }
    let group = group(&record).ok_or("the container has no cgroup to change")?;
    for warning in group.apply(&resources)? {
        context.log.warn(&warning);
    }
    Ok(0)
}

fn read(path: &str) -> Result<LinuxResources, Fatal> {
    let mut bytes = Vec::new();
    if path == "-" {
        std::io::stdin().read_to_end(&mut bytes)?;
    } else {
        bytes = std::fs::read(path).map_err(|error| format!("--resources {path}: {error}"))?;
    }
    Ok(serde_json::from_slice(&bytes).map_err(|error| format!("--resources {path}: {error}"))?)
}

fn from_flags(flags: &Parsed) -> Result<Resources, Fatal> {
    let signed = |name: &str| -> Result<Option<i64>, Fatal> {
        let Some(text) = flags.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = text.parse().map_err(|_| format!("invalid value for {name}: {text}"))?;
        Ok(Some(number).filter(|n| *n != 0))
    };
    let unsigned = |name: &str| -> Result<Option<u64>, Fatal> {
        signed(name)?.map(|n| u64::try_from(n).map_err(|_| format!("invalid value for {name}: {n}").into())).transpose()
    };
    let bytes = |name: &str| -> Result<Option<i64>, Fatal> {
        let Some(text) = flags.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        Ok(Some(size(text).ok_or_else(|| format!("invalid value for {name}: {text}"))?).filter(|n| *n != 0))
    };
    let mut resources = Resources::default();
    let cpu = &mut resources.cpu;
    (cpu.period, cpu.quota, cpu.shares) = (unsigned("cpu-period")?, signed("cpu-quota")?, unsigned("cpu-share")?);
    (cpu.realtime_period, cpu.realtime_runtime) = (unsigned("cpu-rt-period")?, signed("cpu-rt-runtime")?);
    cpu.burst = match flags.get("cpu-burst").filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse().map_err(|_| format!("invalid value for cpu-burst: {text}"))?),
        None => None,
    };
    cpu.idle = match flags.get("cpu-idle").filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse().map_err(|_| format!("invalid value for cpu-idle: {text}"))?),
        None => None,
    };
    let text = |name: &str| flags.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    (cpu.cpus, cpu.mems) = (text("cpuset-cpus"), text("cpuset-mems"));
    let memory = &mut resources.memory;
    (memory.limit, memory.reservation, memory.swap) =
        (bytes("memory")?, bytes("memory-reservation")?, bytes("memory-swap")?);
    (memory.kernel, memory.kernel_tcp) = (bytes("kernel-memory")?, bytes("kernel-memory-tcp")?);
    resources.pids = signed("pids-limit")?;
    resources.block_io.weight = unsigned("blkio-weight")?
        .map(|n| u16::try_from(n).map_err(|_| Fatal::from(format!("invalid value for blkio-weight: {n}"))))
        .transpose()?;
    Ok(resources)
}

/// `64M`, `1.5g`, `1024`, `-1`; factors of 1024.
fn size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: f64 = match &lower[digits.len()..] {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    if factor == 1.0 {
        return digits.trim().parse().ok().filter(|n: &i64| *n >= 0);
    }
    let number: f64 = digits.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)?;
    let bytes = number * factor;
    (bytes < i64::MAX as f64).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("64M", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("-1", Some(-1)),
            ("-2", None),
            ("x", None),
            ("1q", None),
            ("9999999999999T", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
