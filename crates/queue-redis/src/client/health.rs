//! Looking at the servers now and then, so that one that says nothing any more is found out before somebody needs it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Address, ClientEvent, FailoverMode, Inner, Role, Servers, start_up};

/// Where another server may have taken over, whoever waits in one that says nothing should not wait for long.
const HASTE: Duration = Duration::from_secs(2);

pub(super) async fn watch(inner: Arc<Inner>) {
    let options = &inner.topology.options;
    let often = if inner.topology.has_others() { HASTE.min(options.health_interval) } else { options.health_interval };
    let mut looked = Instant::now();
    loop {
        keep(&inner).await;
        tokio::time::sleep(often).await;
        match (&options.servers, options.failover) {
            (Servers::Sentinel { .. }, _) => ask_sentinels(&inner).await,
            (Servers::Nodes(nodes), FailoverMode::Manual) => ask_nodes(&inner, nodes).await,
            _ => {}
        }
        let is_due = looked.elapsed() >= options.health_interval;
        // Sentinels look after their servers themselves.
        if is_due || matches!(options.servers, Servers::Cluster(_) | Servers::Nodes(_)) {
            looked = Instant::now();
            look(&inner).await;
        }
    }
}

/// Has connections ready. A server that was lost is looked for, and what took over is looked at, before somebody needs it.
async fn keep(inner: &Inner) {
    let topology = &inner.topology;
    if let Ok(primaries) = topology.primaries().await {
        for node in primaries.iter().filter(|node| !node.is_checked()) {
            let checking = start_up::check(node, false);
            if let Ok(Ok(checked)) = tokio::time::timeout(topology.options.connect_timeout, checking).await {
                topology.found(node, checked);
            }
        }
        topology.keep_only(&primaries);
    }
    for node in topology.nodes() {
        node.keep_pool(&topology.options.pool).await;
    }
}

async fn look(inner: &Inner) {
    for node in inner.topology.nodes() {
        if node.ping(inner.topology.options.connect_timeout).await.is_err() {
            inner.topology.lost(&node);
        }
    }
}

/// Sentinels are asked, for they cost Redis nothing: a primary that hangs breaks no connection.
async fn ask_sentinels(inner: &Inner) {
    let topology = &inner.topology;
    let Ok(primary) = topology.ask_sentinels().await else { return };
    if topology.options.failover == FailoverMode::Manual {
        // Whether the old one is dead or not: it may come back as a replica, and as nothing else.
        if topology.pinned().is_some_and(|here| here != primary) {
            topology.told.tell(ClientEvent::SwitchNeeded { to: primary });
        }
    } else if let Some(current) = topology.current().filter(|current| current.address != primary) {
        topology.lost(&current);
    }
}

/// Where the one that a person wants will not do, another may say that it is the primary.
async fn ask_nodes(inner: &Inner, nodes: &[(Address, Role)]) {
    let topology = &inner.topology;
    if topology.node_for(None).await.is_ok() {
        return;
    }
    if let Ok((node, _)) = topology.leader_among(nodes).await
        && topology.pinned().is_some_and(|here| here != node.address)
    {
        topology.told.tell(ClientEvent::SwitchNeeded { to: node.address.clone() });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::client::{
        Address, ClientOptions,
        node::{Node, Opener},
    };

    /// Says `OK` to whatever it is asked on connections from `quiet` on, and nothing on those before.
    async fn answer(listener: TcpListener, quiet: Arc<AtomicUsize>) {
        let mut connections = tokio::task::JoinSet::new();
        for number in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let quiet = Arc::clone(&quiet);
            connections.spawn(async move {
                let mut buffer = [0; 4_096];
                let mut owed = 0;
                while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                    owed += buffer[..read].iter().filter(|byte| **byte == b'*').count();
                    if number >= quiet.load(Ordering::Relaxed) {
                        socket.write_all("+OK\r\n".repeat(std::mem::take(&mut owed)).as_bytes()).await.unwrap();
                    }
                }
            });
        }
    }

    #[tokio::test]
    async fn a_long_answer_on_the_shared_connection_is_no_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
        let quiet = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(answer(listener, Arc::clone(&quiet)));
        let mut options = ClientOptions::new(Servers::One(address.clone()));
        options.answer_timeout = Duration::from_millis(1_500);
        let client = redis::Client::open(format!("redis://{address}/")).unwrap();
        let node = || {
            let opener = Opener::new(client.clone(), false, &options);
            Node::new(address.clone(), opener, &options).unwrap()
        };
        let other = node();
        let node = node();
        let within = Duration::from_millis(600);
        node.ping(within).await.unwrap();
        quiet.store(1, Ordering::Relaxed);
        node.ping(within).await.expect("it answers whoever asks on another connection");
        let begun = Instant::now();
        while node.ping(within).await.is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(4), "a connection that is dead for good is kept");
        }
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
        other.ping(within).await.unwrap();
        quiet.store(usize::MAX, Ordering::Relaxed);
        assert!(other.ping(within).await.is_err(), "it says nothing to anybody");
        server.abort();
    }

    #[tokio::test]
    async fn a_connection_that_answered_in_between_is_silent_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
        let quiet = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(answer(listener, Arc::clone(&quiet)));
        let mut options = ClientOptions::new(Servers::One(address.clone()));
        options.answer_timeout = Duration::from_millis(800);
        let client = redis::Client::open(format!("redis://{address}/")).unwrap();
        let node = Node::new(address.clone(), Opener::new(client, false, &options), &options).unwrap();
        let within = Duration::from_millis(400);
        node.ping(within).await.unwrap();
        quiet.store(1, Ordering::Relaxed);
        node.ping(within).await.expect("it has only begun to be silent");
        quiet.store(0, Ordering::Relaxed);
        node.ping(within).await.unwrap();
        tokio::time::sleep(options.answer_timeout).await;
        quiet.store(1, Ordering::Relaxed);
        node.ping(within).await.expect("it answered since it was silent first");
        server.abort();
    }
}
