-- inbox: which messages have taken effect in this database, by consumer.
--
-- A delivery's transaction inserts its row first and the effect after it, so that both are there or
-- neither. A second delivery finds the row and has no effect.
--
-- Partitioned by id, a UUIDv7 and so by time: the SDK makes partitions two days ahead and drops it whole
-- past retention. The key begins with the id, as a key of a partitioned table has to hold its
-- partition key; the consumer follows, so that consumers that share a database do not share claims.

CREATE TABLE countersign.inbox (
    message_id uuid NOT NULL,
    consumer text NOT NULL,
    queue text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    duplicates integer NOT NULL DEFAULT 0,
    CONSTRAINT inbox_pkey PRIMARY KEY (message_id, consumer),
    CONSTRAINT inbox_consumer_is_a_name CHECK (consumer ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    CONSTRAINT inbox_duplicates_from_0 CHECK (duplicates >= 0)
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE countersign.inbox IS 'Messages that took effect in this database. Partitioned by id (UUIDv7: by time); partitions past the retention are dropped whole.';
COMMENT ON COLUMN countersign.inbox.message_id IS 'UUIDv7: its first 48 bits are the milliseconds since 1970 at which the upstream made it.';
COMMENT ON COLUMN countersign.inbox.consumer IS 'The consumer that processed it. Consumers that share a database do not share their claims.';
COMMENT ON COLUMN countersign.inbox.queue IS 'The queue that it came from. A delivery of it from another queue to a consumer of the same name is no duplicate: it is rejected, and stands in that queue''s .dead.';
COMMENT ON COLUMN countersign.inbox.claimed_at IS 'When the transaction of its effect began, on this database''s clock.';
COMMENT ON COLUMN countersign.inbox.duplicates IS 'Further deliveries of it, which had no effect: a number from 0. Each is counted before it is confirmed; one that is interrupted between the two is counted again.';
