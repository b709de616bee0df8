//! The database in which a message's transaction commits, as far as checks say.

use countersign_protocol::DatabaseId;

/// Which database may say that a message never committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No check has named one: none may.
    Unnamed,
    /// This one.
    Database(DatabaseId),
    /// Two checks have named different ones: the transaction may have committed in either, so neither
    /// may deny it.
    Disputed,
}

impl Origin {
    /// What a check says.
    #[must_use]
    pub(crate) fn named(database: Option<DatabaseId>) -> Self {
        database.map_or(Self::Unnamed, Self::Database)
    }

    /// The one database that the upstream is asked to have.
    #[must_use]
    pub(crate) fn database(self) -> Option<DatabaseId> {
        match self {
            Self::Database(id) => Some(id),
            Self::Unnamed | Self::Disputed => None,
        }
    }

    /// What two checks say together. A dispute stays one.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unnamed, origin) | (origin, Self::Unnamed) => origin,
            (one, other) if one == other => one,
            _ => Self::Disputed,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_dispute_about_the_database_stays_one() {
        let [a, b] = [1, 2].map(|n| Origin::Database(DatabaseId::from_uuid(Uuid::from_u128(n))));
        for (one, other, both) in [
            (Origin::Unnamed, Origin::Unnamed, Origin::Unnamed),
            (Origin::Unnamed, a, a),
            (a, a, a),
            (a, b, Origin::Disputed),
            (Origin::Disputed, a, Origin::Disputed),
            (Origin::Disputed, Origin::Unnamed, Origin::Disputed),
        ] {
            assert_eq!((one.and(other), other.and(one)), (both, both), "{one:?}, {other:?}");
        }
        assert_eq!((a.and(b).database(), a.database().is_some()), (None, true));
    }
}
