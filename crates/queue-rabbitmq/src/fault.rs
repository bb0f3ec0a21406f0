//! What goes wrong in RabbitMQ, in the words of the contract.

use lapin::ErrorKind;
use queue_core::{Error, ErrorCode};
use rustls::CertificateError;

/// AMQP's reply codes that mean something of their own here.
pub(crate) mod reply {
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const RESOURCE_LOCKED: u16 = 405;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
    pub(crate) const NOT_ALLOWED: u16 = 530;
    pub(crate) const RESOURCE_ERROR: u16 = 506;
    pub(crate) const INTERNAL_ERROR: u16 = 541;
}

/// The code with which the broker closed the channel or the connection, if it did.
pub(crate) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What the broker said along with it.
pub(crate) fn reply_text(error: &lapin::Error) -> &str {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().as_str(),
        _ => "",
    }
}

pub(crate) fn of(error: &lapin::Error, operation: &'static str) -> Error {
    let unreachable = || (ErrorCode::Unavailable, "RabbitMQ cannot be reached".into());
    let (code, message): (ErrorCode, String) = match reply_code(error) {
        // The broker refuses the login with the same code as a permission, before there is a connection.
        Some(reply::ACCESS_REFUSED) if reply_text(error).contains("Login was refused") => {
            (ErrorCode::Authentication, "RabbitMQ does not accept the user and password".into())
        }
        Some(reply::ACCESS_REFUSED) => (
            ErrorCode::Denied,
            format!("the user lacks the permission {} ({})", lacking(operation, reply_text(error)), reply_text(error)),
        ),
        Some(reply::NOT_ALLOWED) => {
            (ErrorCode::Denied, format!("RabbitMQ does not let the user in here ({})", reply_text(error)))
        }
        Some(reply::NOT_FOUND) => (ErrorCode::NotFound, format!("it is not there ({})", reply_text(error))),
        Some(reply::RESOURCE_LOCKED) => {
            (ErrorCode::Unavailable, format!("another connection holds it ({})", reply_text(error)))
        }
        Some(reply::PRECONDITION_FAILED) => {
            (ErrorCode::Conflict, format!("RabbitMQ refuses it as it is ({})", reply_text(error)))
        }
        Some(reply::RESOURCE_ERROR | reply::INTERNAL_ERROR) => {
            (ErrorCode::Unavailable, format!("RabbitMQ has trouble of its own ({})", reply_text(error)))
        }
        Some(code) => (ErrorCode::Unavailable, format!("RabbitMQ ended it with code {code} ({})", reply_text(error))),
        None => match error.kind() {
            ErrorKind::ChannelsLimitReached => {
                (ErrorCode::Unavailable, "all channels of the connection are in use: raise `channel_max`".into())
            }
            ErrorKind::InvalidProtocolVersion(_) => (ErrorCode::Config, "this server does not speak AMQP 0-9-1".into()),
            ErrorKind::ParsingError(_) => {
                (ErrorCode::Config, "what answers there is not AMQP: is the port an encrypted one (`amqps:`)?".into())
            }
            ErrorKind::MissingHeartbeatError => (ErrorCode::Unavailable, "RabbitMQ has not been heard of".into()),
            ErrorKind::IOError(error) => of_encryption(error).unwrap_or_else(unreachable),
            _ => unreachable(),
        },
    };
    Error::new(code, message).at(operation).by(crate::SCHEME).caused_by(error.clone())
}

/// Which permission it is. RabbitMQ names the thing in any case, and from 3.13 on also the permission.
fn lacking(operation: &str, words: &str) -> &'static str {
    if words.contains("'amq.default'") {
        return "`write` on `amq.default`";
    }
    let named = [("configure access", "`configure`"), ("write access", "`write`"), ("read access", "`read`")];
    if let Some((_, named)) = named.into_iter().find(|(said, _)| words.contains(said)) {
        return named;
    }
    match operation {
        "publish" => "`write`",
        "drop_queue" => "`configure` or `read`",
        // To bind one to the other needs more than to make them.
        "declare" if words.contains("exchange") => "`configure` or `read`",
        "declare" => "`configure` or `write`",
        _ => "`read`",
    }
}

/// What stands between two that do not trust each other. Trying again does not change it, so it is not told as an outage.
fn of_encryption(error: &std::io::Error) -> Option<(ErrorCode, String)> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (ErrorCode::Config, format!("RabbitMQ's certificate is not for the host in the URL ({error})")),
        rustls::Error::InvalidCertificate(_) => {
            (ErrorCode::Config, format!("RabbitMQ's certificate is not trusted: name its root with `ca` ({error})"))
        }
        rustls::Error::InvalidMessage(_) => {
            (ErrorCode::Config, format!("what answers there is not TLS: is the port a plain one (`amqp:`)? ({error})"))
        }
        rustls::Error::AlertReceived(_) => (
            ErrorCode::Authentication,
            format!(
                "RabbitMQ ended the encryption: does it ask for a certificate (`cert` and `key`), and trust ours? ({error})"
            ),
        ),
        _ => (ErrorCode::Config, format!("no encryption comes about with RabbitMQ ({error})")),
    })
}

/// There is no connection now.
pub(crate) fn away(operation: &'static str) -> Error {
    Error::new(ErrorCode::Unavailable, "RabbitMQ cannot be reached; it is tried again by itself")
        .at(operation)
        .by(crate::SCHEME)
}

/// The provider was closed.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorCode::Closed, "this connection was closed: connect again").at(operation).by(crate::SCHEME)
}

/// Something was written, and it is not known what became of it.
pub(crate) fn unanswered(operation: &'static str) -> Error {
    Error::new(ErrorCode::Timeout, "RabbitMQ did not answer in time").at(operation).by(crate::SCHEME)
}
