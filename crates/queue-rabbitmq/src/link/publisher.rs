//! Publishes with confirms: one task, one channel, many messages under way.
//!
//! One task alone, because lapin counts a message and queues its frames in two steps: two tasks on one channel could have them
//! the other way round, and a confirm would be given to the wrong message.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use queue_core::{Error, ErrorCode, Result};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Connection, Link, State};
use crate::{SCHEME, fault};

/// Messages under way, and their bytes, at most: what lapin has queued cannot be taken back.
const WINDOW: usize = 4_096;
const WINDOW_BYTES: usize = 32 << 20;
/// Calls that wait for their turn.
const CALLS: usize = 1_024;
/// A channel that could not be opened is tried again after this.
const REOPEN: Duration = Duration::from_millis(250);
/// Where messages are under way and so long none of them is confirmed, the connection is given up: what it owes would keep the window
/// full for ever. Longer than anybody waits for a confirm.
const SILENCE: Duration = Duration::from_secs(60);
/// How long another channel waits for what is under way on a refused one: meanwhile nothing is written.
const REFUSED: Duration = Duration::from_secs(10);
/// How long a close waits for confirms.
const DRAIN: Duration = Duration::from_secs(5);

/// A message to be published.
#[derive(Debug)]
pub(crate) struct Letter {
    /// Empty for the default exchange, which knows each queue by its name.
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// What became of a letter.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The broker has it.
    Confirmed,
    /// It came back: no queue is there for it.
    Returned,
    /// Nothing was written.
    NotWritten(Error),
    /// It was written, and the broker does not answer for it. A queue refuses so what comes while it is being made, or looks for its leader.
    Refused(Error),
    /// It was written, and nothing is known.
    Unknown(Error),
}

impl Sent {
    /// How long to wait before each new try of what was refused.
    pub(crate) const PAUSES: [Duration; 4] = [
        Duration::from_millis(50),
        Duration::from_millis(200),
        Duration::from_millis(500),
        Duration::from_millis(1_000),
    ];
}

/// Shared by who publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    calls: Mutex<Option<mpsc::Sender<Call>>>,
    closing: watch::Sender<bool>,
    pump: Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        let (calls, inbox) = mpsc::channel(CALLS);
        let (closing, closed) = watch::channel(false);
        let pump = Pump {
            states: link.watch(),
            inbox,
            closing: closed,
            channel: None,
            loading: VecDeque::new(),
            flying: FuturesUnordered::new(),
            flying_bytes: 0,
            landed: Vec::new(),
            returned: HashMap::new(),
            reopen_at: None,
            refused: None,
            heard: Instant::now(),
        };
        Self { calls: Mutex::new(Some(calls)), closing, pump: Mutex::new(Some(tokio::spawn(pump.run()))) }
    }

    /// Publishes, and awaits the confirms: one outcome per letter, in order, by the deadline at the latest. The letters of one
    /// call reach the broker in order, and calls do as they came.
    pub(crate) async fn send(&self, letters: Vec<Letter>, until: Instant) -> Vec<Sent> {
        let ledger = Arc::new(Ledger::new(letters.len()));
        let calls = lock(&self.calls).clone();
        let Some(calls) = calls else {
            return letters.iter().map(|_| Sent::NotWritten(fault::closed("publish"))).collect();
        };
        if letters.is_empty() {
            return Vec::new();
        }
        let call = Call { letters: letters.into(), next: 0, ledger: ledger.clone() };
        // A drop of the future cancels what was not yet written.
        let _cancel = CancelOnDrop(&ledger);
        match timeout_at(until, calls.send(call)).await {
            Ok(Ok(())) => {
                let _ = timeout_at(until, ledger.settled()).await;
            }
            Ok(Err(_)) => return ledger.close(&fault::closed("publish")),
            Err(_) => {}
        }
        ledger.close(&blocked())
    }

    /// Takes nothing more, waits a little for what is under way, and ends.
    pub(crate) async fn close(&self) {
        lock(&self.calls).take();
        // Who waits in `send` has the inbox open, and a broker that is away lets nobody go.
        self.closing.send_replace(true);
        let pump = lock(&self.pump).take();
        if let Some(pump) = pump {
            let _ = pump.await;
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(pump) = lock(&self.pump).take() {
            pump.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn blocked() -> Error {
    let message =
        "RabbitMQ took no message before the deadline: it is away, or blocks publishers for want of memory or disk";
    Error::new(ErrorCode::Unavailable, message).at("publish").by(SCHEME)
}

struct Call {
    letters: VecDeque<Letter>,
    /// The index of the first of them.
    next: usize,
    ledger: Arc<Ledger>,
}

/// What the pump lets go of is not written, and its caller need not wait.
impl Drop for Call {
    fn drop(&mut self) {
        for index in self.next..self.next + self.letters.len() {
            self.ledger.settle(index, Sent::NotWritten(fault::closed("publish")));
        }
    }
}

/// What is known of the letters of a call. The pump and the caller agree over it whether a letter was written.
#[derive(Debug)]
struct Ledger {
    slots: Mutex<(Vec<Slot>, usize)>,
    done: Notify,
}

#[derive(Debug)]
enum Slot {
    Waiting,
    /// lapin has it: it may be on the wire any time.
    Written,
    /// The caller has gone; it must not be written any more.
    Cancelled,
    Done(Sent),
}

impl Ledger {
    fn new(count: usize) -> Self {
        let slots = std::iter::repeat_with(|| Slot::Waiting).take(count).collect();
        Self { slots: Mutex::new((slots, count)), done: Notify::new() }
    }

    fn waits(&self, index: usize) -> bool {
        matches!(lock(&self.slots).0.get(index), Some(Slot::Waiting))
    }

    /// Whether the letter may still be written; from now on it is.
    fn write(&self, index: usize) -> bool {
        let mut slots = lock(&self.slots);
        let Some(slot @ Slot::Waiting) = slots.0.get_mut(index) else { return false };
        *slot = Slot::Written;
        true
    }

    fn settle(&self, index: usize, sent: Sent) {
        let mut slots = lock(&self.slots);
        let Some(slot @ (Slot::Waiting | Slot::Written)) = slots.0.get_mut(index) else { return };
        *slot = Slot::Done(sent);
        slots.1 -= 1;
        if slots.1 == 0 {
            drop(slots);
            self.done.notify_one();
        }
    }

    async fn settled(&self) {
        while lock(&self.slots).1 > 0 {
            self.done.notified().await;
        }
    }

    /// The outcomes as they stand. What was not written never will be.
    fn close(&self, unwritten: &Error) -> Vec<Sent> {
        let mut slots = lock(&self.slots);
        let close = |slot: &mut Slot| match std::mem::replace(slot, Slot::Cancelled) {
            Slot::Done(sent) => sent,
            Slot::Written => Sent::Unknown(fault::unanswered("publish")),
            Slot::Waiting | Slot::Cancelled => Sent::NotWritten(unwritten.clone()),
        };
        slots.0.iter_mut().map(close).collect()
    }
}

struct CancelOnDrop<'a>(&'a Ledger);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        for slot in &mut lock(&self.0.slots).0 {
            if matches!(slot, Slot::Waiting) {
                *slot = Slot::Cancelled;
            }
        }
    }
}

/// Whose message it is. A message that is let go of before its end is known leaves nobody waiting.
struct Seat {
    ledger: Arc<Ledger>,
    index: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Of one that has been told already nothing else is said.
        self.ledger.settle(self.index, Sent::Unknown(fault::unanswered("publish")));
    }
}

/// A message under way.
struct Flight {
    seat: Seat,
    bytes: usize,
    address: Address,
    end: std::result::Result<Confirmed, Box<(lapin::Error, bool)>>,
}

/// What the broker said: whether it took the message, and a message that came back, which may be another one.
struct Confirmed {
    acknowledged: bool,
    returned: Option<Box<Address>>,
}

/// By which a returned message is known again. Two copies of one job under way to one queue are as good as each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Address {
    exchange: ShortString,
    routing_key: ShortString,
    id: Option<ShortString>,
}

struct Pump {
    states: watch::Receiver<State>,
    inbox: mpsc::Receiver<Call>,
    closing: watch::Receiver<bool>,
    channel: Option<Open>,
    loading: VecDeque<Call>,
    flying: FuturesUnordered<BoxFuture<'static, Flight>>,
    flying_bytes: usize,
    /// Empty between two landings.
    landed: Vec<Flight>,
    /// Messages that came back, and whose own confirm has not been seen.
    returned: HashMap<Address, usize>,
    reopen_at: Option<Instant>,
    /// Since when the broker refuses on the present channel: it gets another once all that is under way has ended.
    refused: Option<Instant>,
    /// When a confirm came last, or the first message after a pause was written.
    heard: Instant,
}

struct Open {
    channel: Arc<Channel>,
    connection: Arc<Connection>,
    blocked: watch::Receiver<Option<Arc<str>>>,
}

impl Open {
    fn is_usable(&self) -> bool {
        self.connection.is_up() && self.channel.status().connected()
    }

    fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("flying", &self.flying.len()).finish_non_exhaustive()
    }
}

impl Pump {
    async fn run(mut self) {
        loop {
            self.load().await;
            let Self { inbox, closing, states, flying, channel, loading, reopen_at, refused, heard, .. } = &mut self;
            let silent_at = *heard + SILENCE;
            let renewed_at = refused.map(|since| since + REFUSED);
            let waits = !loading.is_empty();
            let blocked = channel.as_mut().filter(|_| waits).map(|open| &mut open.blocked);
            tokio::select! {
                landed = flying.next(), if !flying.is_empty() => {
                    if let Some(first) = landed {
                        self.land(first);
                    }
                }
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
                () = sleep_until(silent_at), if !flying.is_empty() => self.give_up(),
                // It is renewed before anything else.
                () = sleep_until(renewed_at.unwrap_or_else(Instant::now)), if renewed_at.is_some() && !flying.is_empty() => {}
                () = sleep_until(reopen_at.unwrap_or_else(Instant::now)), if waits && reopen_at.is_some() => {
                    *reopen_at = None;
                }
            }
        }
        self.drain().await;
    }

    /// Nothing has been confirmed for long. A broker that blocks publishers says so, and may.
    fn give_up(&mut self) {
        self.heard = Instant::now();
        let open = self.channel.take_if(|open| !open.is_blocked());
        if self.channel.is_some() {
            return;
        }
        if let Some(open) = open {
            tracing::warn!(incarnation = open.connection.incarnation(), "RabbitMQ confirms nothing: connecting again");
            open.connection.cut();
        }
        self.let_go();
    }

    /// Of what is under way nothing will be known.
    fn let_go(&mut self) {
        self.flying.clear();
        self.flying_bytes = 0;
    }

    /// Hands over what the window and the broker allow.
    async fn load(&mut self) {
        if self.refused.is_some_and(|since| !self.renew(since)) {
            return;
        }
        while self.flying.len() < WINDOW && (self.flying.is_empty() || self.flying_bytes < WINDOW_BYTES) {
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
                        if self.flying.is_empty() {
                            self.heard = Instant::now();
                        }
                        let seat = Seat { ledger: call.ledger.clone(), index };
                        let flight = fly(Arc::clone(&open.channel), letter, seat);
                        self.flying_bytes += flight.0;
                        self.flying.push(flight.1);
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
        if !self.flying.is_empty() && since.elapsed() < REFUSED {
            return false;
        }
        self.let_go();
        self.refused = None;
        self.channel = None;
        // A broker that refuses for another reason is not asked all the time.
        self.reopen_at = Some(Instant::now() + REOPEN);
        true
    }

    /// Opens a channel on the present connection. False where there is none, or it failed: then it is tried again later.
    async fn open(&mut self) -> bool {
        self.channel = None;
        // Another channel's confirms do not tell of the last one's messages.
        self.returned.clear();
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

    /// Tells the callers what became of this flight, and of all that ended with it.
    fn land(&mut self, first: Flight) {
        self.heard = Instant::now();
        // Kept, for a thousand may land at once, again and again.
        let mut landed = std::mem::take(&mut self.landed);
        landed.push(first);
        self.gather(&mut landed);
        // lapin hands a returned message to whichever confirm it resolves next, not to the message's own. Those that one
        // frame of the broker confirmed are resolved under one lock; once we had that lock, all of them are here.
        if let Some(open) = &self.channel {
            let _ = open.channel.wait_for_confirms().now_or_never();
            self.gather(&mut landed);
        }
        for flight in &mut landed {
            if let Ok(Confirmed { returned, .. }) = &mut flight.end
                && let Some(address) = returned.take()
            {
                *self.returned.entry(*address).or_default() += 1;
            }
        }
        self.settle(&mut landed);
        self.landed = landed;
    }

    fn gather(&mut self, landed: &mut Vec<Flight>) {
        while let Some(Some(flight)) = self.flying.next().now_or_never() {
            landed.push(flight);
        }
    }

    fn settle(&mut self, landed: &mut Vec<Flight>) {
        for flight in landed.drain(..) {
            self.flying_bytes -= flight.bytes;
            let sent = match flight.end {
                Ok(_) if self.has_come_back(&flight.address) => Sent::Returned,
                Ok(Confirmed { acknowledged: true, .. }) => Sent::Confirmed,
                Ok(_) => {
                    self.refused.get_or_insert_with(Instant::now);
                    Sent::Refused(refused())
                }
                Err(failed) => match *failed {
                    (error, false) => Sent::NotWritten(fault::of(&error, "publish")),
                    (error, true) => ended(&error, &flight.address),
                },
            };
            flight.seat.ledger.settle(flight.seat.index, sent);
        }
    }

    fn has_come_back(&mut self, address: &Address) -> bool {
        let Some(count) = self.returned.get_mut(address) else { return false };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(address);
        }
        true
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
        while let Ok(Some(flight)) = timeout_at(until, self.flying.next()).await {
            self.land(flight);
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

/// Frames are queued when this is first polled, in the order of the flights.
fn fly(channel: Arc<Channel>, letter: Letter, seat: Seat) -> (usize, BoxFuture<'static, Flight>) {
    let Letter { exchange, routing_key, properties, body } = letter;
    let bytes = body.len();
    let id = properties.message_id().clone();
    let address = Address { exchange: exchange.clone(), routing_key: routing_key.clone(), id };
    let flight = async move {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let end = match channel.basic_publish(exchange, routing_key, options, &body, properties).await {
            Ok(confirm) => confirm.await.map(confirmed).map_err(|error| Box::new((error, true))),
            // The channel had ended before anything was queued.
            Err(error) => {
                let written = !matches!(error.kind(), ErrorKind::InvalidChannelState(..));
                Err(Box::new((error, written)))
            }
        };
        Flight { seat, bytes, address, end }
    };
    (bytes, flight.boxed())
}

fn confirmed(confirmation: Confirmation) -> Confirmed {
    let (acknowledged, returned) = match confirmation {
        Confirmation::Ack(returned) => (true, returned),
        Confirmation::Nack(returned) => (false, returned),
        Confirmation::NotRequested => (false, None),
    };
    Confirmed { acknowledged, returned: returned.map(|message| Box::new(address_of(message))) }
}

fn address_of(message: BasicReturnMessage) -> Address {
    let delivery = message.delivery;
    let id = delivery.properties.message_id().clone();
    Address { exchange: delivery.exchange, routing_key: delivery.routing_key, id }
}

fn refused() -> Error {
    Error::new(ErrorCode::Unavailable, "RabbitMQ did not take responsibility for the message").at("publish").by(SCHEME)
}

/// The channel or the connection ended under a message. Where the broker says which exchange it ended it for, the messages to
/// that exchange were refused; of others nothing is known.
fn ended(error: &lapin::Error, address: &Address) -> Sent {
    let exchange = if address.exchange.as_str().is_empty() { "amq.default" } else { address.exchange.as_str() };
    let fault = fault::of(error, "publish");
    let refused = matches!(fault::reply_code(error), Some(fault::reply::ACCESS_REFUSED | fault::reply::NOT_FOUND));
    if refused && fault::reply_text(error).contains(&format!("exchange '{exchange}'")) {
        return Sent::NotWritten(fault);
    }
    Sent::Unknown(
        Error::new(ErrorCode::Timeout, "the connection ended before RabbitMQ confirmed the message")
            .at("publish")
            .by(SCHEME)
            .caused_by(fault),
    )
}

#[cfg(test)]
mod tests;
