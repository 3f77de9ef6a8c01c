//! `images`, `rmi`, `tag`, `history`, `pull`.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use super::{Command, for_each, out};
use crate::client::http::encode;
use crate::client::{filters, query};
use crate::failure::Failure;
use crate::flags::{Arity, list, switch, text};
use crate::show::{self, Headings};
use crate::text::{ellipsis, short_id};
use crate::units;

const HEADINGS: Headings = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

pub(super) static IMAGES: Command = Command {
    name: "images",
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    examples: "  knarr images\n  knarr images --filter dangling=true -q\n  knarr images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
    flags: &[&[
        switch("all", "Show all images (default hides intermediate images)").short('a'),
        switch("digests", "Show digests"),
        list("filter", "Filter output based on conditions provided").short('f'),
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        switch("no-trunc", "Don't truncate output"),
        switch("quiet", "Only show image IDs").short('q'),
        switch("tree", "").refused("images for several platforms are not listed as a tree yet"),
    ]],
    interspersed: true,
    arity: Arity::Between(0, 1),
    run: |context, matches| {
        let mut wanted: Vec<String> = matches.list("filter").to_vec();
        if let Some(name) = matches.arguments.first() {
            wanted.push(format!("reference={name}"));
        }
        let filters = filters(&wanted)?;
        let mut parameters = Vec::new();
        if matches.is("all") {
            parameters.push(("all", "1"));
        }
        if !wanted.is_empty() {
            parameters.push(("filters", &filters));
        }
        let answer = context.client.get(&format!("/images/json{}", query(&parameters)))?;
        let now = units::now();
        let (whole, digests) = (matches.is("no-trunc"), matches.is("digests"));
        let rows: Vec<Value> =
            answer.as_array().into_iter().flatten().flat_map(|entry| image_rows(entry, whole, digests, now)).collect();
        if matches.is("quiet") {
            out(&show::rows("{{.ID}}", HEADINGS, &rows)?)?;
            return Ok(0);
        }
        let default = match digests {
            true => "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
            false => "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        };
        let format = matches.text("format").filter(|format| *format != "table").unwrap_or(default);
        out(&show::rows(format, HEADINGS, &rows)?)?;
        Ok(0)
    },
};

/// One row for each name of an image; an image without a name has one of `<none>`.
fn image_rows(entry: &Value, whole: bool, digests: bool, now: i64) -> Vec<Value> {
    let strings = |name: &str| -> Vec<&str> {
        entry[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|text| !text.starts_with("<none>"))
            .collect()
    };
    let split_tag = |name: &str| match name.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ => (name.to_owned(), "<none>".to_owned()),
    };
    let digest_of: Vec<(String, String)> = strings("RepoDigests")
        .into_iter()
        .filter_map(|name| name.split_once('@').map(|(repository, digest)| (repository.to_owned(), digest.to_owned())))
        .collect();
    let digest = |repository: &str| {
        digest_of
            .iter()
            .find(|(known, _)| known == repository)
            .map_or("<none>", |(_, digest)| digest.as_str())
            .to_owned()
    };
    let mut names: Vec<(String, String, String)> = strings("RepoTags")
        .into_iter()
        .map(split_tag)
        .map(|(repository, tag)| {
            let digest = digest(&repository);
            (repository, tag, digest)
        })
        .collect();
    if names.is_empty() {
        names = match digest_of.as_slice() {
            [] => vec![("<none>".into(), "<none>".into(), "<none>".into())],
            known => {
                known.iter().map(|(repository, digest)| (repository.clone(), "<none>".into(), digest.clone())).collect()
            }
        };
    }
    let id = entry["Id"].as_str().unwrap_or("");
    let created = entry["Created"].as_i64().unwrap_or(0);
    let size = units::size(entry["Size"].as_f64().unwrap_or(0.0));
    names
        .into_iter()
        .map(|(repository, tag, digest)| {
            json!({
                "ID": if whole { id } else { short_id(id) },
                "Repository": repository,
                "Tag": tag,
                "Digest": if digests { digest } else { "<none>".to_owned() },
                "CreatedSince": if created > 0 { format!("{} ago", units::human_duration(now - created)) } else { "N/A".into() },
                "CreatedAt": if created > 0 { units::go_time(created) } else { "N/A".into() },
                "Size": size,
                "VirtualSize": size,
                "Containers": entry["Containers"].as_i64().filter(|count| *count >= 0).map_or("N/A".into(), |count| count.to_string()),
                "SharedSize": "N/A",
                "UniqueSize": "N/A",
            })
        })
        .collect()
}

pub(super) static RMI: Command = Command {
    name: "rmi",
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove one or more images",
    examples: "  knarr rmi busybox:1",
    flags: &[&[
        switch("force", "Force removal of the image").short('f'),
        switch("no-prune", "Do not delete untagged parents"),
        list("platform", "").refused("an image is removed for all platforms"),
    ]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| {
        let mut parameters = Vec::new();
        if matches.is("force") {
            parameters.push(("force", "1"));
        }
        if matches.is("no-prune") {
            parameters.push(("noprune", "1"));
        }
        let parameters = query(&parameters);
        for_each(&matches.arguments, |name| {
            let answer = match context.client.delete(&format!("/images/{}{parameters}", encode(name))) {
                Err(failure) if matches.is("force") && failure.is_not_found() => {
                    eprintln!("{}", failure.message);
                    return Ok(());
                }
                other => other?,
            };
            out(&removed(&answer))
        })
    },
};

pub(super) fn removed(list: &Value) -> String {
    let mut text = String::new();
    for item in list.as_array().into_iter().flatten() {
        if let Some(deleted) = item["Deleted"].as_str() {
            text.push_str(&format!("Deleted: {deleted}\n"));
        } else if let Some(untagged) = item["Untagged"].as_str() {
            text.push_str(&format!("Untagged: {untagged}\n"));
        }
    }
    text
}

pub(super) static TAG: Command = Command {
    name: "tag",
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    examples: "  knarr tag busybox:1 tools:latest",
    flags: &[],
    interspersed: true,
    arity: Arity::Exactly(2),
    run: |context, matches| {
        let target: vocab::Reference = matches.arguments[1].parse().map_err(|error| {
            Failure::new(format!(
                "Error parsing reference: {} is not a valid repository/tag: {error}",
                crate::text::quoted(&matches.arguments[1])
            ))
        })?;
        let target = target.or_latest();
        let repository = target.familiar_repository();
        let parameters = query(&[("repo", &repository), ("tag", target.tag().unwrap_or("latest"))]);
        context.client.post(&format!("/images/{}/tag{parameters}", encode(&matches.arguments[0])), None)?;
        Ok(0)
    },
};

const HISTORY_HEADINGS: Headings = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

pub(super) static HISTORY: Command = Command {
    name: "history",
    usage: "[OPTIONS] IMAGE",
    about: "Show the history of an image",
    examples: "",
    flags: &[&[
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        switch("human", "Print sizes and dates in human readable format").short('H').default("true"),
        switch("no-trunc", "Don't truncate output"),
        switch("quiet", "Only show image IDs").short('q'),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let answer = context.client.get(&format!("/images/{}/history", encode(&matches.arguments[0])))?;
        let (human, whole, now) = (matches.is_or("human", true), matches.is("no-trunc"), units::now());
        let rows: Vec<Value> = answer
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| {
                let id = entry["Id"].as_str().unwrap_or("");
                let by = entry["CreatedBy"].as_str().unwrap_or("").replace('\t', " ");
                let created = entry["Created"].as_i64().unwrap_or(0);
                let size = entry["Size"].as_f64().unwrap_or(0.0);
                let since = match (created > 0, human) {
                    (false, _) => "N/A".into(),
                    (true, true) => format!("{} ago", units::human_duration(now - created)),
                    (true, false) => units::rfc3339_local(created),
                };
                json!({
                    "ID": if whole { id } else { short_id(id) },
                    "CreatedSince": since,
                    "CreatedAt": units::rfc3339_local(created),
                    "CreatedBy": if whole { by } else { ellipsis(&by, 45) },
                    "Size": if human { units::size(size) } else { (size as i64).to_string() },
                    "Comment": entry["Comment"].as_str().unwrap_or(""),
                })
            })
            .collect();
        let default = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
        let chosen = matches.text("format").filter(|format| *format != "table").unwrap_or(default);
        out(&show::rows(if matches.is("quiet") { "{{.ID}}" } else { chosen }, HISTORY_HEADINGS, &rows)?)?;
        Ok(0)
    },
};

/// Prints the lines of a progress stream; an error in it is the command's.
pub(super) fn progress(answer: impl std::io::Read, quiet: bool) -> Result<(), Failure> {
    for line in BufReader::new(answer).lines() {
        let line = line?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(error) =
            message["error"].as_str().or(message.pointer("/errorDetail/message").and_then(Value::as_str))
        {
            return Err(Failure::new(error));
        }
        if quiet {
            continue;
        }
        if let Some(text) = message["stream"].as_str() {
            out(text)?;
        } else if let Some(status) = message["status"].as_str()
            && message.get("progressDetail").is_none_or(|detail| detail.as_object().is_none_or(|map| map.is_empty()))
        {
            let id = message["id"].as_str().map(|id| format!("{id}: ")).unwrap_or_default();
            out(&format!("{id}{status}\n"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let entry = json!({
            "Id": "sha256:0123456789abcdef", "RepoTags": ["busybox:1", "host:5000/tools:latest"], "RepoDigests": ["busybox@sha256:ff"],
            "Created": 100, "Size": 4_261_550,
        });
        let rows = image_rows(&entry, false, true, 100 + 3 * 86400);
        let names: Vec<String> =
            rows.iter().map(|row| format!("{} {} {}", row["Repository"], row["Tag"], row["Digest"])).collect();
        assert_eq!(names, ["\"busybox\" \"1\" \"sha256:ff\"", "\"host:5000/tools\" \"latest\" \"<none>\""]);
        assert_eq!(
            (&rows[0]["ID"], &rows[0]["CreatedSince"], &rows[0]["Size"]),
            (&json!("0123456789ab"), &json!("3 days ago"), &json!("4.26MB"))
        );
    }

    #[test]
    fn an_image_without_a_name_says_none() {
        let rows = image_rows(&json!({"Id": "sha256:00", "RepoTags": null}), false, false, 0);
        assert_eq!((&rows[0]["Repository"], &rows[0]["Tag"]), (&json!("<none>"), &json!("<none>")));
    }
}
