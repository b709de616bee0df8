-- An upstream's records of its own transactions.
--
-- A transaction that sends a message inserts its id; RequestResend, not finding it, inserts the
-- same key as a fence. Of the two, Postgres lets one through and makes the other wait or fail: that
-- is what makes "never committed" a final answer.
--
-- Partitioned by id, a UUIDv7 and so by time: the SDK makes partitions two days ahead and drops it whole
-- past retention. The id alone is the key: it is also the fence, and has to be unique.

-- Whose records these are. A check names this database, and RequestResend names it again: only the
-- database in which a transaction would have committed can say that it never did. A restored backup keeps
-- the identity. A copy that serves another upstream needs one of its own:
-- UPDATE countersign.identity SET database_id = gen_random_uuid().
CREATE TABLE countersign.identity (
    only_row boolean NOT NULL DEFAULT true,
    database_id uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT identity_pkey PRIMARY KEY (only_row),
    CONSTRAINT identity_has_one_row CHECK (only_row)
);

COMMENT ON TABLE countersign.identity IS
    'The identity of this database as an upstream''s. One row.';
COMMENT ON COLUMN countersign.identity.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN countersign.identity.database_id IS
    'Drawn at random when the table was made: checks and RequestResend carry it.';

INSERT INTO countersign.identity DEFAULT VALUES;

CREATE TABLE countersign.enlisted (
    message_id uuid NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    state text NOT NULL DEFAULT 'enlisted',
    envelope jsonb,
    body bytea,
    consumers text COLLATE "C",
    CONSTRAINT enlisted_pkey PRIMARY KEY (message_id),
    CONSTRAINT enlisted_state_is_known CHECK (state IN ('enlisted', 'fenced')),
    CONSTRAINT enlisted_message_is_whole CHECK ((envelope IS NULL) = (body IS NULL)),
    CONSTRAINT enlisted_fence_holds_no_message CHECK (state = 'enlisted' OR envelope IS NULL)
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE countersign.enlisted IS
    'Ids of messages whose transaction committed, and of those that never will. One partition a day in UTC, dropped whole past retention.';
COMMENT ON COLUMN countersign.enlisted.message_id IS
    'The message''s id: a UUIDv7, so it holds the time of its making in milliseconds.';
COMMENT ON COLUMN countersign.enlisted.upstream IS
    'The upstream that sends the message. Several may share the table, and each sweeps its own.';
COMMENT ON COLUMN countersign.enlisted.state IS
    'enlisted: the transaction that sends the message committed. fenced: it did not and never can, since its key is taken.';
COMMENT ON COLUMN countersign.enlisted.envelope IS
    'The stored message without its body: exchange, key, kind, content type, headers, consumers. NULL unless the upstream stores its messages here.';
COMMENT ON COLUMN countersign.enlisted.body IS
    'The stored message''s body, in bytes as it goes to the broker. NULL unless the upstream stores its messages here.';
COMMENT ON COLUMN countersign.enlisted.consumers IS
    'The consumers that had to confirm the message when it was enlisted: names, separated by commas. NULL for a fence.';

CREATE TABLE countersign.sweep (
    upstream text COLLATE "C" NOT NULL,
    position uuid,
    begun_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz NOT NULL,
    holder uuid NOT NULL,
    CONSTRAINT sweep_pkey PRIMARY KEY (upstream)
);

COMMENT ON TABLE countersign.sweep IS
    'How far each upstream''s sweep over countersign.enlisted is. One process at a time goes on from a row. To let the sweep begin with the oldest id again: UPDATE countersign.sweep SET position = NULL, until = now().';
COMMENT ON COLUMN countersign.sweep.upstream IS 'The upstream whose messages the sweep looks at.';
COMMENT ON COLUMN countersign.sweep.position IS
    'The last id that the sweep has settled: a UUIDv7. NULL: none yet, the sweep begins with the oldest.';
COMMENT ON COLUMN countersign.sweep.begun_at IS
    'When a walk last began with the oldest id, on this database''s clock.';
COMMENT ON COLUMN countersign.sweep.until IS
    'When another process may go on, on this database''s clock: while one walks, so that it is replaced when it dies; after a walk, the pause before the next.';
COMMENT ON COLUMN countersign.sweep.holder IS
    'The process that walks, or walked last: a UUID that it drew at its start.';
