//! Plans of Dockerfiles, shown as text.

use super::*;
use crate::syntax::parse;

struct Images;

impl Bases for Images {
    fn resolve(&self, reference: &str, _: &image::Platform) -> Result<Base, String> {
        if reference == "missing" {
            return Err("missing: not found".into());
        }
        let mut config = Config { architecture: "amd64".into(), os: "linux".into(), ..Config::default() };
        config.config.env = vec!["PATH=/bin".into()];
        config.config.cmd = Some(vec!["sh".into()]);
        if reference == "triggers" {
            config.config.on_build = vec!["COPY . /src".into(), "RUN make".into()];
        }
        config.history.push(image::config::History { created_by: "base".into(), ..Default::default() });
        Ok(Base { id: Digest::from_sha256([7; 32]), config })
    }
}

fn host() -> image::Platform {
    image::Platform::parse("linux/amd64").unwrap()
}

fn graph_with(text: &str, options: &Options) -> Result<Graph, PlanError> {
    plan(&parse(text)?, options, &host(), &Images)
}

fn graph(text: &str) -> Graph {
    graph_with(text, &Options::default()).unwrap()
}

/// A graph as text: one line a step.
fn show(graph: &Graph) -> String {
    let mut out = String::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let parent = node.parent.map(|p| format!(" on {p}")).unwrap_or_default();
        let op = match &node.op {
            Op::Scratch => "scratch".to_owned(),
            Op::Image { reference, .. } => format!("image {reference}"),
            Op::Run(run) => format!("run {:?} as {:?} in {} env {:?}", run.args, run.user, run.cwd, run.env),
            Op::Copy(copy) => format!("copy {:?} to {} from {:?}", copy.sources, copy.destination, copy.from),
            Op::Workdir { path, .. } => format!("workdir {path}"),
        };
        out.push_str(&format!("{at}{parent}: {} :: {op}\n", node.name));
    }
    out.push_str(&format!("result {}\n", graph.result));
    for entry in &graph.config.history {
        out.push_str(&format!("{} {}\n", if entry.empty_layer { "-" } else { "*" }, entry.created_by));
    }
    out
}

#[test]
fn stages_arguments_and_environment() {
    let text = r#"
ARG BASE=alpine
FROM ${BASE} AS build
ARG VERSION=1
ENV A=x B="$A y"
WORKDIR src
COPY a.c b.c ./
RUN cc -DV=$VERSION a.c
FROM unused AS other
RUN never
FROM scratch
COPY --from=build --chown=1:2 /src/a.out /bin/${VERSION:-app}
USER 5
EXPOSE 80 90-91/udp
CMD ["/bin/app"]
"#;
    expect_test::expect![[r#"
        0: FROM scratch :: scratch
        1: [build 1/4] FROM docker.io/library/alpine:latest :: image alpine
        2 on 1: [build 2/4] WORKDIR src :: workdir /src
        3 on 2: [build 3/4] COPY a.c b.c ./ :: copy [Path("a.c"), Path("b.c")] to /src/ from Some(Context("context"))
        4 on 3: [build 4/4] RUN cc -DV=$VERSION a.c :: run ["/bin/sh", "-c", "cc -DV=$VERSION a.c"] as "" in /src env ["PATH=/bin", "A=x", "B= y", "VERSION=1"]
        5 on 0: [stage-2 1/1] COPY --from=build --chown=1:2 /src/a.out /bin/${VERSION:-app} :: copy [Path("/src/a.out")] to /bin/app from Some(Node(4))
        result 5
        * COPY --chown=1:2 /src/a.out /bin/app # buildkit
        - USER 5
        - EXPOSE [80/tcp 90/udp 91/udp]
        - CMD ["/bin/app"]
    "#]]
    .assert_eq(&show(&graph(text)));
}

#[test]
fn triggers_run_before_the_stage() {
    let graph = graph("FROM triggers\nRUN own\n");
    let names: Vec<_> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(
        names,
        ["[1/4] FROM docker.io/library/triggers:latest", "[2/4] COPY . /src", "[3/4] RUN make", "[4/4] RUN own"]
    );
    assert!(graph.config.config.on_build.is_empty());
    assert_eq!(graph.base_history, 1);
}

#[test]
fn an_entrypoint_forgets_the_bases_cmd_only() {
    assert_eq!(graph("FROM a\nENTRYPOINT [\"x\"]").config.config.cmd, None);
    assert_eq!(graph("FROM a\nCMD y\nENTRYPOINT [\"x\"]").config.config.cmd.unwrap()[2], "y");
    assert_eq!(graph("FROM a\nSHELL [\"/bin/bash\", \"-c\"]\nCMD y").config.config.cmd.unwrap()[0], "/bin/bash");
}

#[test]
fn callers_arguments_win_and_the_environment_wins_over_them() {
    let mut options = Options::default();
    options.args.insert("V".into(), Some("2".into()));
    options.args.insert("HTTP_PROXY".into(), Some("p".into()));
    let graph = graph_with("FROM a\nARG V=1\nENV W=$V\nARG W=9\nRUN x $V", &options).unwrap();
    let Op::Run(run) = &graph.nodes[1].op else { panic!() };
    assert_eq!(run.env, ["PATH=/bin", "W=2", "V=2", "HTTP_PROXY=p"]);
    assert_eq!(graph.config.history.last().unwrap().created_by, "RUN |1 V=2 /bin/sh -c x $V # buildkit");
}

#[test]
fn the_stage_that_is_wanted_is_an_argument() {
    let env = |target: Option<&str>| {
        let options = Options { target: target.map(str::to_owned), ..Options::default() };
        let graph = graph_with("FROM a AS one\nARG TARGETSTAGE\nRUN x\nFROM one AS two\n", &options).unwrap();
        graph.nodes.iter().find_map(|node| match &node.op {
            Op::Run(run) => run.env.last().cloned(),
            _ => None,
        })
    };
    assert_eq!(env(None).unwrap(), "TARGETSTAGE=default");
    assert_eq!(env(Some("two")).unwrap(), "TARGETSTAGE=two");
}

#[test]
fn heredocs_become_scripts_and_files() {
    let text = "FROM a\nRUN <<EOF\necho 1\nEOF\nRUN <<X\n#!/usr/bin/env python3\nprint(1)\nX\nRUN cat <<Y > /z\n$k\nY\nARG n=v\nCOPY <<one <<\"two\" /d/\n$n\none\n$n\ntwo\n";
    let graph = graph(text);
    let run = |at: usize| match &graph.nodes[at].op {
        Op::Run(run) => run.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(run(1).args, ["/bin/sh", "-c", "echo 1\n"]);
    assert_eq!(run(2).args, ["/dev/pipes/X"]);
    assert!(matches!(&run(2).mounts[0].kind, MountKind::Inline { data } if data.starts_with("#!/usr")));
    assert_eq!(run(3).args[2], "cat <<Y > /z\n$k\nY");
    let Op::Copy(copy) = &graph.nodes[4].op else { panic!() };
    assert_eq!(copy.sources[0], CopySource::Inline { name: "one".into(), data: "v\n".into() });
    assert_eq!(copy.sources[1], CopySource::Inline { name: "two".into(), data: "$n\n".into() });
    assert_eq!(copy.from, None);
}

#[test]
fn mistakes_show_before_anything_runs() {
    for (text, part) in [
        ("", "file with no instructions"),
        ("RUN x", "no build stage in current context"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a\nRUM x", "unknown instruction: RUM (did you mean RUN?)"),
        ("FROM a\nCOPY x", "COPY requires at least two arguments, but only one was provided"),
        ("FROM a\nCOPY a b c", "the destination must be a directory and end with a /"),
        ("FROM a\nCOPY --frm=x a b", "unknown flag: --frm (did you mean from?)"),
        ("FROM a AS b\nCOPY --from=b x y", "circular dependency"),
        ("FROM missing", "missing: not found"),
        ("FROM $NONE", "base name ($NONE) should not be blank"),
        ("FROM a\nEXPOSE x", "invalid containerPort: x"),
        ("FROM a\nONBUILD FROM b", "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\nRUN --security=insecure x", "security.insecure is not allowed"),
        ("FROM a\nRUN --network=host x", "network.host is not allowed"),
        ("FROM a\nRUN --mount=type=x,target=/y z", "unsupported mount type"),
        ("FROM a\nHEALTHCHECK --interval=1x CMD y", "invalid duration"),
        ("FROM a\nSHELL bash", "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nCOPY --chmod=9 a b", "invalid chmod parameter"),
    ] {
        let error = graph_with(text, &Options::default()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let options = Options { target: Some("nope".into()), ..Options::default() };
    let error = graph_with("FROM a", &options).unwrap_err().to_string();
    assert_eq!(error, "target stage \"nope\" could not be found");
}

#[test]
fn only_what_the_target_needs_is_planned() {
    let options = Options { target: Some("one".into()), ..Options::default() };
    let graph = graph_with("FROM a AS one\nRUN x\nFROM missing AS two\nRUN y", &options).unwrap();
    assert_eq!(graph.nodes.len(), 2);
}
