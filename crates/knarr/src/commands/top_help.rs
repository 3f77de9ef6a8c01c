//! What `--help` prints: the whole program, a group, one command with its aliases, options and examples.

use super::{Command, GROUPS, Group, PLAIN, usage_line};
use crate::{flags, settings};

/// Roles that `main` dispatches before any command; they are named here for the help alone.
const ROLES: &[(&str, &str)] = &[
    ("keeper", "Hold the containers of one instance (started by the engine)"),
    ("resolver", "Resolve containers' names while no engine is there (started by the keeper)"),
    ("server", "Serve a cluster's API with its controllers and scheduler, for agents to join"),
    ("runtime", "Run one container from an OCI bundle, with runc's command line"),
];

/// Second names of commands inside a group; the group's help shows the first.
const SECOND_NAMES: &[&str] = &["delete", "list", "ps", "remove"];

pub(super) fn command_help(command: &'static Command, called: &str) -> String {
    let mut text = format!("Usage:  {}\n\n{}\n", usage_line(command, called), command.about);
    let grouped = GROUPS.iter().flat_map(|group| {
        let same = group.commands.iter().filter(|(_, known)| std::ptr::eq(*known, command));
        same.map(move |(name, _)| format!("knarr {} {name}", group.name))
    });
    let plain = PLAIN.iter().flat_map(|(_, commands)| commands.iter());
    let plain = plain.filter(|known| std::ptr::eq(**known, command)).map(|known| format!("knarr {}", known.name));
    let names: Vec<String> = grouped.chain(plain).collect();
    if names.len() > 1 {
        text.push_str(&format!("\nAliases:\n  {}\n", names.join(", ")));
    }
    let options = flags::help(command.flags);
    if !options.is_empty() {
        text.push_str(&format!("\nOptions:\n{options}"));
    }
    if !command.examples.is_empty() {
        text.push_str(&format!("\nExamples:\n{}\n", command.examples));
    }
    text
}

pub(super) fn group_help(group: &Group) -> String {
    let mut text = format!("Usage:  knarr {} COMMAND\n\n{}\n\nCommands:\n", group.name, group.about);
    for (name, command) in group.commands.iter().filter(|(name, _)| !SECOND_NAMES.contains(name)) {
        text.push_str(&format!("  {name:11} {}\n", command.about));
    }
    text.push_str(&format!("\nRun 'knarr {} COMMAND --help' for more information on a command.\n", group.name));
    text
}

pub(super) fn top_help() -> String {
    let mut text = "Usage:  knarr [OPTIONS] COMMAND\n\nRuns containers: one program, docker's words\n".to_owned();
    for (title, commands) in PLAIN {
        text.push_str(&format!("\n{title}:\n"));
        for command in *commands {
            text.push_str(&format!("  {:11} {}\n", command.name, command.about));
        }
        if commands.iter().any(|command| command.name == "engine") {
            for (name, about) in ROLES {
                text.push_str(&format!("  {name:11} {about}\n"));
            }
        }
    }
    text.push_str("\nManagement Commands:\n");
    for group in GROUPS {
        text.push_str(&format!("  {:11} {}\n", group.name, group.about));
    }
    text.push_str(&format!("\nGlobal Options:\n{}", flags::help(&[settings::FLAGS])));
    text.push_str(
        "\nExamples:
  knarr load -i image.tar                    load an image from a file
  knarr run --rm -it busybox sh              a shell in a container
  knarr run -d --name web busybox sleep 600  one in the background
  knarr logs -f web                          what it says
  DOCKER_HOST=unix:///run/knarr/docker.sock docker ps
                                             the stock client works too

Run 'knarr COMMAND --help' for more information on a command.\n",
    );
    text
}
