//! `inspect`: what the engine knows of a thing, as JSON or through a template.

use serde_json::{Value, json};

use super::{Command, Context, out};
use crate::client::http::encode;
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::show;
use crate::template::{Template, go_json};

const FORMAT: Flag = text("format", "Format output using a custom template: json, or a Go template").short('f');
const SIZE: Flag = switch("size", "Display total file sizes if the type is container").short('s');

pub(super) static INSPECT: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Return low-level information on containers and images",
    examples: "  knarr inspect web\n  knarr inspect -f '{{.State.Status}} {{.State.Pid}}' web\n  knarr inspect -f '{{json .Config.Env}}' busybox:1",
    flags: &[&[
        FORMAT,
        SIZE,
        text("type", "Only inspect objects of the given type (container, image, volume, network)"),
    ]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| match matches.text("type") {
        None => show_all(context, matches, &[Kind::Container, Kind::Image, Kind::Network, Kind::Volume]),
        Some("container") => show_all(context, matches, &[Kind::Container]),
        Some("image") => show_all(context, matches, &[Kind::Image]),
        Some("network") => show_all(context, matches, &[Kind::Network]),
        Some("volume") => show_all(context, matches, &[Kind::Volume]),
        Some(other) => Err(Failure::new(format!("unknown type: {}", crate::text::quoted(other)))),
    },
};

pub(super) static CONTAINER_INSPECT: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Display detailed information on one or more containers",
    examples: "",
    flags: &[&[FORMAT, SIZE]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| show_all(context, matches, &[Kind::Container]),
};

pub(super) static IMAGE_INSPECT: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Display detailed information on one or more images",
    examples: "",
    flags: &[&[FORMAT]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| show_all(context, matches, &[Kind::Image]),
};

pub(super) static VOLUME_INSPECT: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Display detailed information on one or more volumes",
    examples: "",
    flags: &[&[FORMAT]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| show_all(context, matches, &[Kind::Volume]),
};

pub(super) static NETWORK_INSPECT: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Display detailed information on one or more networks",
    examples: "  knarr network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' bridge",
    flags: &[&[FORMAT, text("scope", "").hidden(), switch("verbose", "Verbose output for diagnostics").short('v')]],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: |context, matches| show_all(context, matches, &[Kind::Network]),
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Image,
    Volume,
    Network,
}

fn find(context: &Context, matches: &Matches, name: &str, kinds: &[Kind]) -> Result<Value, Failure> {
    for kind in kinds {
        let size = if matches.given("size") && matches.is("size") { "?size=1" } else { "" };
        let path = match kind {
            Kind::Container => format!("/containers/{}/json{size}", encode(name)),
            Kind::Image => format!("/images/{}/json", encode(name)),
            Kind::Network => format!("/networks/{}", encode(name)),
            Kind::Volume => format!("/volumes/{}", encode(name)),
        };
        match context.client.get(&path) {
            Err(failure) if failure.is_not_found() && kinds.len() > 1 => {}
            other => return other,
        }
    }
    Err(Failure::new(format!("Error: No such object: {name}")))
}

/// Prints everything that was found, then says what was not, as docker does.
fn show_all(context: &Context, matches: &Matches, kinds: &[Kind]) -> Result<u8, Failure> {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for name in &matches.arguments {
        match find(context, matches, name, kinds) {
            Ok(value) => found.push(value),
            Err(failure) if failure.status.is_some() || failure.message.starts_with("Error: No such object") => {
                problems.push(failure.message);
            }
            Err(failure) => return Err(failure),
        }
    }
    match matches.text("format") {
        None | Some("") => out(&format!("{}\n", show::indented(&json!(found))))?,
        Some("json") => {
            let lines: String = found.iter().map(|value| go_json(value) + "\n").collect();
            out(&lines)?;
        }
        Some(format) => {
            let invalid = |problem: String| Failure::new(format!("template parsing error: template: :1: {problem}"));
            let template = Template::parse(format).map_err(|problem| invalid(problem).code(64))?.strict();
            for value in &found {
                out(&format!("{}\n", template.render(value).map_err(invalid)?))?;
            }
        }
    }
    if problems.is_empty() { Ok(0) } else { Err(Failure::new(problems.join("\n"))) }
}
