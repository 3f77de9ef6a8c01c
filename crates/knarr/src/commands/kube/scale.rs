//! `scale`: how many pods a workload wants.

use hyper::Method;
use serde_json::json;

use super::super::{Command, Context, out};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, int};
use crate::kube::{self, Cluster};

pub(crate) static SCALE: Command = Command {
    name: "scale",
    usage: "KIND/NAME... --replicas=COUNT",
    about: "Set how many pods a workload has",
    examples: "  knarr scale deploy/web --replicas=3
  knarr scale sts/db --replicas=1 --current-replicas=2   only if it has two now",
    flags: &[
        kube::FLAGS,
        &[
            int("replicas", "How many there shall be"),
            int("current-replicas", "Only if there are this many now").default("-1"),
        ],
    ],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let Some(replicas) = matches.int("replicas").filter(|count| *count >= 0) else {
        return Err("error: required flag(s) \"replicas\" not set: a number that is not negative".into());
    };
    let cluster = Cluster::open(context.settings(), matches)?;
    let mut code = 0;
    for target in cluster.targets(&matches.arguments)? {
        let Some(name) = &target.name else {
            return Err("error: name what is to be scaled, such as deploy/web".into());
        };
        let path = format!("{}/scale", target.resource.object(&cluster.namespace, name));
        let scaled = match matches.int("current-replicas").filter(|count| *count >= 0) {
            Some(wanted) => {
                cluster.api.get(&path).and_then(|scale| match scale["spec"]["replicas"].as_i64().unwrap_or(0) {
                    count if count == wanted => Ok(()),
                    count => Err(Failure::new(format!("error: Expected replicas to be {wanted}, was {count}"))),
                })
            }
            None => Ok(()),
        };
        let body = json!({"spec": {"replicas": replicas}});
        let scaled =
            scaled.and_then(|()| cluster.api.change(Method::PATCH, &path, "application/merge-patch+json", &body));
        match scaled {
            Ok(_) => out(&format!("{}/{name} scaled\n", target.resource.shown()))?,
            Err(failure) => {
                eprintln!("{}", failure.message);
                code = 1;
            }
        }
    }
    Ok(code)
}
