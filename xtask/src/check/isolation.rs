//! Who may know a broker: its client is used by its provider crate alone, and only the crates that put a program together
//! may reach a provider. So `queue-core` with one provider stays as small as it claims to be.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, Metadata};

/// Broker clients, and the one crate that may use each.
const CLIENTS: [(&str, &str); 6] = [
    ("redis", "queue-redis"),
    ("lapin", "queue-rabbitmq"),
    ("rdkafka", "queue-kafka"),
    ("rdkafka-sys", "queue-kafka"),
    ("aws-sdk-sqs", "queue-sqs"),
    ("aws-config", "queue-sqs"),
];

/// The crates that may reach a client through its provider: they put a program together.
const ASSEMBLERS: [&str; 5] = ["queue-manager", "queue-cli", "queue-server", "queue-e2e", "queue-examples"];

/// Names and what each depends on when it is built for use: dev-dependencies do not count.
type Graph = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let graph = graph(metadata);
    let members: Vec<String> = metadata.workspace_packages().iter().map(|member| member.name.to_string()).collect();
    let faults = faults(&graph, &members);
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    eprintln!("{} crates; broker clients only behind their providers", members.len());
    // What a program of core and one provider brings along.
    for provider in members.iter().filter(|member| CLIENTS.iter().any(|(_, provider)| provider == member)) {
        let programs = ["queue-core", provider];
        let brought = programs.iter().flat_map(|member| clients(&graph, member)).collect::<BTreeSet<_>>();
        eprintln!("queue-core + {provider}: {}", Vec::from_iter(brought).join(", "));
    }
    Ok(())
}

/// The clients in a crate's tree.
fn clients(graph: &Graph, member: &str) -> BTreeSet<&'static str> {
    CLIENTS.iter().map(|(client, _)| *client).filter(|client| path(graph, member, client).is_some()).collect()
}

fn graph(metadata: &Metadata) -> Graph {
    let name = |id: &cargo_metadata::PackageId| metadata[id].name.to_string();
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
    let mut graph = Graph::new();
    for node in nodes {
        let used = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|k| k.kind != DependencyKind::Development));
        graph.entry(name(&node.id)).or_default().extend(used.map(|dep| name(&dep.pkg)));
    }
    graph
}

/// One sentence a fault, with the way the client came in.
fn faults(graph: &Graph, members: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for member in members {
        for (client, provider) in CLIENTS {
            let Some(path) = path(graph, member, client) else { continue };
            let direct_user = path.get(path.len().saturating_sub(2)).map(String::as_str);
            let through_provider = path.iter().any(|name| name == provider);
            let allowed = member == provider || (ASSEMBLERS.contains(&member.as_str()) && through_provider);
            let behind = direct_user.is_some_and(|user| user == provider || !members.iter().any(|m| m == user));
            if !allowed || !behind {
                faults.push(format!("{member} reaches the client `{client}`: {}", path.join(" → ")));
            }
        }
    }
    faults
}

/// A shortest way from one crate to another.
fn path(graph: &Graph, from: &str, to: &str) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut line = std::collections::VecDeque::from([from]);
    while let Some(at) = line.pop_front() {
        if at == to {
            let mut path = vec![at.to_owned()];
            let mut step = at;
            while let Some(before) = came_from.get(step).filter(|_| step != from) {
                path.push((*before).to_owned());
                step = before;
            }
            path.reverse();
            return Some(path);
        }
        for next in graph.get(at).into_iter().flatten() {
            if next != from && !came_from.contains_key(next.as_str()) {
                came_from.insert(next, at);
                line.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> (Graph, Vec<String>) {
        let graph =
            edges.iter().map(|(from, to)| ((*from).to_owned(), to.iter().map(|t| (*t).to_owned()).collect())).collect();
        (graph, edges.iter().map(|(from, _)| (*from).to_owned()).filter(|name| name.starts_with("queue-")).collect())
    }

    #[test]
    fn a_client_behind_its_provider_is_fine() {
        let (graph, members) = graph(&[
            ("queue-core", &["tokio"]),
            ("queue-redis", &["queue-core", "redis"]),
            ("queue-manager", &["queue-redis", "queue-core"]),
            ("queue-cli", &["queue-manager"]),
        ]);
        assert_eq!(faults(&graph, &members), Vec::<String>::new());
    }

    #[test]
    fn each_way_around_the_provider_is_found_and_shown() {
        let (graph, members) = graph(&[
            ("queue-core", &["wrapper"]),
            ("wrapper", &["redis"]),
            ("queue-memory", &["queue-redis"]),
            ("queue-redis", &["redis"]),
            ("queue-manager", &["lapin"]),
            ("queue-cli", &["queue-manager"]),
        ]);
        assert_eq!(
            faults(&graph, &members),
            [
                "queue-core reaches the client `redis`: queue-core → wrapper → redis",
                "queue-memory reaches the client `redis`: queue-memory → queue-redis → redis",
                "queue-manager reaches the client `lapin`: queue-manager → lapin",
                "queue-cli reaches the client `lapin`: queue-cli → queue-manager → lapin",
            ]
        );
    }

    #[test]
    fn a_short_cut_beside_the_provider_is_found() {
        let (graph, members) = graph(&[("queue-manager", &["queue-redis", "redis"]), ("queue-redis", &["redis"])]);
        assert_eq!(faults(&graph, &members), ["queue-manager reaches the client `redis`: queue-manager → redis"]);
    }

    #[test]
    fn a_program_of_core_and_one_provider_has_that_providers_client_alone() {
        let (mut graph, members) = graph(&[
            ("queue-core", &["tokio"]),
            ("queue-redis", &["queue-core", "redis"]),
            ("queue-kafka", &["queue-core", "rdkafka"]),
        ]);
        assert_eq!(clients(&graph, "queue-core"), BTreeSet::new());
        assert_eq!(clients(&graph, "queue-redis"), BTreeSet::from(["redis"]));
        graph.entry("queue-redis".into()).or_default().insert("queue-kafka".into());
        let expected = ["queue-redis reaches the client `rdkafka`: queue-redis → queue-kafka → rdkafka"];
        assert_eq!(faults(&graph, &members), expected);
    }

    #[test]
    fn circles_end() {
        let (graph, _) = graph(&[("queue-a", &["queue-b"]), ("queue-b", &["queue-a"])]);
        assert_eq!(path(&graph, "queue-a", "redis"), None);
    }
}
