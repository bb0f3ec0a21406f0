//! Messages whose channel or connection ended before the broker confirmed them.

use lapin::types::ShortString;
use queue_core::{Error, ErrorCode};

use super::{Sent, ledger::Seat};
use crate::{SCHEME, fault};

/// Over which of our channels a message went, and the how manieth it was of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    pub(super) channel: u64,
    pub(super) number: u64,
}

/// A message that was written, and of which the broker will say nothing more.
pub(super) struct Lost {
    pub(super) seat: Seat,
    pub(super) order: Order,
    pub(super) exchange: ShortString,
    pub(super) error: lapin::Error,
}

/// What is known of those that ended together, among them all that were under way when the broker ended their channel.
///
/// A broker that ends a channel for want of an exchange, or of the right to it, names the exchange and not the message. Any to that
/// exchange may be the one, and those before it may have been taken: the exchange may have gone, or the right, in between. So only
/// the last one to it was surely not taken, nor was what came after, for a channel that ended takes nothing.
pub(super) fn verdicts(mut lost: Vec<Lost>) -> Vec<(Seat, Sent)> {
    lost.sort_unstable_by_key(|lost| lost.order);
    let mut told = Vec::with_capacity(lost.len());
    for of_one_channel in lost.chunk_by(|one, other| one.order.channel == other.order.channel) {
        let taken_at_most = of_one_channel.iter().rposition(is_of_the_refused_exchange).unwrap_or(of_one_channel.len());
        told.extend(
            of_one_channel.iter().enumerate().map(
                |(index, lost)| {
                    if index < taken_at_most { unknown(lost) } else { not_taken(lost) }
                },
            ),
        );
    }
    lost.into_iter().map(|lost| lost.seat).zip(told).collect()
}

fn is_of_the_refused_exchange(lost: &Lost) -> bool {
    let code = fault::reply_code(&lost.error);
    if !matches!(code, Some(fault::reply::ACCESS_REFUSED | fault::reply::NOT_FOUND)) {
        return false;
    }
    let exchange = if lost.exchange.as_str().is_empty() { "amq.default" } else { lost.exchange.as_str() };
    fault::reply_text(&lost.error).contains(&format!("exchange '{exchange}'"))
}

fn unknown(lost: &Lost) -> Sent {
    let message = "the connection ended before RabbitMQ confirmed the message";
    let error = Error::new(ErrorCode::Timeout, message).at("publish").by(SCHEME);
    Sent::Unknown(error.caused_by(fault::of(&lost.error, "publish")))
}

/// What another exchange's messages did to the channel is not said of these.
fn not_taken(lost: &Lost) -> Sent {
    let fault = fault::of(&lost.error, "publish");
    if is_of_the_refused_exchange(lost) {
        return Sent::NotWritten(fault);
    }
    let error = Error::new(ErrorCode::Unavailable, "the channel ended before RabbitMQ looked at the message");
    Sent::NotWritten(error.at("publish").by(SCHEME).caused_by(fault))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lapin::{
        ErrorKind,
        protocol::{AMQPError, AMQPErrorKind, AMQPSoftError},
    };

    use super::{super::ledger::Ledger, *};

    /// What is told of messages to these exchanges, each with its channel, where all ended with one error.
    fn told(error: AMQPSoftError, text: &str, messages: &[(u64, &str)]) -> Vec<Sent> {
        let error = AMQPError::new(AMQPErrorKind::from(error), text.into());
        let ledger = Arc::new(Ledger::new(messages.len()));
        let lost = messages.iter().enumerate().map(|(index, &(channel, exchange))| {
            assert!(ledger.write(index));
            Lost {
                seat: Seat { ledger: ledger.clone(), index },
                order: Order { channel, number: index as u64 },
                exchange: exchange.into(),
                error: ErrorKind::ProtocolError(error.clone()).into(),
            }
        });
        // lapin tells of them in any order.
        let mut lost: Vec<Lost> = lost.collect();
        lost.reverse();
        for (seat, sent) in verdicts(lost) {
            seat.tell(sent);
        }
        ledger.close(&fault::closed("publish"))
    }

    fn code(sent: &Sent) -> Option<ErrorCode> {
        match sent {
            Sent::NotWritten(error) => Some(error.code()),
            Sent::Unknown(_) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_may_have_been_taken_before_an_exchange_went_is_not_said_to_be_unwritten() {
        let text = "NOT_FOUND - no exchange 'due' in vhost '/'";
        let sent = told(AMQPSoftError::NOTFOUND, text, &[(1, "due"), (1, ""), (1, "due"), (1, "")]);
        let codes: Vec<_> = sent.iter().map(code).collect();
        assert_eq!(codes, [None, None, Some(ErrorCode::NotFound), Some(ErrorCode::Unavailable)]);
        let text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'u'";
        let sent = told(AMQPSoftError::ACCESSREFUSED, text, &[(1, ""), (1, "due"), (1, "")]);
        assert_eq!(sent.iter().map(code).collect::<Vec<_>>(), [None, None, Some(ErrorCode::Denied)]);
    }

    #[test]
    fn each_channel_has_a_last_message() {
        let text = "NOT_FOUND - no exchange 'due' in vhost '/'";
        let sent = told(AMQPSoftError::NOTFOUND, text, &[(1, "due"), (1, "due"), (2, "due"), (2, "due")]);
        let codes: Vec<_> = sent.iter().map(code).collect();
        assert_eq!(codes, [None, Some(ErrorCode::NotFound), None, Some(ErrorCode::NotFound)]);
    }

    #[test]
    fn nothing_is_known_of_what_another_fault_ended() {
        let sent = told(AMQPSoftError::PRECONDITIONFAILED, "PRECONDITION_FAILED - x", &[(1, ""), (1, "due")]);
        assert!(sent.iter().all(|sent| matches!(sent, Sent::Unknown(_))), "{sent:?}");
    }
}
