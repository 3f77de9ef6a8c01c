//! `completion`: scripts that let a shell finish commands, flags and names. Made from the command tables.

use super::{Command, GROUPS, PLAIN, out};
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Kind};

pub(super) static COMPLETION: Command = Command {
    name: "completion",
    usage: "bash|zsh|fish",
    about: "Print a script that completes commands in your shell",
    examples: "  source <(knarr completion bash)
  knarr completion zsh > \"${fpath[1]}/_knarr\"
  knarr completion fish > ~/.config/fish/completions/knarr.fish",
    flags: &[],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |_, matches| {
        let script = match matches.arguments[0].as_str() {
            "bash" => bash(),
            "zsh" => format!("#compdef knarr\nautoload -U +X bashcompinit && bashcompinit\n{}", bash()),
            "fish" => fish(),
            other => return Err(Failure::new(format!("no completion for {other}: there is bash, zsh and fish"))),
        };
        out(&script)?;
        Ok(0)
    },
};

/// Every way to call a command: the words, and the command.
fn calls() -> Vec<(String, &'static Command)> {
    let plain =
        PLAIN.iter().flat_map(|(_, commands)| commands.iter()).map(|command| (command.name.to_owned(), *command));
    let grouped = GROUPS.iter().flat_map(|group| {
        group.commands.iter().map(move |(name, command)| (format!("{} {name}", group.name), *command))
    });
    plain.chain(grouped).collect()
}

fn flags(command: &'static Command) -> impl Iterator<Item = &'static Flag> {
    command.flags.iter().flat_map(|table| table.iter()).filter(|flag| !flag.hidden)
}

/// What a command's arguments name: containers or images, all or running ones.
fn subject(command: &Command) -> Option<&'static str> {
    match command.name {
        "stop" | "kill" | "restart" | "exec" | "attach" | "pause" | "unpause" | "top" | "stats" | "port" => {
            Some("running")
        }
        "start" | "rm" | "logs" | "inspect" | "rename" | "wait" | "update" | "diff" | "export" | "commit" | "cp" => {
            Some("all")
        }
        "run" | "create" | "rmi" | "tag" | "history" | "save" => Some("images"),
        _ => None,
    }
}

fn bash() -> String {
    let mut cases = String::new();
    for (words, command) in calls() {
        let long: Vec<String> = flags(command).map(|flag| format!("--{}", flag.long)).collect();
        let subject = subject(command).unwrap_or("none");
        cases.push_str(&format!("    \"{words}\") flags=\"{} --help\"; subject={subject};;\n", long.join(" ")));
    }
    let mut groups = String::new();
    for group in GROUPS {
        let names: Vec<&str> = group.commands.iter().map(|(name, _)| *name).collect();
        groups.push_str(&format!("    {}) words=\"{}\";;\n", group.name, names.join(" ")));
    }
    let top: Vec<&str> = PLAIN
        .iter()
        .flat_map(|(_, commands)| commands.iter().map(|command| command.name))
        .chain(GROUPS.iter().map(|group| group.name))
        .collect();
    format!(
        r#"# knarr: completion for bash
_knarr_names() {{
  case $1 in
    running) knarr ps --format '{{{{.Names}}}}' 2>/dev/null ;;
    all) knarr ps -a --format '{{{{.Names}}}}' 2>/dev/null ;;
    images) knarr images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' 2>/dev/null ;;
  esac
}}
_knarr() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} first second="" at words="" flags="" subject=none called
  for ((at = 1; at < COMP_CWORD; at++)); do
    case ${{COMP_WORDS[at]}} in
      -H | --host | --root | --run) ((at++)) ;;
      -*) ;;
      *) if [ -z "$first" ]; then first=${{COMP_WORDS[at]}}; elif [ -z "$second" ]; then second=${{COMP_WORDS[at]}}; fi ;;
    esac
  done
  if [ -z "$first" ]; then
    COMPREPLY=($(compgen -W "{top} --host --root --run --debug --help --version" -- "$current"))
    return
  fi
  case $first in
{groups}    *) words="" ;;
  esac
  called=$first
  if [ -n "$words" ]; then
    if [ -z "$second" ]; then
      COMPREPLY=($(compgen -W "$words" -- "$current"))
      return
    fi
    called="$first $second"
  fi
  case $called in
{cases}  esac
  case $current in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
    *)
      COMPREPLY=($(compgen -W "$(_knarr_names $subject)" -- "$current"))
      [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$current"))
      ;;
  esac
}}
complete -F _knarr knarr
"#,
        top = top.join(" "),
    )
}

fn fish() -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut script = String::from("# knarr: completion for fish\ncomplete -c knarr -f\n");
    for (_, commands) in PLAIN {
        for command in *commands {
            script.push_str(&format!(
                "complete -c knarr -n __fish_use_subcommand -a {} -d {}\n",
                command.name,
                quote(command.about)
            ));
        }
    }
    for group in GROUPS {
        script.push_str(&format!(
            "complete -c knarr -n __fish_use_subcommand -a {} -d {}\n",
            group.name,
            quote(group.about)
        ));
        for (name, command) in group.commands {
            script.push_str(&format!(
                "complete -c knarr -n '__fish_seen_subcommand_from {}' -a {name} -d {}\n",
                group.name,
                quote(command.about)
            ));
        }
    }
    for (words, command) in calls().into_iter().filter(|(words, _)| !words.contains(' ')) {
        for flag in flags(command) {
            let short = flag.short.map(|short| format!(" -s {short}")).unwrap_or_default();
            let value = if flag.kind == Kind::Bool { "" } else { " -r" };
            script.push_str(&format!(
                "complete -c knarr -n '__fish_seen_subcommand_from {words}' -l {}{short}{value} -d {}\n",
                flag.long,
                quote(flag.help)
            ));
        }
        let names = match subject(command) {
            Some("running") => "knarr ps --format \"{{.Names}}\"",
            Some("all") => "knarr ps -a --format \"{{.Names}}\"",
            Some(_) => "knarr images --format \"{{.Repository}}:{{.Tag}}\"",
            None => continue,
        };
        script.push_str(&format!(
            "complete -c knarr -n '__fish_seen_subcommand_from {words}' -a '({names} 2>/dev/null)'\n"
        ));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bash_script_is_valid_and_knows_the_flags() {
        let script = bash();
        assert!(script.contains("\"container ls\") flags=\""), "{script}");
        let checked = std::process::Command::new("bash").args(["-n", "-c", &script]).status().expect("run bash");
        assert!(checked.success());
    }

    #[test]
    fn the_fish_script_names_commands_and_flags() {
        let script = fish();
        assert!(script.contains("__fish_seen_subcommand_from run' -l detach -s d -d"), "{script}");
    }
}
