//! The workload as asked for, completed by what the image says.

use crate::{ContainerConfig, Error, Healthcheck, ImageConfig, Result};

/// Fills what `asked` left open from `image`, by Docker's rules, and checks that there is something to run.
pub(crate) fn merge_config(mut asked: ContainerConfig, image: &ImageConfig) -> Result<ContainerConfig> {
    merge_image(&mut asked, image);
    // `--entrypoint ""` clears the image's entrypoint and, having been given, its command as well.
    if asked.entrypoint.as_ref().is_some_and(|e| e.len() == 1 && e[0].is_empty()) {
        asked.entrypoint = None;
    }
    if is_empty(&asked.entrypoint) && is_empty(&asked.cmd) {
        return Err(Error::Invalid("no command specified".into()));
    }
    Ok(asked)
}

fn is_empty(words: &Option<Vec<String>>) -> bool {
    words.as_ref().is_none_or(Vec::is_empty)
}

/// The merge alone: `commit` uses it to lay overrides over a container's configuration.
pub(crate) fn merge_image(asked: &mut ContainerConfig, image: &ImageConfig) {
    fill(&mut asked.user, &image.user);
    fill(&mut asked.working_dir, &image.working_dir);
    asked.exposed_ports.extend(image.exposed_ports.iter().cloned());
    asked.volumes.extend(image.volumes.iter().cloned());
    for entry in &image.env {
        let name = entry.split('=').next().unwrap_or_default();
        if !asked.env.iter().any(|e| e.split('=').next() == Some(name)) {
            asked.env.push(entry.clone());
        }
    }
    for (name, value) in &image.labels {
        asked.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    if is_empty(&asked.entrypoint) {
        // A command of the caller's own is for the image's entrypoint; without one the image's stands.
        if is_empty(&asked.cmd) {
            asked.cmd = image.cmd.clone();
        }
        if asked.entrypoint.is_none() {
            asked.entrypoint = image.entrypoint.clone();
        }
    }
    if asked.stop_signal.as_ref().is_none_or(String::is_empty) {
        asked.stop_signal = image.stop_signal.clone();
    }
    if is_empty(&asked.shell) {
        asked.shell = image.shell.clone();
    }
    match (&mut asked.healthcheck, &image.healthcheck) {
        (None, inherited) => asked.healthcheck = inherited.clone(),
        (Some(own), Some(inherited)) => merge_health(own, inherited),
        (Some(_), None) => {}
    }
}

fn merge_health(own: &mut Healthcheck, inherited: &Healthcheck) {
    if own.test.is_empty() {
        own.test.clone_from(&inherited.test);
    }
    let durations = [
        (&mut own.interval, inherited.interval),
        (&mut own.timeout, inherited.timeout),
        (&mut own.start_period, inherited.start_period),
        (&mut own.start_interval, inherited.start_interval),
    ];
    for (own, inherited) in durations {
        if own.is_zero() {
            *own = inherited;
        }
    }
    if own.retries == 0 {
        own.retries = inherited.retries;
    }
}

fn fill(own: &mut String, inherited: &str) {
    if own.is_empty() {
        own.push_str(inherited);
    }
}

/// The program and its arguments: the entrypoint, then the command.
pub(crate) fn command_line(config: &ContainerConfig) -> (String, Vec<String>) {
    let mut words = config.entrypoint.iter().chain(&config.cmd).flatten().cloned();
    (words.next().unwrap_or_default(), words.collect())
}

/// What the process finds in its environment: the defaults in Docker's order, overridden in place and then extended by
/// `own`. A bare name removes a default. `HOME` comes last unless somebody set it.
pub(crate) fn environment(own: &[String], path: &str, hostname: &str, tty: bool, home: &str) -> Vec<String> {
    let mut env: Vec<Option<String>> = vec![Some(format!("PATH={path}")), Some(format!("HOSTNAME={hostname}"))];
    if tty {
        env.push(Some("TERM=xterm".into()));
    }
    for entry in own {
        let (name, valued) = match entry.split_once('=') {
            Some((name, _)) => (name, true),
            None => (entry.as_str(), false),
        };
        let slot = env.iter_mut().find(|e| e.as_ref().is_some_and(|e| e.split('=').next() == Some(name)));
        match (slot, valued) {
            (Some(slot), true) => *slot = Some(entry.clone()),
            (Some(slot), false) => *slot = None,
            (None, true) => env.push(Some(entry.clone())),
            (None, false) => {}
        }
    }
    let mut env: Vec<String> = env.into_iter().flatten().collect();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<String>> {
        Some(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn entrypoint_and_command_merge_as_docker_does() {
        // (asked entrypoint, asked cmd, image entrypoint, image cmd) -> program and arguments
        type Line = Option<&'static str>;
        let rows: [(Line, Line, Line, Line, Line); 9] = [
            (None, None, None, Some("sh"), Some("sh")),
            (None, Some("ls -l"), None, Some("sh"), Some("ls -l")),
            (None, None, Some("/entry"), Some("serve"), Some("/entry serve")),
            (None, Some("help"), Some("/entry"), Some("serve"), Some("/entry help")),
            (Some("/own"), None, Some("/entry"), Some("serve"), Some("/own")),
            (Some("/own"), Some("x"), Some("/entry"), Some("serve"), Some("/own x")),
            (Some(""), None, None, Some("sh"), Some("sh")),
            (None, None, None, None, None),
            (None, None, Some(""), None, None),
        ];
        for (entrypoint, cmd, image_entrypoint, image_cmd, wanted) in rows {
            let asked = ContainerConfig {
                entrypoint: entrypoint.and_then(words),
                cmd: cmd.and_then(words),
                ..Default::default()
            };
            let image = ImageConfig {
                entrypoint: image_entrypoint.and_then(words),
                cmd: image_cmd.and_then(words),
                ..Default::default()
            };
            let got = merge_config(asked, &image).ok().map(|config| {
                let (program, args) = command_line(&config);
                [vec![program], args].concat().join(" ")
            });
            assert_eq!(got.as_deref(), wanted, "{entrypoint:?} {cmd:?} {image_entrypoint:?} {image_cmd:?}");
        }
    }

    #[test]
    fn an_empty_entrypoint_word_clears_the_images() {
        let image = ImageConfig { entrypoint: words("/entry"), cmd: words("serve"), ..Default::default() };
        let cleared = Some(vec![String::new()]);
        let asked = ContainerConfig { entrypoint: cleared.clone(), cmd: words("ls"), ..Default::default() };
        assert_eq!(command_line(&merge_config(asked, &image).unwrap()).0, "ls");
        let asked = ContainerConfig { entrypoint: cleared, ..Default::default() };
        assert_eq!(merge_config(asked, &image).unwrap_err().to_string(), "no command specified");
    }

    #[test]
    fn everything_else_is_filled_or_united() {
        let image = ImageConfig {
            user: "app".into(),
            working_dir: "/srv".into(),
            env: vec!["A=image".into(), "B=image".into(), "C=image".into()],
            labels: [("a".into(), "image".into()), ("b".into(), "image".into())].into(),
            volumes: ["/data".into()].into(),
            exposed_ports: ["80/tcp".into()].into(),
            stop_signal: Some("INT".into()),
            cmd: words("sh"),
            ..Default::default()
        };
        let asked = ContainerConfig {
            user: "root".into(),
            env: vec!["X=own".into(), "B=own".into(), "C".into()],
            labels: [("b".into(), "own".into())].into(),
            volumes: ["/other".into()].into(),
            ..Default::default()
        };
        let got = merge_config(asked, &image).unwrap();
        assert_eq!((got.user.as_str(), got.working_dir.as_str()), ("root", "/srv"));
        assert_eq!(got.env, ["X=own", "B=own", "C", "A=image"]);
        assert_eq!(got.labels, [("a".to_owned(), "image".to_owned()), ("b".into(), "own".into())].into());
        assert_eq!(got.volumes, ["/data".to_owned(), "/other".into()].into());
        assert_eq!(got.exposed_ports, ["80/tcp".to_owned()].into());
        assert_eq!(got.stop_signal.as_deref(), Some("INT"));
    }

    #[test]
    fn the_environment_keeps_dockers_order() {
        let check = |own: &[&str], tty| {
            let own: Vec<String> = own.iter().map(|e| e.to_string()).collect();
            environment(&own, "/bin", "box", tty, "/root").join(" ")
        };
        assert_eq!(check(&[], false), "PATH=/bin HOSTNAME=box HOME=/root");
        assert_eq!(check(&["A=1"], true), "PATH=/bin HOSTNAME=box TERM=xterm A=1 HOME=/root");
        assert_eq!(check(&["PATH=/x", "HOME=/h", "A=1", "A=2"], false), "PATH=/x HOSTNAME=box HOME=/h A=2");
        assert_eq!(check(&["HOSTNAME", "B"], false), "PATH=/bin HOME=/root");
    }
}
