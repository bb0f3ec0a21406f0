//! The task of one band: its channel and subscription, and what comes over them. Another band's trouble is none of its own.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use lapin::{
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use queue_core::{Envelope, Error, ErrorCode, JobId, Result};
use tokio::time::Instant;

use super::{
    line::{Held, Stage},
    odd::{self, Odd},
    plan::SUBSCRIPTIONS,
    shelf::Beyond,
    station::Station,
};
use crate::{
    fault,
    link::Lane,
    wire::{self, Reading},
};

/// Deliveries that are taken in at once: others must have their turn.
const AT_ONCE: usize = 256;
/// How long a delivery waits here for somebody to fetch it, the first time.
const BUFFER_AGE: Duration = Duration::from_secs(10);
/// After a failure it is tried again this soon at first, and this late at last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A connection that is away for longer is told to who fetches.
const SOON: Duration = Duration::from_secs(1);
/// A channel without a subscription says nothing when it ends.
const LOOK: Duration = Duration::from_millis(500);
/// So often a band that has less than its part looks whether more is free.
const MORE: Duration = Duration::from_millis(50);

/// Tells channels apart within this process.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// Goes on until the consumer is dropped or its provider closed.
pub(super) async fn run(station: Arc<Station>, band: usize) {
    let mut pause = AGAIN.0;
    loop {
        let began = Instant::now();
        let mut error = match Open::new(&station, band).await {
            Ok(open) => open.serve().await,
            Err(error) => error,
        };
        if error.code() == ErrorCode::NotFound {
            error = restore(&station, band, error).await;
        }
        station.change(|shelf| {
            shelf.lose(band);
            shelf.trouble(band, error.clone());
        });
        station.has_tried(band);
        if error.code() == ErrorCode::Closed {
            return;
        }
        tracing::debug!(queue = %station.queue, band, %error, "a band's channel ended");
        // One that served for a while failed for a reason of its own.
        pause = if began.elapsed() > AGAIN.1 * 2 { AGAIN.0 } else { (pause * 2).min(AGAIN.1) };
        tokio::time::sleep(pause).await;
    }
}

/// A band's queue was removed, and the others stand: it is made again, and the band begins anew. Otherwise the queue was dropped, or
/// nobody here may say how it is to be.
async fn restore(station: &Station, band: usize, gone: Error) -> Error {
    match station.base.restore(&station.spec).await {
        Ok(true) => {
            tracing::warn!(queue = %station.queue, band, "a band's queue had been removed, and was made again");
            fault::away("fetch")
        }
        Ok(false) => gone,
        Err(error) => {
            tracing::warn!(queue = %station.queue, band, %error, "a band's queue was removed, and cannot be made again");
            gone
        }
    }
}

/// A band with a channel.
struct Open<'a> {
    station: &'a Station,
    band: usize,
    epoch: u64,
    channel: Arc<Lane>,
    subscriptions: Subscriptions,
    /// There were so many.
    numbered: u32,
}

impl<'a> Open<'a> {
    async fn new(station: &'a Station, band: usize) -> Result<Self> {
        let channel = Arc::new(channel(station).await?);
        let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
        station.change(|shelf| shelf.begin(band, epoch, Arc::clone(&channel)));
        Ok(Self { station, band, epoch, channel, subscriptions: Subscriptions::default(), numbered: 0 })
    }

    /// Until the channel ends, and why.
    async fn serve(mut self) -> Error {
        let mut steered = self.station.steer.subscribe();
        let mut chores = FuturesUnordered::new();
        loop {
            let turn = steered.borrow_and_update().turn;
            if let Err(error) = self.follow(&mut chores).await {
                return error;
            }
            self.station.has_followed(self.band, turn);
            let (is_on, stale, is_short) = self.station.look(|shelf| {
                let stale = shelf.stale_at(self.band, BUFFER_AGE);
                (shelf.is_on(self.band, self.epoch), stale, shelf.is_short(self.band))
            });
            if !is_on {
                // An acknowledgement did not leave: what came over this channel comes again over another.
                return fault::away("fetch");
            }
            let look = Instant::now() + if is_short { MORE } else { LOOK };
            tokio::select! {
                changed = steered.changed() => if changed.is_err() { return fault::closed("fetch") },
                Some(next) = self.subscriptions.next() => {
                    let Some(Ok(delivery)) = next else { return self.ended(next.and_then(Result::err)).await };
                    let (arrived, end) = gather(delivery, &mut self.subscriptions);
                    self.take_in(arrived, &mut chores);
                    if let Some(end) = end {
                        return self.ended(end.and_then(Result::err)).await;
                    }
                }
                Some(done) = chores.next(), if !chores.is_empty() => self.done(done),
                () = tokio::time::sleep_until(stale.map_or(look, |stale| stale.min(look))) => {
                    if stale.is_some_and(|at| at <= Instant::now()) {
                        self.station.change(|shelf| shelf.rest(self.band));
                    }
                    if !self.channel.status().connected() {
                        return fault::away("fetch");
                    }
                }
            }
        }
    }

    /// Brings the subscriptions in line with what is wanted. A prefetch holds for a subscription's life, so that more is one more
    /// subscription, and less is none and then another: what the last ones brought stays here, may be acknowledged, and counts.
    async fn follow(&mut self, chores: &mut Chores) -> Result<()> {
        let mut beyond = self.station.look(|shelf| shelf.is_beyond(self.band));
        let has = self.subscriptions.0.len();
        let many = has >= SUBSCRIPTIONS && self.station.look(|shelf| shelf.room(self.band)) > 0;
        if beyond == Beyond::TooMany || many || beyond == Beyond::Silent && has > 0 {
            self.cancel(chores).await?;
            beyond = self.station.look(|shelf| shelf.is_beyond(self.band));
        }
        if beyond == Beyond::Silent {
            self.station.change(|shelf| {
                shelf.subscribed(self.band);
                let (returned, sent) = shelf.give_back(self.band);
                self.station.returned.fetch_add(returned, Ordering::Relaxed);
                sent
            });
            return Ok(());
        }
        let more = self.station.change(|shelf| shelf.reserve(self.band));
        if more > 0 { self.subscribe(more).await } else { Ok(()) }
    }

    async fn subscribe(&mut self, prefetch: u16) -> Result<()> {
        self.channel.answer("fetch", self.channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let (queue, tag) = (self.station.base.layout.ready(&self.station.queue, number(self.band)), self.tag());
        let subscribed = self.channel.basic_consume(queue, tag, BasicConsumeOptions::default(), FieldTable::default());
        let subscription = self.channel.answer("fetch", subscribed).await?;
        self.subscriptions.0.push(subscription);
        self.station.change(|shelf| shelf.subscribed(self.band));
        self.station.has_tried(self.band);
        Ok(())
    }

    /// Ends all subscriptions, and takes in what they still brought.
    async fn cancel(&mut self, chores: &mut Chores) -> Result<()> {
        let mut arrived = Vec::new();
        for mut old in std::mem::take(&mut self.subscriptions.0) {
            self.channel.answer("fetch", self.channel.basic_cancel(old.tag(), BasicCancelOptions::default())).await?;
            let rest = async {
                while let Some(Ok(delivery)) = old.next().await {
                    arrived.push(delivery);
                }
                Ok(())
            };
            self.channel.answer("fetch", rest).await?;
        }
        self.take_in(arrived, chores);
        self.station.change(|shelf| shelf.unsubscribed(self.band));
        // What it does not want any more is for the others.
        self.station.steer();
        Ok(())
    }

    /// For people who look at the broker.
    fn tag(&mut self) -> ShortString {
        self.numbered += 1;
        let worker: String = self.station.worker.chars().take(60).collect();
        let tag = format!("{worker}.{}.{}.{}", self.epoch, self.band, self.numbered);
        ShortString::try_new(tag).unwrap_or_default()
    }

    fn take_in(&self, arrived: Vec<Delivery>, chores: &mut Chores) {
        let (base, now) = (&self.station.base, self.station.base.env.now());
        let mut taken = Vec::with_capacity(arrived.len());
        for delivery in arrived {
            let (tag, properties, body) = (delivery.delivery_tag, delivery.properties, Bytes::from(delivery.data));
            let fresh = || JobId::fresh(&base.env);
            let reading = wire::read(&properties, body.clone(), &self.station.spec, now, fresh);
            let returns = wire::returns(&properties);
            let odd = match reading {
                Reading::Job { envelope, nameless: false } => {
                    taken.push((tag, self.held(envelope, returns, delivery.redelivered, Stage::Buffered)));
                    continue;
                }
                Reading::Job { envelope, nameless: true } => Odd::Nameless { job: envelope, properties, body },
                Reading::Newer => Odd::Newer { properties, body },
                Reading::Broken(why) => Odd::Broken { properties, body, why },
            };
            taken.push((tag, self.held(odd::stand_in(), returns, delivery.redelivered, Stage::Ending(0))));
            let chore = odd::deal_with(Arc::clone(base), self.station.queue.clone(), number(self.band), tag, odd);
            chores.push(Box::pin(chore));
        }
        let anew = self.station.change(|shelf| shelf.put(self.band, self.epoch, taken));
        if anew {
            self.station.steer();
        }
    }

    fn held(&self, job: Envelope, returns: u32, redelivered: bool, stage: Stage) -> Held {
        Held { job, returns, redelivered, since: Instant::now(), stage }
    }

    fn done(&self, (tag, end): odd::Done) {
        self.station.change(|shelf| shelf.drop_tag(self.band, self.epoch, tag, end));
    }

    /// Why the subscription ended: by an error of its channel, or because the broker cancelled it, as it does when the queue
    /// is deleted.
    async fn ended(&self, error: Option<lapin::Error>) -> Error {
        match error {
            Some(error) => fault::of(&error, "fetch"),
            None if self.channel.status().connected() => {
                let gone = "the queue was dropped while it was consumed: declare it anew";
                Error::new(ErrorCode::NotFound, gone).at("fetch").by(crate::SCHEME).on(&self.station.queue)
            }
            None => fault::away("fetch"),
        }
    }
}

/// What a subscription brings. `None`: the broker cancelled it.
type Next<T = Delivery> = Option<lapin::Result<T>>;

/// Those of one channel. The end of any is told, and who passes over it never hears of it.
#[derive(Default)]
struct Subscriptions(Vec<lapin::Consumer>);

impl Stream for Subscriptions {
    type Item = Next;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Next>> {
        for one in &mut self.0 {
            if let Poll::Ready(next) = one.poll_next_unpin(context) {
                return Poll::Ready(Some(next));
            }
        }
        Poll::Pending
    }
}

type Chores = FuturesUnordered<futures_util::future::BoxFuture<'static, odd::Done>>;

/// The one on the present connection, or on the next if that comes soon.
async fn channel(station: &Station) -> Result<Lane> {
    station.base.open("fetch")?;
    station.base.work.connected(Instant::now() + SOON, "fetch").await?.channel("fetch").await
}

/// What else is here by now; and the end of the subscription, if that is: it is told once, and who passes over it never hears of it.
fn gather<T>(first: T, more: &mut (impl Stream<Item = Next<T>> + Unpin)) -> (Vec<T>, Option<Next<T>>) {
    let mut arrived = vec![first];
    while arrived.len() < AT_ONCE
        && let Some(Some(next)) = more.next().now_or_never()
    {
        match next {
            Some(Ok(delivery)) => arrived.push(delivery),
            end => return (arrived, Some(end)),
        }
    }
    (arrived, None)
}

/// As the topology counts bands.
fn number(band: usize) -> u8 {
    u8::try_from(band).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{iter, pending};

    use super::*;

    #[test]
    fn the_end_of_a_subscription_is_heard_behind_what_came_before_it() {
        let mut ended = iter([Some(Ok(2)), Some(Ok(3)), None]);
        assert!(matches!(gather(1, &mut ended), (came, Some(None)) if came == [1, 2, 3]));
        let failed = || lapin::Error::from(lapin::ErrorKind::ChannelsLimitReached);
        let mut failing = iter([Some(Ok(2)), Some(Err(failed()))]).chain(pending());
        assert!(matches!(gather(1, &mut failing), (came, Some(Some(Err(_)))) if came == [1, 2]));
    }

    #[test]
    fn others_have_their_turn_and_what_is_not_here_is_not_awaited() {
        let mut many = iter((0..2 * AT_ONCE).map(|n| Some(Ok(n))));
        assert!(matches!(gather(0, &mut many), (came, None) if came.len() == AT_ONCE));
        assert!(matches!(gather(0, &mut pending()), (came, None) if came == [0]));
    }
}
