//! The servers of a phase, and what is done to them.

use std::{collections::HashSet, io, path::Path, time::Duration};

use queue_core::config::defaults;

use crate::{
    claims::Claims,
    outage,
    server::Server,
    soak::{
        blow::{self, Strike},
        judge::Victim,
        load::LEASE,
        node::{Node, free_ports},
        now,
        scene::Scene,
    },
};

/// A broker, and the store beside it.
#[derive(Debug)]
pub(crate) struct World {
    broker: Server,
    store: Node,
    claims: Option<Claims>,
    /// The longest time in which none of the bare publishes may be accepted, where one that is short is promised.
    silence: Option<Duration>,
}

/// RabbitMQ 3.10 notes a new quorum queue on its disk a little later: one that is younger comes back unusable.
const QUEUES_ARE_NOTED: Duration = Duration::from_secs(3);
const NODES: usize = 3;
/// A node that boots has come so far that it reads its queues.
const HALF_BOOTED: Duration = Duration::from_secs(2);
const NODE_AWAY: Duration = Duration::from_secs(15);
const ALARM: Duration = Duration::from_secs(60);
/// Longer than any publish waits, those included that are owed to a settlement.
const ALARM_LEAST: Duration = Duration::from_secs(13);
/// Two of three nodes take publishes again so long after the third one's end.
const ELECTION: Duration = Duration::from_secs(8);
/// What the broker may use before it stops those who publish, as a share of the machine's memory: its default is 0.4.
const NO_MEMORY: &str = "0.0001";
const MEMORY: &str = "0.4";

impl World {
    async fn new(home: &Path, nodes: usize) -> io::Result<Self> {
        let mut store = Node::new(home, free_ports(1)?[0], &["--appendfsync", "always"])?;
        store.boot()?;
        store.up().await?;
        let broker = Server::try_start_nodes(nodes)?;
        let claims = Some(Claims::begin(&broker.url()).await?);
        Ok(Self { broker, store, claims, silence: (nodes > 1).then_some(ELECTION) })
    }
}

impl blow::World for World {
    fn url(&self) -> String {
        format!("{}?store=redis%3A%2F%2F127.0.0.1%3A{}%2F", self.broker.url(), self.store.port)
    }

    async fn heal(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<Vec<String>> {
        match self.claims.take() {
            Some(claims) => claims.check(self.silence).await,
            None => Ok(Vec::new()),
        }
    }
}

/// What is done again and again in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    KillWorker,
    RestartBroker,
    KillNode,
    CloseChannel,
    Alarm,
    KillStore,
    /// A worker, and then the broker.
    Both,
}

impl blow::Blow for Blow {
    type World = World;

    /// Since what was away is back, or since a worker was killed.
    fn limit(self) -> Duration {
        Duration::from_secs(5)
    }

    /// Without its store a worker stops a run when the lease that it knows of ends: here every run ends before.
    fn lease(self) -> Duration {
        if self == Self::KillStore { defaults::LEASE } else { LEASE }
    }

    async fn world(self, home: &Path) -> io::Result<World> {
        World::new(home, if self == Self::KillNode { NODES } else { 1 }).await
    }

    async fn strike(self, world: &mut World, scene: &mut Scene<'_>) -> io::Result<Strike> {
        if scene.number == 0 {
            scene.pass(QUEUES_ARE_NOTED).await?;
        }
        // The leases are in the store: where it stands, nobody runs what another holds, whatever the broker hands out.
        let (what, struck) = match self {
            Self::KillWorker => return blow::kill_worker(scene),
            Self::Both if scene.number == 0 => return blow::kill_worker(scene),
            // The first time it is killed again while it boots.
            Self::RestartBroker | Self::Both => (restart(&mut world.broker, scene).await?, Victim::Nothing),
            Self::KillNode => (lose_node(self, &mut world.broker, scene).await?, Victim::Nothing),
            Self::CloseChannel => (close_channel(&world.broker, scene).await?, Victim::Nothing),
            Self::Alarm => (alarm(world, scene).await?, Victim::Nothing),
            Self::KillStore => {
                let (what, over) = outage::strike(&mut world.store, scene).await?;
                return Ok(Strike { what, struck: Victim::Nothing, over, counts_from: over });
            }
        };
        let over = now();
        Ok(Strike { what, struck, over, counts_from: over })
    }
}

async fn restart(broker: &mut Server, scene: &mut Scene<'_>) -> io::Result<String> {
    broker.kill_node(0)?;
    broker.begin_node(0)?;
    let twice = scene.number == 0;
    if twice {
        scene.pass(HALF_BOOTED).await?;
        broker.kill_node(0)?;
        broker.begin_node(0)?;
    }
    broker.await_node(0)?;
    Ok(format!("kill -9 of the broker{}", if twice { ", and again while it booted" } else { "" }))
}

/// Two of three go on without the third.
async fn lose_node(blow: Blow, broker: &mut Server, scene: &mut Scene<'_>) -> io::Result<String> {
    use blow::Blow as _;
    let node = usize::try_from(scene.dice % NODES as u64).unwrap_or(0);
    let begun = now();
    broker.kill_node(node)?;
    for (worker, time) in scene.fleet.recovery(begun, now(), Duration::from_secs(30)).await? {
        if time.is_none_or(|time| time > blow.limit()) {
            scene.complain(format!("{worker} consumed again {time:?} after a node was killed"));
        }
    }
    scene.pass(scene.scaled(NODE_AWAY, blow.limit())).await?;
    broker.begin_node(node)?;
    broker.await_node(node)?;
    let away = Duration::from_nanos(now() - begun).as_secs();
    Ok(format!("kill -9 of node {node} of {NODES}, back after {away} s"))
}

/// The processes of the channels, and how many consumers each has, one a line.
const CHANNELS: &str = "[io:format(\"~s ~b~n\", [rabbit_misc:pid_to_string(P), N]) || \
    [{pid, P}, {consumer_count, N}] <- rabbit_channel:info_all([pid, consumer_count])], ok.";
/// A band that is given another prefetch has no consumer for a moment. So many looks, about a second and a half each, see one again.
const LOOKS: usize = 4;

/// All channels, and those of them that consume.
fn channels(broker: &Server) -> io::Result<(HashSet<String>, Vec<String>)> {
    let said = broker.try_ctl(&["eval", CHANNELS])?;
    let lines: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    let consuming = lines.iter().filter(|(_, consumers)| *consumers != "0").map(|(pid, _)| (*pid).to_owned()).collect();
    Ok((lines.into_iter().map(|(pid, _)| pid.to_owned()).collect(), consuming))
}

/// The broker is told that a client acknowledged what it never had, as a faulty client would: that is a failed precondition, and
/// ends the channel.
async fn close_channel(broker: &Server, scene: &mut Scene<'_>) -> io::Result<String> {
    let (_, before) = channels(broker)?;
    let chosen = usize::try_from(scene.dice).unwrap_or(0).checked_rem(before.len());
    let victim = chosen.map(|chosen| before[chosen].clone()).ok_or_else(|| io::Error::other("nobody consumes"))?;
    broker.try_ctl(&[
        "eval",
        &format!("rabbit_channel:do(rabbit_misc:string_to_pid(\"{victim}\"), {{'basic.ack', 999999999, false}})."),
    ])?;
    scene.pass(Duration::from_secs(1)).await?;
    let (mut live, mut after) = channels(broker)?;
    for _ in 1..LOOKS {
        if after.len() >= before.len() {
            break;
        }
        (live, after) = channels(broker)?;
    }
    if live.contains(&victim) {
        scene.complain("a channel outlived a failed precondition");
    }
    let gone = before.iter().filter(|channel| **channel != victim && !live.contains(*channel)).count();
    if gone > 0 {
        scene.complain(format!("{gone} healthy channels ended with one that failed a precondition"));
    }
    if after.len() < before.len() {
        scene.complain(format!("{} channels consume, there were {}", after.len(), before.len()));
    }
    Ok(format!("one of {} channels closed by a failed precondition", before.len()))
}

/// The broker takes nothing from those who publish.
async fn alarm(world: &World, scene: &mut Scene<'_>) -> io::Result<String> {
    let refused = || world.claims.as_ref().map_or(0, Claims::refused);
    let before = refused();
    world.broker.try_ctl(&["set_vm_memory_high_watermark", NO_MEMORY])?;
    let length = scene.scaled(ALARM, ALARM_LEAST);
    scene.pass(length).await?;
    let told = refused() - before;
    world.broker.try_ctl(&["set_vm_memory_high_watermark", MEMORY])?;
    if told == 0 && !crate::soak::stop::asked() {
        scene.complain("no publish was refused as unwritten during the alarm");
    }
    Ok(format!("memory alarm for {:.0} s, {told} bare publishes told that nothing was written", length.as_secs_f64()))
}
