//! What was written and is not yet confirmed, and what the broker says of it.

use std::{collections::HashMap, fmt, sync::Arc};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    Channel, Confirmation, ErrorKind, message::BasicReturnMessage, options::BasicPublishOptions, types::ShortString,
};
use queue_core::{Error, ErrorCode};
use tokio::time::Instant;

use super::{
    Letter, Sent,
    ledger::Seat,
    lost::{Lost, Order, verdicts},
};
use crate::{SCHEME, fault};

/// Messages under way, and their bytes, at most: what lapin has queued cannot be taken back.
const WINDOW: usize = 4_096;
const WINDOW_BYTES: usize = 32 << 20;

/// A message under way, at its end.
pub(super) struct Flight {
    seat: Seat,
    bytes: usize,
    address: Address,
    order: Order,
    channel: Arc<Channel>,
    end: Result<Confirmed, Box<(lapin::Error, bool)>>,
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

/// All messages under way.
pub(super) struct Flights {
    flying: FuturesUnordered<BoxFuture<'static, Flight>>,
    bytes: usize,
    /// The last one's.
    order: Order,
    /// Empty between two landings.
    landed: Vec<Flight>,
    /// Messages that came back, and whose own confirm has not been seen.
    returned: HashMap<Address, usize>,
    /// When a confirm came last, or the first message after a pause was written.
    heard: Instant,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("flying", &self.flying.len()).finish_non_exhaustive()
    }
}

impl Flights {
    pub(super) fn new() -> Self {
        Self {
            flying: FuturesUnordered::new(),
            bytes: 0,
            order: Order { channel: 0, number: 0 },
            landed: Vec::new(),
            returned: HashMap::new(),
            heard: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    /// Whether one more may be written: one alone always may, however large it is.
    pub(super) fn has_room(&self) -> bool {
        self.flying.len() < WINDOW && (self.is_empty() || self.bytes < WINDOW_BYTES)
    }

    /// Since when nothing was confirmed.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Those that follow go over another channel, whose confirms do not tell of the last one's messages.
    pub(super) fn change_channel(&mut self) {
        self.order.channel += 1;
        self.returned.clear();
    }

    /// Hands a letter to lapin. Its frames are queued when it is first polled, in the order of the flights.
    pub(super) fn launch(&mut self, channel: Arc<Channel>, letter: Letter, seat: Seat) {
        if self.is_empty() {
            self.heard = Instant::now();
        }
        self.order.number += 1;
        self.bytes += letter.body.len();
        self.flying.push(fly(channel, letter, seat, self.order).boxed());
    }

    /// The next to end; none where nothing is under way.
    pub(super) async fn next(&mut self) -> Option<Flight> {
        self.flying.next().await
    }

    /// Waits for confirms as long again.
    pub(super) fn listen(&mut self) {
        self.heard = Instant::now();
    }

    /// Of what is under way nothing will be known.
    pub(super) fn let_go(&mut self) {
        self.flying.clear();
        self.bytes = 0;
    }

    /// Tells the callers what became of this flight, and of all that ended with it. Whether the broker refused any.
    pub(super) fn land(&mut self, first: Flight) -> bool {
        self.heard = Instant::now();
        // Kept, for a thousand may land at once, again and again.
        let mut landed = std::mem::take(&mut self.landed);
        landed.push(first);
        self.gather(&mut landed);
        for flight in &mut landed {
            if let Ok(Confirmed { returned, .. }) = &mut flight.end
                && let Some(address) = returned.take()
            {
                *self.returned.entry(*address).or_default() += 1;
            }
        }
        let refused = self.settle(&mut landed);
        self.landed = landed;
        refused
    }

    /// All that ended with those that are there.
    ///
    /// lapin hands a returned message to whichever confirm it resolves next, not to the message's own, and tells all that were under
    /// way of a channel's end, in any order. What one frame of the broker ends is resolved under one lock of the channel: once we had
    /// that lock, all of it is here.
    fn gather(&mut self, landed: &mut Vec<Flight>) {
        let mut waited: Option<u64> = None;
        let mut seen = 0;
        while let Some(flight) = landed.get(seen) {
            seen += 1;
            if waited == Some(flight.order.channel) {
                continue;
            }
            waited = Some(flight.order.channel);
            let _ = flight.channel.wait_for_confirms().now_or_never();
            // Twice: wakes that come while it looks make it stop before all were looked at.
            for _ in 0..2 {
                while let Some(Some(flight)) = self.flying.next().now_or_never() {
                    landed.push(flight);
                }
            }
        }
    }

    fn settle(&mut self, landed: &mut Vec<Flight>) -> bool {
        let (mut refused, mut lost) = (false, Vec::new());
        for flight in landed.drain(..) {
            self.bytes -= flight.bytes;
            let sent = match flight.end {
                Ok(_) if self.has_come_back(&flight.address) => Sent::Returned,
                Ok(Confirmed { acknowledged: true, .. }) => Sent::Confirmed,
                Ok(_) => {
                    refused = true;
                    Sent::Refused(refusal())
                }
                Err(failed) => match *failed {
                    (error, false) => Sent::NotWritten(fault::of(&error, "publish")),
                    (error, true) => {
                        let (seat, order, exchange) = (flight.seat, flight.order, flight.address.exchange);
                        lost.push(Lost { seat, order, exchange, error });
                        continue;
                    }
                },
            };
            flight.seat.tell(sent);
        }
        for (seat, sent) in verdicts(lost) {
            seat.tell(sent);
        }
        refused
    }

    fn has_come_back(&mut self, address: &Address) -> bool {
        let Some(count) = self.returned.get_mut(address) else { return false };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(address);
        }
        true
    }
}

async fn fly(channel: Arc<Channel>, letter: Letter, seat: Seat, order: Order) -> Flight {
    let Letter { exchange, routing_key, properties, body } = letter;
    let id = properties.message_id().clone();
    let address = Address { exchange: exchange.clone(), routing_key: routing_key.clone(), id };
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let end = match channel.basic_publish(exchange, routing_key, options, &body, properties).await {
        Ok(confirm) => confirm.await.map(confirmed).map_err(|error| Box::new((error, true))),
        // The channel had ended before anything was queued.
        Err(error) => {
            let written = !matches!(error.kind(), ErrorKind::InvalidChannelState(..));
            Err(Box::new((error, written)))
        }
    };
    Flight { seat, bytes: body.len(), address, order, channel, end }
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

fn refusal() -> Error {
    Error::new(ErrorCode::Unavailable, "RabbitMQ did not take responsibility for the message").at("publish").by(SCHEME)
}

#[cfg(test)]
impl Flights {
    /// One that nobody confirms.
    pub(super) fn lose(&mut self, seat: Seat) {
        let lost = async move {
            let _seat = seat;
            std::future::pending::<Flight>().await
        };
        self.flying.push(lost.boxed());
    }
}
