//! Health checks as the stock docker client sees them, through restarts of the engine.

use blackbox::{World, eventually, is_root};

fn world() -> Option<World> {
    (is_root() && std::process::Command::new("docker").arg("--version").output().is_ok()).then(World::start)
}

fn health(world: &World, name: &str) -> String {
    world.docker(["inspect", "-f", "{{.State.Health.Status}}", name]).text()
}

const FAST: [&str; 8] = ["run", "-d", "--network", "none", "--health-interval", "50ms", "--health-retries", "2"];

#[test]
fn a_check_makes_healthy_and_unhealthy_and_says_so() {
    let Some(world) = world() else { return };
    let check = ["--health-cmd", "echo looked; test -e /tmp/ok", "--name", "web", "busybox", "sleep", "600"];
    let since = world.docker(["info", "-f", "{{.SystemTime}}"]).text();
    world.docker(FAST.iter().chain(&check)).success();
    eventually("it becomes unhealthy", || health(&world, "web") == "unhealthy");
    world.docker(["exec", "web", "touch", "/tmp/ok"]).success();
    eventually("it becomes healthy", || health(&world, "web") == "healthy");
    let state = world.docker(["inspect", "web"]).json()[0]["State"]["Health"].clone();
    assert_eq!(state["FailingStreak"], 0);
    let log = state["Log"].as_array().unwrap();
    assert!(!log.is_empty() && log.len() <= 5, "{state}");
    assert_eq!(log.last().unwrap()["Output"], "looked\n");
    assert_eq!(log.last().unwrap()["ExitCode"], 0);
    assert!(
        world.docker(["ps", "--filter", "health=healthy", "--format", "{{.Status}}"]).text().ends_with("(healthy)")
    );
    assert_eq!(world.docker(["ps", "-q", "--filter", "health=unhealthy"]).text(), "");
    let until = world.docker(["info", "-f", "{{.SystemTime}}"]).text();
    let events =
        ["events", "--since", &since, "--until", &until, "--filter", "event=health_status", "--format", "{{.Action}}"];
    let told = world.docker(events).success().text();
    assert_eq!(told, "health_status: unhealthy\nhealth_status: healthy");
    world.docker(["rm", "-f", "web"]).success();
}

#[test]
fn a_check_may_time_out_be_missing_or_be_switched_off() {
    let Some(world) = world() else { return };
    let flags = ["--health-timeout", "100ms", "--health-cmd", "sleep 600", "--name", "slow", "busybox", "sleep", "600"];
    world.docker(FAST.iter().chain(&flags)).success();
    eventually("it becomes unhealthy", || health(&world, "slow") == "unhealthy");
    let output = world.docker(["inspect", "-f", "{{(index .State.Health.Log 0).Output}}", "slow"]).text();
    assert!(output.starts_with("Health check exceeded timeout (100ms)"), "{output}");
    let body = r#"{"Image":"busybox","Cmd":["sleep","600"],"HostConfig":{"NetworkMode":"none"},
        "Healthcheck":{"Test":["CMD","/no/such/program"],"Interval":50000000,"Retries":1}}"#;
    assert_eq!(world.api("POST", "/containers/create?name=odd", Some(body)).0, 201);
    world.docker(["start", "odd"]).success();
    eventually("it becomes unhealthy", || health(&world, "odd") == "unhealthy");
    let odd = world.docker(["inspect", "odd"]).json();
    let last = &odd[0]["State"]["Health"]["Log"][0];
    assert!(last["ExitCode"] != 0 && last["Output"].as_str().unwrap().contains("/no/such/program"), "{last}");
    world
        .docker(["run", "-d", "--network", "none", "--no-healthcheck", "--name", "off", "busybox", "sleep", "600"])
        .success();
    assert!(world.docker(["inspect", "off"]).json()[0]["State"].get("Health").is_none());
    // Within the start period a failure counts for nothing.
    let flags = [
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "50ms",
        "--health-cmd",
        "false",
        "--name",
        "young",
        "busybox",
        "sleep",
        "600",
    ];
    world.docker(FAST.iter().chain(&flags)).success();
    eventually("it has been asked", || {
        world.docker(["inspect", "-f", "{{len .State.Health.Log}}", "young"]).text() == "5"
    });
    assert_eq!(health(&world, "young"), "starting");
    for (check, why) in [
        (r#"{"Test":["WHAT","x"]}"#, "Unknown healthcheck type"),
        (r#"{"Test":["CMD","x"],"Interval":1000}"#, "Interval in Healthcheck cannot be less than 1ms"),
    ] {
        let body = format!(r#"{{"Image":"busybox","HostConfig":{{"NetworkMode":"none"}},"Healthcheck":{check}}}"#);
        let (status, answer) = world.api("POST", "/containers/create", Some(&body));
        assert!(status == 400 && answer.contains(why), "{status} {answer}");
    }
}

#[test]
fn checks_go_on_after_the_engine_was_killed() {
    let Some(mut world) = world() else { return };
    let check = ["--health-cmd", "test -e /tmp/ok", "--name", "web", "busybox", "sh", "-c", "touch /tmp/ok; sleep 600"];
    world.docker(FAST.iter().chain(&check)).success();
    eventually("it becomes healthy", || health(&world, "web") == "healthy");
    world.end_engine(rustix::process::Signal::KILL);
    world.start_engine(&[]);
    world.docker(["exec", "web", "rm", "/tmp/ok"]).success();
    eventually("the next engine asks", || health(&world, "web") == "unhealthy");
    // Frozen it is asked nothing, and told nothing when it thaws.
    world.docker(["exec", "web", "touch", "/tmp/ok"]).success();
    eventually("it is healthy again", || health(&world, "web") == "healthy");
    world.docker(["pause", "web"]).success();
    assert_eq!(health(&world, "web"), "healthy");
    world.docker(["unpause", "web"]).success();
    world.docker(["stop", "-t", "0", "web"]).success();
    world.docker(["start", "web"]).success();
    eventually("a new life begins anew", || health(&world, "web") == "healthy");
}

#[test]
fn an_unhealthy_container_is_restarted_if_that_was_asked_for() {
    let Some(world) = world() else { return };
    let flags = [
        "run",
        "-d",
        "--network",
        "none",
        "--health-interval",
        "50ms",
        "--health-retries",
        "1",
        "--health-cmd",
        "test ! -e /tmp/broken",
        "--health-on-failure",
        "restart",
        "--stop-timeout",
        "0",
        "--name",
        "app",
        "busybox",
        "sh",
        "-c",
        "rm -f /tmp/broken; sleep 600",
    ];
    world.knarr(flags).success();
    let pid = || world.docker(["inspect", "-f", "{{.State.Pid}} {{.State.Status}}", "app"]).text();
    let first = pid();
    world.docker(["exec", "app", "touch", "/tmp/broken"]).success();
    eventually("another process runs", || {
        let now = pid();
        now != first && now.ends_with("running")
    });
    eventually("and it is healthy", || health(&world, "app") == "healthy");
    world
        .docker(["create", "--label", "io.knarr.health-on-failure=pray", "--network", "none", "busybox"])
        .exits(1)
        .stderr_has("\"pray\" is none of");
}
