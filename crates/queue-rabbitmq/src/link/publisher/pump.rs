//! The task that writes: it has the channel, and what is under way on it.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use lapin::{Channel, options::ConfirmSelectOptions};
use queue_core::Result;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    super::{Connection, State},
    flights::{Flight, Flights},
    ledger::{Call, Seat},
};

/// A channel that could not be opened is tried again after this.
const REOPEN: Duration = Duration::from_millis(250);
/// Where messages are under way and so long none of them is confirmed, the connection is given up: what it owes would keep the window
/// full for ever. Longer than anybody waits for a confirm.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// How long another channel waits for what is under way on a refused one: meanwhile nothing is written.
pub(super) const REFUSED: Duration = Duration::from_secs(10);
/// How long a close waits for confirms.
pub(super) const DRAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pump {
    states: watch::Receiver<State>,
    inbox: mpsc::Receiver<Call>,
    closing: watch::Receiver<bool>,
    channel: Option<Open>,
    loading: VecDeque<Call>,
    pub(super) flights: Flights,
    reopen_at: Option<Instant>,
    /// Since when the broker refuses on the present channel: it gets another once all that is under way has ended.
    pub(super) refused: Option<Instant>,
}

struct Open {
    channel: Arc<Channel>,
    connection: Arc<Connection>,
    blocked: watch::Receiver<Option<Arc<str>>>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Open {
    fn is_usable(&self) -> bool {
        self.connection.is_up() && self.channel.status().connected()
    }

    fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }
}

impl Pump {
    pub(super) fn new(
        states: watch::Receiver<State>,
        inbox: mpsc::Receiver<Call>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            states,
            inbox,
            closing,
            channel: None,
            loading: VecDeque::new(),
            flights: Flights::new(),
            reopen_at: None,
            refused: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.load().await;
            let Self { inbox, closing, states, flights, channel, loading, reopen_at, refused } = &mut self;
            let (flying, silent_at) = (!flights.is_empty(), flights.heard() + SILENCE);
            let renewed_at = refused.map(|since| since + REFUSED);
            let waits = !loading.is_empty();
            let blocked = channel.as_mut().filter(|_| waits).map(|open| &mut open.blocked);
            tokio::select! {
                landed = flights.next(), if flying => self.land(landed),
                call = inbox.recv(), if loading.len() < 2 => match call {
                    Some(call) => loading.push_back(call),
                    None => break,
                },
                () = told(closing) => break,
                // Only while something waits for it: a connection, an end of the blockade, another try.
                changed = states.changed(), if waits => {
                    if changed.is_err() || matches!(*states.borrow_and_update(), State::Closed) {
                        break;
                    }
                }
                () = unblocked(blocked), if waits => {}
                () = sleep_until(silent_at), if flying => self.give_up(),
                // It is renewed before anything else.
                () = sleep_until(renewed_at.unwrap_or_else(Instant::now)), if renewed_at.is_some() && flying => {}
                () = sleep_until(reopen_at.unwrap_or_else(Instant::now)), if waits && reopen_at.is_some() => {
                    *reopen_at = None;
                }
            }
        }
        self.drain().await;
    }

    fn land(&mut self, landed: Option<Flight>) {
        if landed.is_some_and(|first| self.flights.land(first)) {
            self.refused.get_or_insert_with(Instant::now);
        }
    }

    /// Nothing has been confirmed for long. A broker that blocks publishers says so, and may.
    fn give_up(&mut self) {
        self.flights.listen();
        let open = self.channel.take_if(|open| !open.is_blocked());
        if self.channel.is_some() {
            return;
        }
        if let Some(open) = open {
            tracing::warn!(incarnation = open.connection.incarnation(), "RabbitMQ confirms nothing: connecting again");
            open.connection.cut();
        }
        self.flights.let_go();
    }

    /// Hands over what the window and the broker allow.
    async fn load(&mut self) {
        if self.refused.is_some_and(|since| !self.renew(since)) {
            return;
        }
        while self.flights.has_room() {
            let Some(call) = self.loading.front_mut() else {
                // What has come in meanwhile, without going round.
                match self.inbox.try_recv() {
                    Ok(call) => self.loading.push_back(call),
                    Err(_) => return,
                }
                continue;
            };
            let Some(letter) = call.letters.pop_front() else {
                self.loading.pop_front();
                continue;
            };
            let index = call.next;
            if !call.ledger.waits(index) {
                // Whoever gave up while the broker is away is in nobody's way.
                call.next += 1;
                continue;
            }
            match self.channel.as_ref().filter(|open| open.is_usable()) {
                Some(open) if !open.is_blocked() => {
                    call.next += 1;
                    if call.ledger.write(index) {
                        let seat = Seat { ledger: call.ledger.clone(), index };
                        self.flights.launch(Arc::clone(&open.channel), letter, seat);
                    }
                }
                Some(_) => {
                    call.letters.push_front(letter);
                    return;
                }
                None => {
                    call.letters.push_front(letter);
                    if !self.open().await {
                        return;
                    }
                }
            }
        }
    }

    /// A queue that lost its leader before the channel's first message to it refuses all that this channel brings, until the lost
    /// node is back: to RabbitMQ 3.10 the leader is whoever it was then. Another channel asks anew. False while something is under
    /// way, for what is returned is told apart on one channel only; of what is not confirmed in time, by a queue without its majority,
    /// nothing is known then.
    fn renew(&mut self, since: Instant) -> bool {
        if !self.flights.is_empty() && since.elapsed() < REFUSED {
            return false;
        }
        self.flights.let_go();
        self.refused = None;
        self.channel = None;
        // A broker that refuses for another reason is not asked all the time.
        self.reopen_at = Some(Instant::now() + REOPEN);
        true
    }

    /// Opens a channel on the present connection. False where there is none, or it failed: then it is tried again later.
    async fn open(&mut self) -> bool {
        self.channel = None;
        self.flights.change_channel();
        if self.reopen_at.is_some() {
            return false;
        }
        let State::Up(connection) = self.states.borrow_and_update().clone() else { return false };
        if !connection.is_up() {
            return false;
        }
        match open_channel(&connection).await {
            Ok(channel) => {
                let blocked = connection.blocked();
                self.channel = Some(Open { channel: Arc::new(channel), connection, blocked });
                true
            }
            Err(error) => {
                tracing::warn!(%error, "no channel to publish over");
                self.reopen_at = Some(Instant::now() + REOPEN);
                false
            }
        }
    }

    /// What is under way may be confirmed yet; what waits is not written any more.
    async fn drain(&mut self) {
        let until = Instant::now() + DRAIN;
        self.inbox.close();
        while let Ok(call) = self.inbox.try_recv() {
            self.loading.push_back(call);
        }
        if !matches!(*self.states.borrow(), State::Closed) {
            self.load().await;
        }
        while let Ok(Some(flight)) = timeout_at(until, self.flights.next()).await {
            self.land(Some(flight));
        }
    }
}

/// Until the publisher is closed.
async fn told(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

async fn unblocked(blocked: Option<&mut watch::Receiver<Option<Arc<str>>>>) {
    let changed = match blocked {
        Some(blocked) => blocked.changed().await.is_ok(),
        None => false,
    };
    // The connection has gone: its end is told elsewhere.
    if !changed {
        std::future::pending::<()>().await;
    }
}

async fn open_channel(connection: &Connection) -> Result<Channel> {
    let lane = connection.channel("publish").await?;
    lane.answer("publish", lane.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(lane.into_channel())
}
