//! What a line is about: tags and attributes of a container, as log options ask for them. Pure.

use std::collections::BTreeMap;

use crate::core::records::ContainerRecord;
use crate::decide::merge::command_line;
use crate::{ContainerId, Error, LogConfig, Result};

/// The container, as tags and messages speak of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image_id: String,
    pub(crate) image_name: String,
    pub(crate) command: String,
    pub(crate) created: Option<jiff::Timestamp>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) env: Vec<String>,
}

impl Subject {
    pub(crate) fn new(id: ContainerId, record: &ContainerRecord) -> Self {
        let (program, args) = command_line(&record.config);
        let mut command = program;
        for arg in args {
            command.push(' ');
            command.push_str(&arg);
        }
        Self {
            id: id.to_string(),
            name: record.name.clone(),
            image_id: record.image.to_string(),
            image_name: record.config.image.clone(),
            command,
            created: Some(record.created_at),
            labels: record.config.labels.clone(),
            env: record.config.env.clone(),
        }
    }

    pub(crate) fn short_id(&self) -> &str {
        &self.id[..self.id.len().min(12)]
    }

    fn field(&self, name: &str) -> Option<String> {
        let bare = self.image_id.split_once(':').map_or(self.image_id.as_str(), |(_, hex)| hex);
        Some(match name {
            "ID" => self.short_id().to_owned(),
            "FullID" => self.id.clone(),
            "Name" => self.name.clone(),
            "ImageID" => bare[..bare.len().min(12)].to_owned(),
            "ImageFullID" => self.image_id.clone(),
            "ImageName" => self.image_name.clone(),
            "Command" => self.command.clone(),
            "DaemonName" => "docker".to_owned(),
            _ => return None,
        })
    }

    /// The tag: a template of fields, by default the short id.
    pub(crate) fn tag(&self, log: &LogConfig) -> String {
        let template = log.options.get("tag").map(String::as_str).unwrap_or_default();
        if template.is_empty() {
            return self.short_id().to_owned();
        }
        // Checked at create.
        expand(template, &|name| self.field(name)).unwrap_or_else(|_| self.short_id().to_owned())
    }

    /// What `labels`, `env` and their patterns choose.
    pub(crate) fn attributes(&self, log: &LogConfig) -> BTreeMap<String, String> {
        let option = |name: &str| log.options.get(name).map(String::as_str).unwrap_or_default();
        let chooser = |list: &str, pattern: &str| {
            let names: Vec<String> = option(list).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
            let pattern = Some(option(pattern)).filter(|p| !p.is_empty()).and_then(|p| regex::Regex::new(p).ok());
            move |name: &str| names.iter().any(|n| n == name) || pattern.as_ref().is_some_and(|p| p.is_match(name))
        };
        let (labels, env) = (chooser("labels", "labels-regex"), chooser("env", "env-regex"));
        let mut chosen: BTreeMap<String, String> =
            self.labels.iter().filter(|(name, _)| labels(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let variables = self.env.iter().filter_map(|entry| entry.split_once('='));
        chosen.extend(variables.filter(|(name, _)| env(name)).map(|(k, v)| (k.to_owned(), v.to_owned())));
        chosen
    }

    /// What goes beside each record of a json-file, as a JSON object.
    pub(crate) fn file_attributes(&self, log: &LogConfig) -> Option<String> {
        let mut attributes = self.attributes(log);
        if log.options.get("tag").is_some_and(|tag| !tag.is_empty()) {
            attributes.insert("tag".into(), self.tag(log));
        }
        (!attributes.is_empty()).then(|| serde_json::to_string(&attributes).expect("a map of strings is JSON"))
    }
}

pub(super) fn check_tag(template: &str) -> Result<()> {
    let known = Subject::default();
    expand(template, &|name| known.field(name))
        .map(drop)
        .map_err(|why| Error::Invalid(format!("invalid log tag {template:?}: {why}")))
}

/// `{{.Field}}`s in a text. Go's templates know more; what they would compute is refused.
fn expand(template: &str, field: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, tail) = after.split_once("}}").ok_or("unclosed action")?;
        let name =
            inside.trim().strip_prefix('.').ok_or_else(|| format!("only fields are supported, not {inside:?}"))?;
        out.push_str(before);
        out.push_str(&field(name).ok_or_else(|| format!("no field {name}"))?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image_id: "sha256:fedcba98765432100000".into(),
            image_name: "busybox".into(),
            labels: [("tier".to_owned(), "web".to_owned()), ("other".into(), "x".into())].into(),
            env: vec!["STAGE=prod".into(), "PORT=1".into()],
            ..Default::default()
        }
    }

    fn log(pairs: &[(&str, &str)]) -> LogConfig {
        let options = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        LogConfig { driver: String::new(), options }
    }

    #[test]
    fn tags_are_templates_of_fields() {
        let rows = [
            ("", "0123456789ab"),
            ("{{.Name}}/{{ .ImageName }}-{{.ImageID}}", "web/busybox-fedcba987654"),
            ("plain", "plain"),
        ];
        for (template, wanted) in rows {
            assert_eq!(subject().tag(&log(&[("tag", template)])), wanted);
        }
        for bad in ["{{.Name", "{{index .Config}}", "{{.Nope}}"] {
            assert!(check_tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_are_chosen_by_name_and_pattern() {
        let shown = |pairs: &[(&str, &str)]| subject().file_attributes(&log(pairs)).unwrap_or_default();
        assert_eq!(shown(&[("labels", "tier,none"), ("env", "STAGE")]), r#"{"STAGE":"prod","tier":"web"}"#);
        assert_eq!(shown(&[("labels-regex", "^t"), ("env-regex", "^P")]), r#"{"PORT":"1","tier":"web"}"#);
        assert_eq!(shown(&[("tag", "{{.Name}}")]), r#"{"tag":"web"}"#);
        assert_eq!(shown(&[("labels", "none")]), "");
    }
}
