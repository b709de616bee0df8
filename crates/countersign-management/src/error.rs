//! Why the management API told nothing.

use thiserror::Error;

/// Why a request came to nothing. No text shows the password.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer within the deadline, or no connection, or a certificate that is not trusted.
    #[error(
        "the management API does not answer at {url}: {cause}; is the plugin rabbitmq_management on?"
    )]
    Away {
        /// Where it was looked for.
        url: String,
        /// What failed.
        cause: Box<ureq::Error>,
    },

    /// A wrong password, a user without the tag, or one without a right in the vhost.
    #[error(
        "the management API at {url} does not let user {user} look ({status}: {reason}): the user needs the right password, the tag monitoring and a right in the vhost"
    )]
    Refused {
        /// Where it was asked.
        url: String,
        /// As which user.
        user: String,
        /// 401 or 403.
        status: u16,
        /// What RabbitMQ says.
        reason: String,
    },

    /// The broker has no such vhost: this may be the API of another broker.
    #[error(
        "the broker of {url} has no vhost {vhost}: is it the management API of another broker?"
    )]
    NoVhost {
        /// Where it was asked.
        url: String,
        /// The vhost.
        vhost: String,
    },

    /// An answer that is neither a success nor one of the above.
    #[error("{request}: status {status}: {body}")]
    Status {
        /// Method and address.
        request: String,
        /// The HTTP status.
        status: u16,
        /// What it came with.
        body: String,
    },

    /// An answer that cannot be read.
    #[error("{request}: {why}")]
    Unreadable {
        /// Method and address.
        request: String,
        /// What is wrong with it.
        why: String,
    },
}
