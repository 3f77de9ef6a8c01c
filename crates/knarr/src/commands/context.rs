//! `context`: there is one, the engine that `--host` or `DOCKER_HOST` names. Docker's tools ask for it by the name `default`.

use serde_json::{Value, json};

use super::{Command, Context, out};
use crate::failure::Failure;
use crate::flags::{Arity, switch, text};
use crate::show::{self, Headings};

const ONLY: &str = "there is one context, \"default\": --host or DOCKER_HOST says where the engine is";

pub(super) static SHOW: Command = Command {
    name: "show",
    usage: "",
    about: "Print the name of the current context",
    examples: "",
    flags: &[&[]],
    interspersed: true,
    arity: Arity::None,
    run: |_, _| out("default\n").map(|()| 0),
};

pub(super) static USE: Command = Command {
    name: "use",
    usage: "CONTEXT",
    about: "Set the current context: there is only \"default\"",
    examples: "",
    flags: &[&[]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |_, matches| match matches.arguments[0].as_str() {
        "default" => out("default\n").map(|()| 0),
        other => Err(Failure::new(format!("context {other:?}: not found: {ONLY}"))),
    },
};

const HEADINGS: Headings =
    &[("Name", "NAME"), ("Description", "DESCRIPTION"), ("DockerEndpoint", "DOCKER ENDPOINT"), ("Error", "ERROR")];

fn row(context: &Context) -> Value {
    json!({
        "Name": "default",
        "Current": true,
        "Description": "Current engine based on --host and DOCKER_HOST",
        "DockerEndpoint": context.client.host().to_string(),
        "Error": "",
        "ContextType": "moby",
    })
}

pub(super) static LS: Command = Command {
    name: "ls",
    usage: "[OPTIONS]",
    about: "List contexts",
    examples: "",
    flags: &[&[
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        switch("quiet", "Only show context names").short('q'),
    ]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let format = match matches.text("format").unwrap_or("table") {
            _ if matches.is("quiet") => "{{.Name}}",
            "table" => "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
            format => format,
        };
        out(&show::rows(format, HEADINGS, &[row(context)])?)?;
        Ok(0)
    },
};

pub(super) static INSPECT: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] [CONTEXT...]",
    about: "Display detailed information on one or more contexts",
    examples: "",
    flags: &[&[text("format", "Format output using a custom template: json, or a Go template").short('f')]],
    interspersed: true,
    arity: Arity::AtLeast(0),
    run: |context, matches| {
        if let Some(other) = matches.arguments.iter().find(|name| *name != "default") {
            return Err(Failure::new(format!("context {other:?}: not found: {ONLY}")));
        }
        let value = json!({
            "Name": "default",
            "Metadata": {},
            "Endpoints": { "docker": { "Host": context.client.host().to_string(), "SkipTLSVerify": false } },
            "TLSMaterial": {},
            "Storage": { "MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>" },
        });
        match matches.text("format") {
            None | Some("") => out(&format!("{}\n", show::indented(&json!([value]))))?,
            Some(format) => {
                super::system::formatted(format, &value)?;
            }
        }
        Ok(0)
    },
};
