//! `knarr build`: secrets, ssh agents, named contexts, outputs, checks and caches.

use std::path::Path;
use std::process::Command;

use blackbox::web::Web;
use blackbox::{Answer, World, context, is_root};

fn world() -> Option<World> {
    is_root().then(World::start)
}

fn build(world: &World, context: &Path, flags: &[&str]) -> Answer {
    build_with(world, context, flags, &[])
}

fn build_with(world: &World, context: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Answer {
    let mut command = world.knarr_command();
    command.arg("build").args(flags).arg(context).envs(environment.iter().copied()).env_remove("SSH_AUTH_SOCK");
    blackbox::finish(command, b"")
}

fn run(world: &World, image: &str, script: &str) -> String {
    world.knarr(["run", "--rm", "--network", "none", image, "sh", "-c", script]).success().text()
}

/// Bytes anywhere below a folder.
fn holds(folder: &Path, canary: &[u8]) -> Option<std::path::PathBuf> {
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(facts) = path.symlink_metadata() else { continue };
        if facts.is_dir() {
            open.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if facts.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(canary.len()).any(|window| window == canary) {
                return Some(path);
            }
        }
    }
    None
}

/// BL-09: what a secret is can be used by its step and is found nowhere afterwards.
#[test]
fn secrets_reach_their_step_and_nothing_else() {
    let Some(world) = world() else { return };
    let canary = "canary-3f9c1d77a0be4e52b1c8d6aa09";
    let reversed: String = canary.chars().rev().collect();
    let text = r#"
FROM busybox
RUN --mount=type=secret,id=file,required rev /run/secrets/file > /reversed && stat -c %a /run/secrets/file > /mode
RUN --mount=type=secret,id=var,env=TOKEN test "$TOKEN" = "$(cat /dev/null)value" && ! env | grep -q canary
RUN test ! -e /run/secrets/file && test -z "$TOKEN"
"#;
    let folder = context(&[("Dockerfile", text)]);
    let held = context(&[("secret", canary)]);
    let secret = format!("id=file,src={}", held.path().join("secret").display());
    let flags = ["-t", "secret", "--secret", &secret, "--secret", "id=var,env=OWN_VALUE", "--progress", "plain"];
    build_with(&world, folder.path(), &flags, &[("OWN_VALUE", "value")]).success();
    assert_eq!(run(&world, "secret", "cat /reversed; echo; cat /mode"), format!("{reversed}\n400"));
    assert_eq!(holds(&world.root(), canary.as_bytes()), None);
    assert_eq!(holds(&world.run_dir(), canary.as_bytes()), None);
    assert!(!world.engine_log().contains(canary));
    let missing = build(&world, folder.path(), &["--no-cache"]).exits(1);
    assert!(missing.errors().contains("secret file: not found"), "{}", missing.errors());
    world.knarr(["doctor"]).success();
}

/// A socket of this machine is shown to the steps that ask for it.
#[test]
fn ssh_agents_reach_their_step() {
    let Some(world) = world() else { return };
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("agent");
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let text = "FROM busybox\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK > /said\nRUN test -z \"$SSH_AUTH_SOCK\"\n";
    let folder = context(&[("Dockerfile", text)]);
    build(&world, folder.path(), &[]).exits(1).stderr_has("ssh socket default: not found");
    let ssh = format!("default={}", socket.display());
    build(&world, folder.path(), &["-t", "ssh", "--ssh", &ssh]).success();
    assert_eq!(run(&world, "ssh", "cat /said"), "/run/buildkit/ssh_agent.0");
    build(&world, folder.path(), &["--ssh", "default"]).exits(1).stderr_has("SSH_AUTH_SOCK is set");
    world.knarr(["doctor"]).success();
}

#[test]
fn further_contexts_have_names() {
    let Some(world) = world() else { return };
    let web = Web::start();
    let other = context(&[("file", "other"), ("left.out", "x"), (".dockerignore", "*.out\n")]);
    let tar = context(&[("file", "remote")]);
    Command::new("tar").args(["-czf", "ctx.tgz", "file"]).current_dir(tar.path()).status().unwrap();
    web.file("/ctx.tgz", std::fs::read(tar.path().join("ctx.tgz")).unwrap(), "\"1\"");
    // A layout with one image, as an output of ours writes it.
    let small = context(&[("Dockerfile", "FROM busybox\nRUN echo layout > /from\n")]);
    let layout = tempfile::tempdir().unwrap();
    let output = format!("type=oci,tar=false,name=in/layout:v1,dest={}", layout.path().display());
    build(&world, small.path(), &["-o", &output]).success();
    let text = r#"
FROM base
COPY --from=other / /other/
COPY --from=web file /web
RUN --mount=type=bind,from=other,target=/o test -e /o/file
COPY --from=img /from /img
"#;
    let folder = context(&[("Dockerfile", text)]);
    let flags = [
        "-t".to_owned(),
        "named".into(),
        format!("--build-context=other={}", other.path().display()),
        format!("--build-context=web={}", web.url("/ctx.tgz")),
        format!("--build-context=img=oci-layout://{}:v1", layout.path().display()),
        "--build-context=base=docker-image://busybox".into(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    build(&world, folder.path(), &flags).success();
    assert_eq!(run(&world, "named", "ls /other; cat /other/file /web /img"), "file\notherremotelayout");
    let none = format!("--build-context=img=oci-layout://{}:v2", layout.path().display());
    build(&world, folder.path(), &[&none]).exits(1).stderr_has("it has no image \"v2\"");
    build(&world, folder.path(), &["--build-context=x=/nowhere"]).exits(1).stderr_has("not a directory");
    let names = world.knarr(["images", "--format", "{{.Repository}}"]).text();
    assert!(!names.contains("in/layout"), "{names}");
    world.knarr(["doctor"]).success();
}

#[test]
fn outputs_come_to_this_side() {
    let Some(world) = world() else { return };
    let text = "FROM scratch AS files\nCOPY --chmod=640 a /dir/a\nCOPY b /b\nFROM busybox\nCOPY --from=files / /\n";
    let folder = context(&[("Dockerfile", text), ("a", "one"), ("b", "two"), (".dockerignore", "Dockerfile\n")]);
    let out = tempfile::tempdir().unwrap();
    let place = |name: &str| out.path().join(name).display().to_string();
    build(&world, folder.path(), &["--target", "files", "-o", &place("local")]).success();
    assert_eq!(std::fs::read_to_string(out.path().join("local/dir/a")).unwrap(), "one");
    let mut names: Vec<_> =
        std::fs::read_dir(out.path().join("local")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["b", "dir"]);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(out.path().join("local/dir/a").metadata().unwrap().permissions().mode() & 0o777, 0o640);
    // Several at once, and an image beside them.
    let (tar, oci, docker) = (place("f.tar"), place("o.tar"), place("d.tar"));
    let flags = [
        "-t".to_owned(),
        "outputs:1".into(),
        "-o".into(),
        format!("type=tar,dest={tar}"),
        "-o".into(),
        format!("type=oci,dest={oci},annotation.org.example.key=value"),
        "-o".into(),
        format!("type=docker,dest={docker}"),
        "--load".into(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    build(&world, folder.path(), &flags).success().stdout_has("Successfully tagged outputs:1");
    let list = |file: &str| {
        let out = Command::new("tar").args(["-tf", file]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(list(&tar).lines().any(|name| name == "dir/a"), "{}", list(&tar));
    let entry = |file: &str, name: &str| Command::new("tar").args(["-xOf", file, name]).output().unwrap().stdout;
    let index: serde_json::Value = serde_json::from_slice(&entry(&oci, "index.json")).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let manifest: serde_json::Value = serde_json::from_slice(&entry(&oci, &format!("blobs/sha256/{digest}"))).unwrap();
    assert_eq!(manifest["annotations"]["org.example.key"], "value");
    // What was written loads again as the same image.
    let id = world.knarr(["images", "-q", "--no-trunc", "outputs:1"]).text();
    world.knarr(["rmi", "outputs:1"]).success();
    world.knarr(["load", "-i", &docker]).success();
    assert_eq!(world.knarr(["images", "-q", "--no-trunc", "outputs:1"]).text(), id);
    // Only files were asked for: no image is made.
    build(&world, folder.path(), &["-t", "never", "-o", &format!("type=tar,dest={}", place("g.tar"))]).success();
    world.knarr(["image", "inspect", "never"]).exits(1);
    build(&world, folder.path(), &["-o", "type=oci"]).exits(1).stderr_has("needs dest=");
    build(&world, folder.path(), &["-o", "type=what,dest=x"]).exits(1).stderr_has("unknown type \"what\"");
    world.knarr(["doctor"]).success();
}

/// Layers leave packed as they are asked for: archives, pushes and caches.
#[test]
fn layers_leave_in_the_form_that_is_asked_for() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN seq 30000 > /numbers\n")]);
    let out = tempfile::tempdir().unwrap();
    let place = |name: &str| out.path().join(name).display().to_string();
    let (plain, zstd) = (place("plain"), place("zstd"));
    let app = format!("{}/app:1", registry.address);
    let outputs = [
        format!("--output=type=oci,tar=false,dest={plain}"),
        format!("--output=type=oci,tar=false,dest={zstd},compression=zstd,compression-level=7"),
        format!("--output=type=registry,name={app},compression=gzip"),
        format!("--cache-to=type=local,dest={},compression=gzip", place("cache")),
        format!("--cache-to=type=registry,ref={}/cache,compression=zstd", registry.address),
    ];
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    build(&world, folder.path(), &outputs).success();
    let read = |folder: &str, digest: &serde_json::Value| -> serde_json::Value {
        let digest = digest.as_str().unwrap().trim_start_matches("sha256:");
        serde_json::from_slice(&std::fs::read(format!("{folder}/blobs/sha256/{digest}")).unwrap()).unwrap()
    };
    let layer = |folder: &str| {
        let index = std::fs::read(format!("{folder}/index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let manifest = read(folder, &index["manifests"][0]["digest"]);
        manifest["layers"].as_array().unwrap().last().unwrap().clone()
    };
    let ends = |layer: serde_json::Value, with: &str| {
        assert!(layer["mediaType"].as_str().unwrap().ends_with(with), "{layer}");
        layer["size"].as_u64().unwrap()
    };
    let old = place("old");
    let flag = format!("--output=type=oci,tar=false,dest={old},oci-mediatypes=false");
    build(&world, folder.path(), &[&flag]).success();
    ends(layer(&old), "vnd.docker.image.rootfs.diff.tar");
    let (long, short) = (ends(layer(&plain), "layer.v1.tar"), ends(layer(&zstd), "tar+zstd"));
    assert!(short < long / 2, "{long} became {short}");
    ends(layer(&place("cache")), "tar+gzip");
    // What was pushed is an image again, and the caches serve.
    for cache in [format!("type=local,src={}", place("cache")), format!("{}/cache", registry.address)] {
        let _ = world.knarr(["rmi", "-f", &app, "again"]);
        world.knarr(["builder", "prune", "-af"]).success();
        let flag = format!("--cache-from={cache}");
        let told = build(&world, folder.path(), &["-t", "again", "--progress", "plain", &flag]).success().errors();
        assert!(told.contains("CACHED"), "{told}");
    }
    let _ = world.knarr(["rmi", "-f", "again"]);
    world.knarr(["pull", "-q", &app]).success();
    assert_eq!(run(&world, &app, "tail -n 1 /numbers"), "30000");
    for (flag, part) in [
        (format!("--output=type=oci,dest={plain},compression=estargz"), "estargz is not supported"),
        (format!("--output=type=oci,dest={plain},compression=zstd,compression-level=30"), "not between 0 and 22"),
        (format!("--output=type=oci,dest={plain},force-compression=maybe"), "true or false"),
        (format!("--output=type=oci,dest={plain},oci-mediatypes=maybe"), "true or false"),
        ("--output=type=image,push=maybe".into(), "true or false"),
        ("--cache-to=type=inline,compression=lzma".into(), "unsupported compression type"),
        (format!("--cache-to=type=local,dest={plain},mode=most"), "min or max"),
        (format!("--cache-to=type=local,dest={plain},speed=high"), "unknown attribute"),
    ] {
        build(&world, folder.path(), &[&flag]).exits(1).stderr_has(part);
    }
    world.knarr(["doctor"]).success();
}

#[test]
fn checks_outlines_and_targets_are_told_without_building() {
    let Some(world) = world() else { return };
    let text = "# base the first\nFROM busybox AS base\nARG V=1\nCMD echo\nRUN exit 1\n";
    let folder = context(&[("Dockerfile", text)]);
    build(&world, folder.path(), &["--check"])
        .exits(1)
        .stdout_has("Check complete, 1 warning has been found!")
        .stdout_has("WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/")
        .stdout_has("   4 | >>> CMD echo");
    let json = build(&world, folder.path(), &["--call", "check,format=json"]).exits(1).json();
    assert_eq!(json["warnings"][0]["ruleName"], "JSONArgsRecommended");
    build(&world, folder.path(), &["--call", "targets"])
        .success()
        .stdout("TARGET            DESCRIPTION\nbase (default)    the first\n");
    build(&world, folder.path(), &["--call", "outline"]).success().stdout_has("V            1");
    let fine = context(&[("Dockerfile", "FROM busybox\n")]);
    build(&world, fine.path(), &["--check"]).success().stdout("Check complete, no warnings found.\n");
    let strict = context(&[("Dockerfile", "# check=error=true\nFROM busybox\nCMD echo\n")]);
    build(&world, strict.path(), &[]).exits(1).stderr_has("lint violation found for rules: JSONArgsRecommended");
    // A mistake shows where it is, before any step runs.
    let wrong = context(&[("Dockerfile", "FROM busybox\nRUN touch /x\nCOPY --form=x a b\n")]);
    build(&world, wrong.path(), &[])
        .exits(1)
        .stderr_has("dockerfile parse error on line 3: unknown flag: --form (did you mean from?)")
        .stderr_has("   3 | >>> COPY --form=x a b");
}

#[test]
fn steps_are_told_as_they_happen() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN echo said\nRUN exit 3\n")]);
    let failed = build(&world, folder.path(), &["--progress", "plain"]).exits(1);
    let text = failed.errors();
    assert!(text.contains("RUN echo said\n") && text.contains(" said\n"), "{text}");
    assert!(text.contains("DONE 0.") && text.contains("ERROR: process"), "{text}");
    let fine = context(&[("Dockerfile", "FROM busybox\nRUN echo said\n")]);
    let text = build(&world, fine.path(), &["--progress", "plain"]).success().errors();
    assert!(text.contains("CACHED"), "{text}");
    let quiet = build(&world, fine.path(), &["-q"]).success();
    assert!(quiet.text().starts_with("sha256:") && quiet.errors().is_empty(), "{quiet}");
}

#[test]
fn dockerfiles_come_on_standard_input() {
    let Some(world) = world() else { return };
    let folder = context(&[("file", "inside")]);
    let mut command = world.knarr_command();
    command.args(["build", "-t", "alone", "-"]);
    blackbox::finish(command, b"FROM busybox\nRUN echo alone > /a\n").success();
    assert_eq!(run(&world, "alone", "cat /a"), "alone");
    let mut command = world.knarr_command();
    command.args(["build", "-t", "beside", "-f", "-"]).arg(folder.path());
    blackbox::finish(command, b"FROM busybox\nCOPY file /a\n").success();
    assert_eq!(run(&world, "beside", "cat /a"), "inside");
}

/// Base images that only somebody may have: by a login in docker's file, and by a helper.
#[test]
fn logins_open_registries_for_a_build() {
    let Some(world) = world() else { return };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).display().to_string();
    let mut hash = Command::new(blackbox::program());
    hash.args(["registry", "hash", "ann"]);
    std::fs::write(at("users"), blackbox::finish(hash, b"pass word\n").success().text()).unwrap();
    let registry = Registry::with(&["--users", &at("users"), "--auth", "token"]);
    let name = format!("{}/private:1", registry.address);
    let base = context(&[("Dockerfile", "FROM busybox\nRUN echo private > /who\n")]);
    let folder = context(&[("Dockerfile", &format!("FROM {name}\nRUN cat /who > /again\n"))]);
    std::fs::create_dir(at("config")).unwrap();
    let helper = format!(
        "#!/bin/sh\nread server\ncase \"$1 $server\" in 'get {}') echo '{{\"Username\":\"ann\",\"Secret\":\"pass word\"}}' ;; *) echo credentials not found in native keychain; exit 1 ;; esac\n",
        registry.address
    );
    std::fs::create_dir(at("bin")).unwrap();
    std::fs::write(at("bin/docker-credential-vault"), helper).unwrap();
    std::fs::set_permissions(at("bin/docker-credential-vault"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let path = format!("{}:{}", at("bin"), std::env::var("PATH").unwrap());
    let environment = [("DOCKER_CONFIG", at("config")), ("PATH", path)];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
    // Of "ann:pass word".
    let pair = "YW5uOnBhc3Mgd29yZA==";
    let logins = [
        format!(r#"{{"auths": {{"{}": {{"auth": "{pair}"}}}}}}"#, registry.address),
        format!(r#"{{"credHelpers": {{"{}": "vault"}}}}"#, registry.address),
        format!(r#"{{"auths": {{"{}": {{}}}}, "credsStore": "vault"}}"#, registry.address),
    ];
    for login in logins {
        std::fs::write(at("config/config.json"), &login).unwrap();
        build_with(&world, base.path(), &["-q", "--push", "-t", &name], &environment).success();
        world.knarr(["rmi", "-f", &name]).success();
        std::fs::write(at("config/config.json"), "{}").unwrap();
        let refused = build_with(&world, folder.path(), &["-q"], &environment).exits(1).errors();
        assert!(refused.contains("denied") || refused.contains("authorization"), "{refused}");
        std::fs::write(at("config/config.json"), &login).unwrap();
        build_with(&world, folder.path(), &["-q", "-t", "opened"], &environment).success();
        assert_eq!(run(&world, "opened", "cat /again"), "private");
        world.knarr(["rmi", "-f", &name, "opened"]).success();
        world.knarr(["builder", "prune", "-af"]).success();
    }
    assert!(!world.engine_log().contains("pass word"), "a password is in the log");
}

/// A registry of ours on a free port, ended with the test.
struct Registry {
    child: std::process::Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(more: &[&str]) -> Self {
        use std::io::BufRead;
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(blackbox::program());
        command.args(["registry", "--listen", "127.0.0.1:0", "--root"]).arg(folder.path()).args(more);
        let mut child =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().to_owned(), _folder: folder }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one engine built, another finds in a folder, in a registry or in the image itself.
#[test]
fn caches_go_out_and_come_back() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let text = "FROM busybox AS build\nRUN echo made > /made\nCOPY file /file\nFROM busybox\nCOPY --from=build /made /file /out/\nCOPY --link file /linked\nRUN cat /out/made > /end\n";
    let folder = context(&[("Dockerfile", text), ("file", "content")]);
    let kept = tempfile::tempdir().unwrap();
    let local = kept.path().join("cache").display().to_string();
    let app = format!("{}/app:1", registry.address);
    let to = [
        format!("--cache-to=type=local,dest={local},mode=max"),
        format!("--cache-to=type=registry,ref={}/cache,mode=max", registry.address),
        format!("--cache-to=type=registry,ref={}/least", registry.address),
        "--cache-to=type=inline".into(),
    ];
    let mut flags: Vec<&str> = to.iter().map(String::as_str).collect();
    flags.extend(["-t", &app, "--push"]);
    build(&world, folder.path(), &flags).success().stdout_has("Exported cache to").stdout_has("Pushed");
    let forget = || {
        let _ = world.knarr(["rmi", "-f", &app]);
        world.knarr(["builder", "prune", "-af"]).success();
    };
    let steps = |from: &str| {
        forget();
        let flag = format!("--cache-from={from}");
        let mut flags = vec!["-t", app.as_str(), "--progress", "plain"];
        if !from.is_empty() {
            flags.push(&flag);
        }
        build(&world, folder.path(), &flags).success().errors().matches("CACHED").count()
    };
    assert_eq!(steps(""), 0);
    assert_eq!(steps(&format!("type=local,src={local}")), 5);
    assert_eq!(steps(&format!("type=registry,ref={}/cache", registry.address)), 5);
    // Only what the result consists of: the other stage is built again, and gives the same.
    assert_eq!(steps(&format!("{}/least", registry.address)), 3);
    // A linked layer is in the image only on top of others.
    assert_eq!(steps(&app), 2);
    assert_eq!(run(&world, &app, "cat /end /linked"), "made\ncontent");
    // A cache that is not there is told of, and the build goes on.
    forget();
    let flag = format!("--cache-from={}/nothing", registry.address);
    let built = build(&world, folder.path(), &["--progress", "plain", &flag]).success();
    assert!(built.errors().contains("DONE"), "{built}");
    world.knarr(["doctor"]).success();
}

#[test]
fn attestations_say_how_it_was_made_and_what_is_in_it() {
    let Some(world) = world() else { return };
    let text = "FROM busybox\nARG V\nCOPY status /var/lib/dpkg/status\nRUN --mount=type=secret,id=token true\n";
    let status = "Package: tool\nStatus: install ok installed\nArchitecture: all\nVersion: 1.2\n";
    let folder = context(&[("Dockerfile", text), ("status", status)]);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("o.tar").display().to_string();
    let output = format!("type=oci,dest={file}");
    let flags =
        ["-o", &output, "--provenance=mode=max", "--sbom=true", "--build-arg=V=7", "--secret=id=token,env=CANARY"];
    build_with(&world, folder.path(), &flags, &[("CANARY", "canary-77aa")]).success();
    let blob = |digest: &serde_json::Value| -> serde_json::Value {
        let name = format!("blobs/sha256/{}", digest.as_str().unwrap().trim_start_matches("sha256:"));
        let bytes = Command::new("tar").args(["-xOf", &file, &name]).output().unwrap().stdout;
        serde_json::from_slice(&bytes).unwrap()
    };
    let top = Command::new("tar").args(["-xOf", &file, "index.json"]).output().unwrap().stdout;
    let top: serde_json::Value = serde_json::from_slice(&top).unwrap();
    let index = blob(&top["manifests"][0]["digest"]);
    assert_eq!(index["manifests"][0]["platform"]["os"], "linux");
    let attestation = &index["manifests"][1];
    assert_eq!(attestation["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], index["manifests"][0]["digest"]);
    let manifest = blob(&attestation["digest"]);
    let statements: Vec<_> = manifest["layers"].as_array().unwrap().iter().map(|l| blob(&l["digest"])).collect();
    let subject = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    assert!(statements.iter().all(|s| s["subject"][0]["digest"]["sha256"] == subject.as_str()));
    let (made, content) = (&statements[0]["predicate"], &statements[1]["predicate"]);
    assert_eq!(statements[0]["predicateType"], "https://slsa.dev/provenance/v0.2");
    assert!(made["materials"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/busybox@latest"));
    assert_eq!(made["invocation"]["parameters"]["args"]["build-arg:V"], "7");
    assert_eq!(made["invocation"]["parameters"]["secrets"][0]["id"], "token");
    let named = content["packages"].as_array().unwrap().iter().find(|p| p["name"] == "tool").unwrap();
    assert_eq!(named["versionInfo"], "1.2");
    assert_eq!(holds(out.path(), b"canary-77aa"), None);
    // The image is still an image for others.
    world.knarr(["load", "-i", &file]).success();
    world.knarr(["doctor"]).success();
}

/// A build that is ended in the middle, by its client or with its engine, leaves nothing, and goes on from its cache.
#[test]
fn builds_that_are_cut_leave_nothing_behind() {
    let Some(mut world) = world() else { return };
    let text = "FROM busybox\nRUN echo kept > /kept\nRUN --mount=type=secret,id=s test ! -e /go || exit 0; echo started > /dev/stderr; sleep 1000\n";
    let folder = context(&[("Dockerfile", text)]);
    let begin = |world: &World| {
        use std::io::BufRead;
        let mut command = world.knarr_command();
        command.args(["build", "--progress", "plain", "--secret", "id=s,env=PATH"]).arg(folder.path());
        let mut child =
            command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with(" started")), "the step did not start");
        child
    };
    let left = |world: &World| {
        let count = |path: &str| std::fs::read_dir(path).map_or(0, |entries| entries.count());
        let root = world.root().display().to_string();
        let steps = format!("{}/steps", world.run_dir().display());
        count(&format!("{root}/build/contexts")) + count(&format!("{root}/snapshots")) + count(&steps)
    };
    let mut child = begin(&world);
    child.kill().unwrap();
    child.wait().unwrap();
    blackbox::eventually("nothing is left of a build whose client went away", || left(&world) == 0);
    world.knarr(["doctor"]).success();
    // The engine is killed in the middle of a step; the next one finds and removes what is left.
    let mut child = begin(&world);
    world.end_engine(rustix::process::Signal::KILL);
    child.wait().unwrap();
    world.start_engine(&[]);
    blackbox::eventually("nothing is left of a build whose engine was killed", || left(&world) == 0);
    world.knarr(["doctor"]).success();
    let fine = context(&[("Dockerfile", "FROM busybox\nRUN echo kept > /kept\n")]);
    let again = build(&world, fine.path(), &["--progress", "plain"]).success().errors();
    assert!(again.contains("CACHED"), "{again}");
}

/// BL-03: neither door gives a step more than its caller allowed.
#[test]
fn steps_get_no_more_than_was_allowed() {
    let Some(world) = world() else { return };
    let caps =
        context(&[("Dockerfile", "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status > /caps\n")]);
    build(&world, caps.path(), &[]).exits(1).stderr_has("security.insecure is not allowed");
    build(&world, caps.path(), &["-t", "caps", "--allow", "security.insecure"]).success();
    let host = context(&[("Dockerfile", "FROM busybox\nRUN --network=host true\n")]);
    build(&world, host.path(), &[]).exits(1).stderr_has("network.host is not allowed");
    build(&world, host.path(), &["--allow", "network.host"]).success();
    build(&world, host.path(), &["--allow", "everything"]).exits(1).stderr_has("invalid entitlement: everything");
    let plain = context(&[("Dockerfile", "FROM busybox\nRUN grep CapEff /proc/self/status > /caps\n")]);
    build(&world, plain.path(), &["-t", "plain"]).success();
    assert!(run(&world, "plain", "cat /caps").ends_with("00000000a80425fb"));
    assert!(!run(&world, "caps", "cat /caps").ends_with("00000000a80425fb"));
}

/// BL-01: two builds that share a cache mount, one of which puts links in the way.
#[test]
fn a_shared_cache_mount_leads_nowhere_outside() {
    let Some(world) = world() else { return };
    let victim = world.dir().join("victim");
    std::fs::create_dir(&victim).unwrap();
    let flip = context(&[(
        "Dockerfile",
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,id=x for i in $(seq 60); do rm -rf /c/sub; ln -s VICTIM /c/sub; rm -f /c/sub; mkdir -p /c/sub; done\n",
    )]);
    let text = std::fs::read_to_string(flip.path().join("Dockerfile")).unwrap();
    let text = text.replace("VICTIM", victim.to_str().unwrap());
    std::fs::write(flip.path().join("Dockerfile"), text).unwrap();
    let write = context(&[(
        "Dockerfile",
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,id=x --mount=type=cache,target=/d,id=x for i in $(seq 60); do echo $i > /d/sub/$i || true; done\n",
    )]);
    std::thread::scope(|scope| {
        for folder in [flip.path(), write.path()] {
            let world = &world;
            scope.spawn(move || {
                for n in 0..5 {
                    // Some fail because their source is gone at that moment: none may reach what is outside.
                    build(world, folder, &["--no-cache", "--build-arg", &format!("N={n}")]);
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    world.knarr(["doctor"]).success();
}

/// What a build leaves in the cache goes by itself where there is no room for it.
#[test]
fn the_cache_keeps_to_its_limit() {
    if !is_root() {
        return;
    }
    let world = World::with(&[("KNARR_BUILD_CACHE", "1")]);
    world.load(&blackbox::image::busybox());
    let entries = || {
        let (status, body) = world.api("GET", "/system/df", None);
        assert_eq!(status, 200, "{body}");
        let facts: serde_json::Value = serde_json::from_str(&body).unwrap();
        facts["BuildCache"].as_array().map_or(0, Vec::len)
    };
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c head -c 1000000 /dev/urandom > /c/x && cp /c/x /x\n";
    build(&world, context(&[("Dockerfile", text)]).path(), &["-t", "made"]).success();
    // What was used a moment ago may be had again at little cost, and stays its two days; the step's layer goes.
    blackbox::eventually("the step's entry is gone", || entries() <= 1);
    assert_eq!(run(&world, "made", "wc -c < /x"), "1000000");
    world.knarr(["doctor"]).success();
    let refused = world.knarr(["engine", "--build-cache", "much"]);
    assert_ne!(refused.code, 0, "{refused}");
}

#[test]
fn tests_notice_a_weakened_build() {
    blackbox::weakened(&[
        ("secrets", "secrets_reach_their_step_and_nothing_else"),
        ("entitlements", "steps_get_no_more_than_was_allowed"),
    ]);
}
