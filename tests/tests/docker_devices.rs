//! Devices by vendor and class, asked for with the stock client.

use std::os::unix::fs::PermissionsExt;

use blackbox::{World, is_root};

const CARDS: &str = "cdiVersion: 0.6.0
kind: vendor.com/card
containerEdits:
  env: [CARD_DRIVER=7]
  mounts:
    - {hostPath: FOLDER/library, containerPath: /usr/lib/card, options: [ro, rbind]}
  hooks:
    - {hookName: createRuntime, path: FOLDER/hook, args: [hook, made]}
devices:
  - name: '0'
    containerEdits:
      env: [CARD=zero]
      deviceNodes: [{path: /dev/card0, hostPath: /dev/zero}]
  - name: '1'
    containerEdits:
      deviceNodes: [{path: /dev/card1, hostPath: /dev/null}]
";

#[test]
fn a_vendors_devices_are_given_by_name() {
    if !is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    std::fs::create_dir(at("cdi")).unwrap();
    std::fs::create_dir(at("library")).unwrap();
    write("library/card.so", "a driver's library\n");
    write("hook", &format!("#!/bin/sh\ncat > /dev/null\necho $1 >> {}\n", at("hooked").display()));
    std::fs::set_permissions(at("hook"), PermissionsExt::from_mode(0o755)).unwrap();
    let cards = CARDS.replace("FOLDER", &folder.path().display().to_string());
    write("cdi/cards.yaml", &cards);
    let world = World::start_with(&["--cdi-spec-dir", at("cdi").to_str().unwrap()]);
    let run = |flags: &[&str], script: &str| {
        let words = [&["run", "--rm", "--network", "none"], flags, &["busybox", "sh", "-c", script]].concat();
        world.docker(words)
    };

    let script =
        "echo $CARD_DRIVER $CARD; cat /usr/lib/card/card.so; head -c 3 /dev/card0 | od -An -tx1; ls /dev/card*";
    run(&["--device", "vendor.com/card=0"], script)
        .success()
        .stdout("7 zero\na driver's library\n 00 00 00\n/dev/card0\n");
    assert_eq!(std::fs::read_to_string(at("hooked")).unwrap(), "made\n");
    run(&["--device", "vendor.com/card=all"], "ls /dev/card*").success().stdout("/dev/card0\n/dev/card1\n");
    let both = ["run", "--rm", "--network", "none", "--device", "vendor.com/card=1", "--device", "/dev/full:/dev/mine"];
    let own = world.knarr(both.iter().chain(&["busybox", "ls", "/dev/card1", "/dev/mine"]));
    own.success().stdout("/dev/card1\n/dev/mine\n");

    // A kind that stands for graphics processors.
    run(&["--gpus", "all"], "true")
        .exits(125)
        .stderr_has("could not select device driver \"\" with capabilities: [[gpu]]");
    write("cdi/gpus.json", &cards.replace("vendor.com/card", "nvidia.com/gpu"));
    run(&["--gpus", "all"], "ls /dev/card*").success().stdout("/dev/card0\n/dev/card1\n");
    run(&["--gpus", "1"], "ls /dev/card*").success().stdout("/dev/card0\n");
    let own = world.knarr([
        "run",
        "--rm",
        "--network",
        "none",
        "--gpus",
        "\"device=1\"",
        "busybox",
        "sh",
        "-c",
        "ls /dev/card*",
    ]);
    own.success().stdout("/dev/card1\n");

    let unknown = run(&["--device", "vendor.com/card=9"], "true");
    unknown.exits(125).stderr_has("CDI device injection failed: unresolvable CDI devices vendor.com/card=9");
    write("cdi/broken.json", "{\"cdiVersion\": \"1.0.0\"}");
    run(&["--device", "vendor.com/disk=0"], "true").exits(125).stderr_has("broken.json");
    let found = world.docker(["info", "-f", "{{json .CDISpecDirs}}"]).success().text();
    assert!(found.contains(at("cdi").to_str().unwrap()), "{found}");

    // What was given stays given when the vendor's file goes, and is asked for anew by the next start.
    let words = [
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "--device",
        "vendor.com/card=1",
        "busybox",
        "sleep",
        "1000",
    ];
    world.docker(words).success();
    std::fs::remove_file(at("cdi/cards.yaml")).unwrap();
    world.docker(["exec", "box", "ls", "/dev/card1"]).success();
    world.docker(["restart", "-t", "0", "box"]).exits(1).stderr_has("unresolvable CDI devices vendor.com/card=1");
    write("cdi/cards.yaml", &cards);
    world.docker(["start", "box"]).success();
    let asked = world.docker(["inspect", "-f", "{{json .HostConfig.DeviceRequests}}", "box"]).success().text();
    assert!(asked.contains("\"Driver\":\"cdi\"") && asked.contains("vendor.com/card=1"), "{asked}");
}
