//! Where pods get their images: pull policies, pull secrets, and pulls that hold nobody up.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use blackbox::{Cloud, eventually, finish};

/// A child that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `knarr registry` in which ann, who says "secret", may do everything and others nothing.
fn private_registry(cloud: &Cloud) -> (Ended, String) {
    let mut hash = Command::new(blackbox::program());
    hash.args(["registry", "hash", "ann"]);
    let users = finish(hash, b"secret").success().text();
    let file = cloud.path().join("users");
    std::fs::write(&file, users + "\n").unwrap();
    let mut command = Command::new(blackbox::program());
    command.args(["registry", "--listen", "127.0.0.1:0", "--root"]).arg(cloud.path().join("registry"));
    command.arg("--users").arg(&file).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Ended(command.spawn().expect("start knarr registry"));
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).expect("its address");
    (child, line.trim().to_owned())
}

/// Builds an image that says `word` and pushes it.
fn publish(cloud: &Cloud, name: &str, word: &str) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("FROM busybox\nRUN echo {word} > /word\nCMD [\"sh\", \"-c\", \"cat /word; exec sleep 3600\"]\n");
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    let mut build = cloud.world.docker_command();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", name]).arg(folder.path());
    finish(build, b"").success();
    cloud.world.docker(["push", name]).success();
}

fn pod(name: &str, image: &str, policy: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, {more}
          containers: [{{name: c, image: '{image}', imagePullPolicy: {policy}}}]}}"
    )
}

const REASON: &str = "{.status.containerStatuses[0].state.waiting.reason}";

fn events_of(cloud: &Cloud, pod: &str) -> String {
    let words = ["get", "events", "--field-selector", &format!("involvedObject.name={pod}"), "-o"];
    let columns = "jsonpath={range .items[*]}{.type} {.reason} {.involvedObject.fieldPath} {.message}{\"\\n\"}{end}";
    cloud.kubectl_with(&[&words[..], &[columns]].concat(), "").text()
}

#[test]
fn a_private_image_runs_with_its_secret_and_is_asked_for_again() {
    let Some(cloud) = Cloud::start() else { return };
    let (_registry, address) = private_registry(&cloud);
    cloud.world.docker_with(["login", "-u", "ann", "--password-stdin", &address], b"secret").success();
    let image = format!("{address}/team/app:1");
    publish(&cloud, &image, "first");
    cloud.world.docker(["rmi", &image]).success();
    // Nobody's pod may have it.
    cloud.apply(&pod("nobody", &image, "IfNotPresent", ""));
    eventually("the pull is refused and waited for", || cloud.value("pod/nobody", REASON) == "ImagePullBackOff");
    let message = cloud.value("pod/nobody", "{.status.containerStatuses[0].state.waiting.message}");
    assert!(message.starts_with(&format!("Back-off pulling image {image:?}: ErrImagePull: ")), "{message}");
    let told = events_of(&cloud, "nobody");
    for line in [
        format!("Normal Pulling spec.containers{{c}} Pulling image {image:?}"),
        format!("Warning Failed spec.containers{{c}} Failed to pull image {image:?}: "),
        "Warning Failed spec.containers{c} Error: ErrImagePull".to_owned(),
        format!("Normal BackOff spec.containers{{c}} Back-off pulling image {image:?}"),
        "Warning Failed spec.containers{c} Error: ImagePullBackOff".to_owned(),
    ] {
        assert!(told.contains(&line), "{line}\nin\n{told}");
    }
    // A pod that shows the secret may.
    let words = [
        "create",
        "secret",
        "docker-registry",
        "pull",
        "--docker-username=ann",
        "--docker-password=secret",
        "--docker-server",
    ];
    cloud.kubectl_with(&[&words[..], &[&address]].concat(), "").success();
    let secret = "imagePullSecrets: [{name: pull}],";
    cloud.apply(&pod("first", &image, "IfNotPresent", secret));
    cloud.kubectl("wait --for=condition=Ready pod/first --timeout=60s").success();
    eventually("first says first", || cloud.kubectl("logs first").text() == "first");
    let told = events_of(&cloud, "first");
    assert!(
        told.contains(&format!("Normal Pulled spec.containers{{c}} Successfully pulled image {image:?} in ")),
        "{told}"
    );
    // The name means something else now: who always pulls gets that, who does not keeps what is here.
    let other = format!("{address}/team/app:2");
    publish(&cloud, &other, "second");
    cloud.world.docker(["tag", &other, &image]).success();
    cloud.world.docker(["push", &image]).success();
    cloud.world.docker(["rmi", &image]).success();
    cloud.apply(&pod("old", &image, "Always", secret));
    cloud.kubectl("wait --for=condition=Ready pod/old --timeout=60s").success();
    eventually("old says second", || cloud.kubectl("logs old").text() == "second");
    publish(&cloud, &image, "third");
    cloud.apply(&pod("new", &image, "Always", secret));
    cloud.kubectl("wait --for=condition=Ready pod/new --timeout=60s").success();
    eventually("new says third", || cloud.kubectl("logs new").text() == "third");
    // Without its secret even an image that is here is not given by the registry.
    cloud.apply(&pod("spy", &image, "Always", ""));
    eventually("it is refused", || cloud.value("pod/spy", REASON).contains("Pull"));
    cloud.apply(&pod("never", "missing:1", "Never", ""));
    eventually("it is refused", || cloud.value("pod/never", REASON) == "ErrImageNeverPull");
    cloud.apply(&pod("wrong", "UPPER/Case", "Always", ""));
    eventually("it is refused", || cloud.value("pod/wrong", REASON) == "InvalidImageName");
    cloud.kubectl("delete pod --all --wait=true --timeout=60s").success();
}

#[test]
fn a_pull_that_hangs_holds_nobody_up() {
    let Some(cloud) = Cloud::start() else { return };
    // Takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        listener.incoming().flatten().for_each(|stream| held.push(stream));
    });
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: half}}\nspec: {{terminationGracePeriodSeconds: 0,
          containers: [{{name: stuck, image: '{address}/slow:1'}}, {{name: c, image: busybox, command: [sleep, '3600']}}]}}"
    );
    cloud.apply(&manifest);
    cloud.wait_for("pod/half", "{.status.containerStatuses[?(@.name==\"c\")].ready}", "true");
    let stuck = "{.status.containerStatuses[?(@.name==\"stuck\")].state.waiting.reason}";
    assert_eq!(cloud.value("pod/half", stuck), "ContainerCreating");
    cloud.run_in("half", "true").exits(1);
    cloud.kubectl("exec half -c c -- true").success();
    cloud.kubectl("delete pod half --timeout=20s").success();
    assert_eq!(cloud.value("pod/half", "{.metadata.name}"), "");
}

/// An image as a volume: its files, read-only, and gone with the pod.
#[test]
fn an_image_is_a_volume() {
    let Some(cloud) = Cloud::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY word /data/word\n").unwrap();
    std::fs::write(folder.path().join("word"), "from an image\n").unwrap();
    let mut build = cloud.world.docker_command();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", "data:1"]).arg(folder.path());
    finish(build, b"").success();
    let volume = "volumes: [{name: data, image: {reference: 'data:1', pullPolicy: IfNotPresent}}],";
    let manifest = pod("reads", "busybox", "IfNotPresent", volume).replace(
        "imagePullPolicy: IfNotPresent}]",
        "command: [sleep, '3600'], volumeMounts: [{name: data, mountPath: /data, subPath: data}, {name: data, mountPath: /all}]}]",
    );
    cloud.apply(&manifest);
    cloud.kubectl("wait --for=condition=Ready pod/reads --timeout=60s").success();
    cloud.run_in("reads", "cat /data/word /all/data/word").success().stdout("from an image\nfrom an image\n");
    cloud.run_in("reads", "echo x > /all/data/word").exits(1);
    // Whoever removes the image does not take it from under the pod.
    cloud.world.docker(["rmi", "data:1"]).exits(1);
    cloud.kubectl("delete pod reads --timeout=60s").success();
    eventually("nothing holds it any more", || cloud.world.docker(["ps", "-aq"]).success().text().is_empty());
    cloud.world.docker(["rmi", "data:1"]).success();
    cloud.world.knarr(["doctor"]).success();
}

/// The disk is fuller than the mark says: what pods have done with goes, but for what a pod still uses and for what no registry
/// can give again.
#[test]
fn images_that_no_pod_uses_any_more_go_when_the_disk_fills_up() {
    let marks = ["--image-gc-high-threshold", "1", "--image-gc-low-threshold", "0"];
    let Some(cloud) = Cloud::start_with(&[&marks[..], &["--minimum-image-ttl-duration", "1s"]].concat()) else {
        return;
    };
    let (_registry, address) = private_registry(&cloud);
    cloud.world.docker_with(["login", "-u", "ann", "--password-stdin", &address], b"secret").success();
    let [done, brief, busy, own] = ["done", "brief", "busy", "own"].map(|name| format!("{address}/team/{name}:1"));
    for (image, word) in [(&done, "done"), (&brief, "brief"), (&busy, "busy"), (&own, "own")] {
        publish(&cloud, image, word);
    }
    // Built here and pushed nowhere.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM busybox\nRUN echo built > /word\n").unwrap();
    cloud.world.knarr(["build", "-q", "-t", "built:1", &folder.path().display().to_string()]).success();
    for (name, image) in [("busy", &busy), ("done", &done)] {
        cloud.apply(&pod(name, image, "IfNotPresent", ""));
        cloud.kubectl(&format!("wait --for=condition=Ready pod/{name} --timeout=60s")).success();
    }
    // It lives for a moment.
    for (name, image) in [("brief", brief.as_str()), ("built", "built:1")] {
        let once = pod(name, image, "IfNotPresent", "restartPolicy: Never,").replace("}]}", ", command: ['true']}]}");
        cloud.apply(&once);
        cloud.wait_for(&format!("pod/{name}"), "{.status.phase}", "Succeeded");
    }
    cloud.kubectl("delete pod done brief built --wait=true --timeout=60s").success();
    let there = |image: &str| cloud.world.docker(["image", "inspect", image]).code == 0;
    eventually("what pods have done with goes", || !there(&done) && !there(&brief));
    assert!(there(&busy), "a pod runs with it");
    assert!(there(&own), "no pod ever had it: it is somebody's own");
    assert!(there("built:1"), "no registry can give it again");
    cloud.kubectl("delete pod busy --wait=true --timeout=60s").success();
    eventually("now it is done with as well", || !there(&busy));
}
