//! Job and CronJob.

use serde_json::{Value, json};

use super::rules::{Faults, default_to, spec, sub};
use super::{Strategy, podspec, status};
use crate::meta;

pub(super) const JOB: Strategy = Strategy {
    default: |object| {
        let labels_missing = object["metadata"].get("labels").is_none();
        default_job(spec(object));
        if labels_missing && let Some(labels) = object["spec"]["template"]["metadata"].get("labels").cloned() {
            meta::set(object, "labels", labels);
        }
    },
    prepare_create: |job| {
        // The controller knows its pods by the job's uid, which is set before this.
        let (name, uid) = (meta::name(job).to_owned(), meta::uid(job).to_owned());
        if job["spec"]["manualSelector"] != true && !uid.is_empty() {
            let labels = meta::object_at(job, &["spec", "template", "metadata", "labels"]);
            for (key, value) in [
                ("batch.kubernetes.io/controller-uid", &uid),
                ("controller-uid", &uid),
                ("batch.kubernetes.io/job-name", &name),
                ("job-name", &name),
            ] {
                labels.entry(key).or_insert_with(|| value.as_str().into());
            }
            job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        }
    },
    validate: |job, faults| validate_job(&job["spec"], "spec", faults),
    validate_update: |new, old, faults| {
        let fixed =
            ["selector", "completionMode", "podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "managedBy"];
        for field in fixed {
            faults.immutable(new["spec"].get(field), old["spec"].get(field), &format!("spec.{field}"));
        }
        if old["spec"]["completionMode"] != "Indexed" {
            faults.immutable(new["spec"].get("completions"), old["spec"].get("completions"), "spec.completions");
        }
        if new["spec"]["template"] != old["spec"]["template"] && old["spec"]["suspend"] != true {
            faults.invalid("spec.template", new["spec"]["template"].clone(), "field is immutable");
        }
    },
    generation: true,
    validate_status: status::job,
    ..Strategy::PLAIN
};

pub(super) const CRON_JOB: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        default_to(spec, "concurrencyPolicy", "Allow");
        default_to(spec, "suspend", false);
        default_to(spec, "successfulJobsHistoryLimit", 3);
        default_to(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = sub(spec, "jobTemplate").and_then(|template| sub(template, "spec")) {
            // The template gets the pod's defaults, not the job's: those come when a job is made.
            podspec::default_template(job);
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        let schedule = spec["schedule"].as_str().unwrap_or_default();
        if schedule.is_empty() {
            faults.required("spec.schedule", "");
        } else if let Some(fault) = cron_fault(schedule) {
            faults.invalid("spec.schedule", schedule, fault);
        }
        if let Some(zone) = spec["timeZone"].as_str() {
            if zone.eq_ignore_ascii_case("local") {
                let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
                faults.invalid("spec.timeZone", zone, detail);
            } else if zone.is_empty() {
                faults.invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string");
            } else if !jiff::tz::db().is_definitively_empty() && jiff::tz::TimeZone::get(zone).is_err() {
                faults.invalid("spec.timeZone", zone, format!("unknown time zone {zone}"));
            }
        }
        faults.required_one_of(spec, "concurrencyPolicy", "spec", &["Allow", "Forbid", "Replace"]);
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            faults.non_negative(spec, field, "spec");
        }
        validate_job(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", faults);
        if meta::name(object).len() > 52 {
            faults.invalid("metadata.name", meta::name(object), "must be no more than 52 characters");
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

fn default_job(spec: &mut serde_json::Map<String, Value>) {
    podspec::default_template(spec);
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".into(), 1.into());
        spec.insert("parallelism".into(), 1.into());
    }
    default_to(spec, "parallelism", 1);
    if spec.get("backoffLimitPerIndex").is_some() {
        default_to(spec, "backoffLimit", i32::MAX);
    }
    default_to(spec, "backoffLimit", 6);
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    let replacement = if spec.get("podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    default_to(spec, "podReplacementPolicy", replacement);
}

fn validate_job(spec: &Value, path: &str, faults: &mut Faults) {
    let fields = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for field in fields {
        faults.non_negative(spec, field, path);
    }
    if spec["maxFailedIndexes"].is_number() && !spec["backoffLimitPerIndex"].is_number() {
        let detail = "when maxFailedIndexes is specified";
        faults.required(&format!("{path}.backoffLimitPerIndex"), detail);
    }
    faults.one_of(spec, "completionMode", path, &["NonIndexed", "Indexed"]);
    if spec["completionMode"] == "Indexed" {
        if !spec["completions"].is_number() {
            faults.required(&format!("{path}.completions"), "when completion mode is Indexed");
        }
        if let Some(side_by_side) = spec["parallelism"].as_i64().filter(|count| *count > 100_000) {
            let detail = "must be less than or equal to 100000 when completion mode is Indexed";
            faults.invalid(&format!("{path}.parallelism"), side_by_side, detail);
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if !spec[field].is_null() {
                faults.invalid(&format!("{path}.{field}"), spec[field].clone(), "requires indexed completion mode");
            }
        }
    }
    if spec["completionMode"] == "Indexed" && spec["successPolicy"].is_object() {
        success_policy(spec, &format!("{path}.successPolicy.rules"), faults);
    }
    let failure_policy = spec["podFailurePolicy"].is_object();
    if failure_policy {
        pod_failure_policy(spec, &format!("{path}.podFailurePolicy"), faults);
    }
    let replacements: &[&str] = if failure_policy { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    faults.one_of(spec, "podReplacementPolicy", path, replacements);
    podspec::validate_template(&spec["template"], &format!("{path}.template"), faults);
    let here = format!("{path}.template.spec.restartPolicy");
    match spec["template"]["spec"]["restartPolicy"].as_str().unwrap_or_default() {
        "Always" => faults.required(&here, "valid values: \"OnFailure\", \"Never\""),
        policy if failure_policy && policy != "Never" => {
            faults.invalid(&here, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        _ => {}
    }
}

const SUCCESS_RULES_MAX: usize = 20;

fn success_policy(spec: &Value, path: &str, faults: &mut Faults) {
    let completions = spec["completions"].as_i64().unwrap_or(0);
    let rules = meta::list_at(spec, &["successPolicy", "rules"]);
    if rules.is_empty() {
        faults.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    faults.at_most(rules, SUCCESS_RULES_MAX, path);
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
        if count.is_none() && indexes.is_none() {
            faults.required(&path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        faults.non_negative(rule, "succeededCount", &path);
        let counted = |faults: &mut Faults, max: i64, what: &str| {
            if let Some(count) = count.filter(|count| *count > max) {
                let detail = format!("must be less than or equal to {max} (the number of {what})");
                faults.invalid(&format!("{path}.succeededCount"), count, detail);
            }
        };
        counted(faults, completions, "specified completions");
        match indexes.map(|text| (text, index_ranges(text, completions))) {
            None => {}
            Some((_, Ok(ranges))) => {
                let named = ranges.iter().map(|(from, to)| to - from + 1).sum();
                counted(faults, named, "indexes in the specified succeededIndexes field");
            }
            Some((text, Err(fault))) => {
                let detail = format!("error parsing succeededIndexes: {fault}");
                faults.invalid(&format!("{path}.succeededIndexes"), text, detail);
            }
        }
    }
}

/// The ranges of `1,3-5`: indexes below `completions` that rise, or why they are not.
pub(super) fn index_ranges(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    let index = |text: &str| match text.parse::<i64>() {
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        parsed => parsed.map_err(|_| format!("cannot convert string to integer for index: {text:?}")),
    };
    let rising = |previous: i64, current: i64| match previous >= current {
        true => Err(format!("non-increasing order, previous: {previous}, current: {current}")),
        false => Ok(()),
    };
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let range = match part.split('-').collect::<Vec<_>>()[..] {
            [one] => (index(one)?, index(one)?),
            [from, to] => {
                let range = (index(from)?, index(to)?);
                rising(range.0, range.1)?;
                range
            }
            _ => {
                let why = "violates the requirement that an index interval can have at most two parts separated by '-'";
                return Err(format!("the fragment {part:?} {why}"));
            }
        };
        if let Some((_, last)) = ranges.last() {
            rising(*last, range.0)?;
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn pod_failure_policy(spec: &Value, path: &str, faults: &mut Faults) {
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| meta::list_at(spec, &["template", "spec", list]))
        .filter_map(|container| container["name"].as_str())
        .collect();
    for (at, rule) in meta::list_at(spec, &["podFailurePolicy", "rules"]).iter().enumerate() {
        let here = format!("{path}.rules[{at}]");
        faults.required_one_of(rule, "action", &here, &["Count", "FailIndex", "FailJob", "Ignore"]);
        if rule["action"] == "FailIndex" && !spec["backoffLimitPerIndex"].is_number() {
            let detail = "requires the backoffLimitPerIndex to be set";
            faults.invalid(&format!("{here}.action"), "FailIndex", detail);
        }
        let codes = &rule["onExitCodes"];
        let conditions = meta::list_at(rule, &["onPodConditions"]);
        if codes.is_object() {
            let here = format!("{here}.onExitCodes");
            faults.required_one_of(codes, "operator", &here, &["In", "NotIn"]);
            if let Some(name) = codes["containerName"].as_str().filter(|name| !containers.contains(name)) {
                let detail = "must be one of the container or initContainer names in the pod template";
                faults.invalid(&format!("{here}.containerName"), name, detail);
            }
            let values = meta::list_at(codes, &["values"]);
            if values.is_empty() {
                faults.invalid(&format!("{here}.values"), codes["values"].clone(), "at least one value is required");
            }
            if codes["operator"] == "In" {
                for (n, _) in values.iter().enumerate().filter(|(_, value)| **value == 0) {
                    faults.invalid(&format!("{here}.values[{n}]"), 0, "must not be 0 for the In operator");
                }
            }
        }
        for (n, condition) in conditions.iter().enumerate() {
            let here = format!("{here}.onPodConditions[{n}]");
            let kind = condition["type"].as_str().unwrap_or_default();
            faults.all_invalid(&format!("{here}.type"), kind, crate::names::qualified_name(kind));
            faults.required_one_of(condition, "status", &here, &["False", "True", "Unknown"]);
        }
        match (codes.is_object(), !conditions.is_empty()) {
            (true, true) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                faults.invalid(&here, Value::Null, detail);
            }
            (false, false) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                faults.invalid(&here, Value::Null, detail);
            }
            _ => {}
        }
    }
}

/// Why this is no schedule: five fields of `*`, numbers, names, ranges, steps and lists, or `@daily` and the like.
fn cron_fault(schedule: &str) -> Option<String> {
    let text = match schedule.strip_prefix("TZ=").or(schedule.strip_prefix("CRON_TZ=")) {
        Some(_) => return Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".into()),
        None => schedule.trim(),
    };
    if let Some(word) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        return (!known.contains(&word) && !word.starts_with("every "))
            .then(|| format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
    let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    for (at, (field, (low, high))) in fields.iter().zip(bounds).enumerate() {
        let number = |text: &str| -> Option<u32> {
            let word = text.to_ascii_lowercase();
            match at {
                3 => months.iter().position(|name| *name == word).map(|n| n as u32 + 1),
                4 => days.iter().position(|name| *name == word).map(|n| n as u32),
                _ => None,
            }
            .or_else(|| text.parse().ok())
            .filter(|n| (low..=high).contains(n))
        };
        for part in field.split(',') {
            let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
            if step.is_some_and(|step| step.parse::<u32>().ok().is_none_or(|step| step == 0)) {
                return Some(format!("failed to parse step of {part:?}"));
            }
            let good = match range.split_once('-') {
                _ if range == "*" || range == "?" => true,
                Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
                None => number(range).is_some(),
            };
            if !good {
                return Some(format!("failed to parse {part:?}: not a number, name or range within {low}-{high}"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_judged() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-mar mon", "@daily", "@every 5m", "0 0 * * 7"] {
            assert_eq!(cron_fault(good), None, "{good}");
        }
        for bad in ["* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "@never", "TZ=UTC * * * * *", "5-1 * * * *"] {
            assert!(cron_fault(bad).is_some(), "{bad}");
        }
    }
}
