//! How far transactions see each other's changes.

/// The isolation level of a transaction
/// (<https://www.postgresql.org/docs/current/transaction-iso.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// As the database, the role or the session has it: `default_transaction_isolation`.
    #[default]
    Default,
    /// Each statement sees what is committed when it begins.
    ReadCommitted,
    /// Every statement sees what was committed when the transaction began.
    RepeatableRead,
    /// The outcome is as if the transactions ran one after the other.
    Serializable,
}
