//! Nodes of RabbitMQ and the name server by which they find each other, all of it private to one folder.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::PROGRAM;
use crate::brokers::native;

/// Debian's script behind its wrapper, which insists on a user and on folders of its own.
const BEHIND_THE_WRAPPER: &str = "/usr/lib/rabbitmq/bin";

/// Which RabbitMQ it is: the folder of its programs.
#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// This machine's.
    pub(super) fn installed() -> Self {
        Self { folder: BEHIND_THE_WRAPPER.into() }
    }

    pub(super) fn within(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, program: &str) -> PathBuf {
        let found = self.folder.join(program);
        if found.is_file() { found } else { native::on_path(program).unwrap_or_else(|| program.into()) }
    }
}

/// How many ports so many nodes need: for clients and for its fellows, each, and one for the name server.
pub(super) const fn ports(nodes: usize) -> usize {
    2 * nodes + 1
}

/// The name server in the foreground, then the nodes: stopped in the reverse order, nothing of them stays.
pub(super) fn commands(programs: &Programs, home: &Path, ports: &[u16], nodes: usize) -> Result<Vec<Command>> {
    let (clients, rest) = ports.split_at(nodes);
    let [fellows @ .., names] = rest else { anyhow::bail!("too few ports") };
    write_cookie(home)?;
    let mut commands = vec![name_server(programs, home, *names)];
    for (port, fellow) in clients.iter().zip(fellows) {
        commands.push(node(programs, home, *port, *fellow, *names, clients)?);
    }
    Ok(commands)
}

/// Asks a node through RabbitMQ's own tool, which starts an Erlang machine: about a second each time.
pub(super) fn control(home: &Path, port: u16, names: u16) -> Command {
    let mut command = Command::new(Programs::installed().path("rabbitmqctl"));
    command.args(["--quiet", "--node", &name(port)]).env("HOME", home).env("ERL_EPMD_PORT", names.to_string());
    command
}

/// Whoever knows it may run anything in a node, so that it is nobody else's to read or to guess.
fn write_cookie(home: &Path) -> Result<()> {
    let mut random = [0_u8; 16];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    let cookie: String = random.iter().map(|byte| format!("{byte:02X}")).collect();
    let path = home.join(".erlang.cookie");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
    file.write_all(cookie.as_bytes()).with_context(|| format!("{} cannot be written", path.display()))
}

fn name_server(programs: &Programs, home: &Path, port: u16) -> Command {
    let mut command = Command::new(programs.path("epmd"));
    command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]).env("HOME", home);
    command
}

fn name(port: u16) -> String {
    format!("queue-{port}@localhost")
}

fn node(programs: &Programs, home: &Path, port: u16, fellow: u16, names: u16, all: &[u16]) -> Result<Command> {
    let folder = home.join(port.to_string());
    fs::create_dir_all(&folder)?;
    ensure!(!folder.display().to_string().contains(' '), "RabbitMQ cannot live in {}: a blank", folder.display());
    fs::write(folder.join("rabbitmq.conf"), configuration(all))?;
    fs::write(folder.join("enabled_plugins"), "[].\n")?;
    let mut command = Command::new(programs.path(PROGRAM));
    command.env("RABBITMQ_NODENAME", name(port)).env("HOME", home);
    command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", port.to_string());
    command.env("RABBITMQ_DIST_PORT", fellow.to_string());
    command.env("ERL_EPMD_PORT", names.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    for (variable, inside) in [
        ("RABBITMQ_MNESIA_BASE", "data"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "config"),
        ("RABBITMQ_SCHEMA_DIR", "schema"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_PID_FILE", "pid"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_CONF_ENV_FILE", "none.conf"),
    ] {
        command.env(variable, folder.join(inside));
    }
    // Its log is what the tests keep of its output.
    command.env("RABBITMQ_LOGS", "-");
    // The script becomes the node instead of watching it: a signal to the process reaches the node.
    command.env("RUNNING_UNDER_SYSTEMD", "true").env_remove("NOTIFY_SOCKET");
    command.env("RABBITMQ_SERVER_ERL_ARGS", MACHINE).env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", KEPT_IN);
    Ok(command)
}

/// Few threads, which sleep when there is nothing to do: the tests need the machine, too.
const MACHINE: &str = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none +stbt u +P 262144 +t 5000000 +zdbbl 128000";
/// It talks to its fellows on this machine alone, and starts no name server that would outlive it.
const KEPT_IN: &str = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false";

/// Nodes that know each other join at their first start, one after the other. A node that is gone for a few seconds is down.
fn configuration(all: &[u16]) -> String {
    let mut lines = String::from("log.console = true\nlog.console.level = info\n");
    if all.len() > 1 {
        lines += "cluster_formation.peer_discovery_backend = classic_config\nnet_ticktime = 5\n";
        for (index, port) in all.iter().enumerate() {
            lines += &format!("cluster_formation.classic_config.nodes.{} = {}\n", index + 1, name(*port));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn each_node_has_ports_and_a_folder_of_its_own_and_one_name_server_serves_all() {
        let home = tempfile::tempdir().unwrap();
        let programs = Programs::within("/nowhere".into());
        let all = commands(&programs, home.path(), &[1, 2, 3, 11, 12, 13, 99], 3).unwrap();
        assert_eq!(all.len(), 4);
        assert!(Path::new(all[0].get_program()).ends_with("epmd") && all[0].get_args().any(|word| word == "99"));
        for (command, (port, fellow)) in all[1..].iter().zip([(1, 11), (2, 12), (3, 13)]) {
            let variable = |wanted: &str| {
                let (_, value) = command.get_envs().find(|(name, _)| *name == wanted).unwrap();
                value.unwrap().to_str().unwrap().to_owned()
            };
            assert_eq!(variable("RABBITMQ_NODE_PORT"), port.to_string());
            assert_eq!(variable("RABBITMQ_DIST_PORT"), fellow.to_string());
            assert_eq!(variable("ERL_EPMD_PORT"), "99");
            assert!(Path::new(&variable("RABBITMQ_MNESIA_BASE")).starts_with(home.path().join(port.to_string())));
        }
    }

    #[test]
    fn the_cookie_is_the_owners_alone_and_another_each_time() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let written = [&one, &other].map(|home| {
            write_cookie(home.path()).unwrap();
            let path = home.path().join(".erlang.cookie");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
            fs::read_to_string(path).unwrap()
        });
        assert_ne!(written[0], written[1]);
    }

    #[test]
    fn only_nodes_of_a_cluster_look_for_fellows() {
        assert!(!configuration(&[1]).contains("classic_config"));
        let three = configuration(&[1, 2, 3]);
        assert!(three.contains("classic_config.nodes.3 = queue-3@localhost\n"), "{three}");
    }
}
