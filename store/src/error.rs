//! What can go wrong with the store, told apart by what a caller does about it.
use std::{error::Error as StdError, io::ErrorKind, time::Duration};

use object_store::client::HttpError;

use crate::Operation;

/// Why the store did not do what it was asked. "It already exists" and "it has another version" are values, not errors.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The store lacks something that Driftline cannot do without.
    #[error("the store does not support {what}: {advice}")]
    Unsupported {
        /// The missing primitive or format.
        what: String,
        /// What a person can do about it.
        advice: String,
    },
    /// The object is no longer the version that the reader pinned; a fresh read will do.
    #[error("{path} was replaced or removed while it was read")]
    Changed {
        /// The object's name.
        path: String,
    },
    /// The store was unreachable, overloaded, slow or full for longer than the retry policy allows.
    #[error("the store did not answer {operation} {path} in {tries} tries over {:.1} s: {cause}", elapsed.as_secs_f64())]
    Transient {
        /// What was asked for.
        operation: Operation,
        /// The object's name.
        path: String,
        /// How often it was asked for.
        tries: u32,
        /// How long it was asked for.
        elapsed: Duration,
        /// The last answer.
        cause: String,
    },
    /// Asking again would not help: credentials, permissions, a wrong setting.
    #[error("cannot {operation} {path}: {advice}: {cause}")]
    Permanent {
        /// What was asked for.
        operation: Operation,
        /// The object's name.
        path: String,
        /// What a person can do about it.
        advice: String,
        /// The store's answer.
        cause: String,
    },
    /// An object is there and is not what it has to be.
    #[error("{path} is corrupt: {reason}")]
    Corrupt {
        /// The object's name.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a caller does with an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same call may succeed later.
    Retry,
    /// A person is needed.
    Stop,
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Changed { .. } | Self::Transient { .. } => Disposition::Retry,
            Self::Unsupported { .. } | Self::Permanent { .. } | Self::Corrupt { .. } => Disposition::Stop,
        }
    }

    pub(crate) fn corrupt(path: impl Into<String>, reason: impl ToString) -> Self {
        Self::Corrupt { path: path.into(), reason: reason.to_string() }
    }

    /// The verdict on an answer that is not asked for again.
    pub(crate) fn last(
        error: &object_store::Error,
        operation: Operation,
        path: &str,
        tries: u32,
        elapsed: Duration,
    ) -> Self {
        use object_store::Error as E;
        let (path, mut cause) = (path.to_owned(), error.to_string());
        if is_full(error) {
            cause = format!("the disk is full; free some space: {cause}");
        }
        if is_transient(error) {
            return Self::Transient { operation, path, tries, elapsed, cause };
        }
        let advice = match error {
            E::NotImplemented { .. } | E::NotSupported { .. } => {
                return Self::Unsupported { what: operation.to_string(), advice: cause };
            }
            // How S3 servers say so of a header that they know and do not carry out.
            _ if causes(error).any(|cause| status_in(&cause.to_string()) == Some(501)) => {
                return Self::Unsupported { what: operation.to_string(), advice: cause };
            }
            // versitygw answers 404 to a key that it does not know, where S3 itself answers 403.
            E::NotFound { .. } if cause.contains("UserNotFound") => UNKNOWN_CREDENTIALS,
            E::Unauthenticated { .. } => UNKNOWN_CREDENTIALS,
            E::PermissionDenied { .. } => {
                "access is denied; the credentials need to read, write, delete and list under the store's root (a clock that is minutes off is answered alike)"
            }
            E::NotFound { .. } => "the bucket, container or object does not exist; check the store's url",
            E::InvalidPath { .. } => "the name is not one that a store can hold; encode its parts",
            _ if is_untrusted(error) => {
                "the store's certificate is not trusted; if a private authority has signed it, name that authority's certificate in store.options.ca_certificate_file"
            }
            _ => "the store refused",
        };
        Self::Permanent { operation, path, advice: advice.into(), cause }
    }
}

const UNKNOWN_CREDENTIALS: &str = "the store does not know these credentials; check the key, its secret and its expiry";

/// Whether the same request may succeed later. A lost race counts: the winner's object may be gone again by now.
pub(crate) fn is_transient(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::AlreadyExists { .. } | E::Precondition { .. } => true,
        // Such a connection has failed like any other, but no time heals it.
        _ if is_untrusted(error) => false,
        E::Generic { source, .. } => causes(source.as_ref()).find_map(judge_cause).unwrap_or(false),
        _ => false,
    }
}

/// `None` if this cause alone does not tell.
fn judge_cause(cause: &(dyn StdError + 'static)) -> Option<bool> {
    if cause.is::<HttpError>() {
        return Some(true); // no answer came, or not all of it
    }
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        return Some(matches!(
            io.kind(),
            ErrorKind::TimedOut
                | ErrorKind::Interrupted
                | ErrorKind::WouldBlock
                | ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::NotConnected
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
                | ErrorKind::ResourceBusy
                | ErrorKind::StaleNetworkFileHandle
                // Somebody can make room, and until then Kafka keeps what comes.
                | ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
        ));
    }
    let text = cause.to_string();
    if text.contains("Server returned error response") {
        return Some(true); // a 200 whose body says InternalError or SlowDown
    }
    status_in(&text).map(|status| matches!(status, 408 | 409 | 425 | 429 | 500 | 502..=599))
}

/// The HTTP status that the text of an error names: object_store keeps its type with the status to itself.
fn status_in(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

/// Whether the TLS library refused the store's certificate; only its words reach us, not its type.
fn is_untrusted(error: &object_store::Error) -> bool {
    causes(error).any(|cause| cause.to_string().contains("invalid peer certificate"))
}

pub(crate) fn is_full(error: &object_store::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: impl Into<Box<dyn StdError + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: source.into() }
    }

    #[test]
    fn answers_are_told_apart_by_what_helps() {
        let io = |kind: ErrorKind| generic(std::io::Error::from(kind));
        let status = |line: &str| {
            generic(format!("Error performing PUT REDACTED in 1s - Server returned non-2xx status code: {line}"))
        };
        for (error, transient) in [
            (io(ErrorKind::TimedOut), true),
            (io(ErrorKind::ConnectionReset), true),
            (io(ErrorKind::StorageFull), true),
            (io(ErrorKind::NotADirectory), false),
            (status("503 Service Unavailable: SlowDown"), true),
            (status("429 Too Many Requests: "), true),
            (status("500 Internal Server Error: "), true),
            (status("400 Bad Request: we saw status code: 503"), false),
            (status("301 Moved Permanently"), false),
            (status("501 Not Implemented: A header you provided implies functionality"), false),
            (generic("something else"), false),
        ] {
            assert_eq!(is_transient(&error), transient, "{error}");
            let last = Error::last(&error, Operation::Get, "a/b", 3, Duration::from_secs(1));
            assert_eq!(last.disposition() == Disposition::Retry, transient, "{last}");
        }
    }

    #[test]
    fn a_server_that_says_it_cannot_is_not_asked_again() {
        let refused = generic("Server returned non-2xx status code: 501 Not Implemented: NotImplemented");
        let error = Error::last(&refused, Operation::Create, "raw/x", 1, Duration::ZERO);
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }

    #[test]
    fn an_unknown_authority_says_so_at_once() {
        let refused = generic(std::io::Error::other("invalid peer certificate: UnknownIssuer"));
        let error = Error::last(&refused, Operation::Create, "raw/x", 1, Duration::ZERO);
        assert_eq!(error.disposition(), Disposition::Stop);
        assert!(error.to_string().contains("store.options.ca_certificate_file"), "{error}");
    }

    #[test]
    fn a_full_disk_says_so() {
        let full = generic(std::io::Error::from(ErrorKind::StorageFull));
        let error = Error::last(&full, Operation::Create, "raw/x", 7, Duration::ZERO);
        assert_eq!(error.disposition(), Disposition::Retry, "somebody can make room");
        assert!(error.to_string().contains("the disk is full; free some space"), "{error}");
    }
}
