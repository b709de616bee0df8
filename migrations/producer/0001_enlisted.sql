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
    check_delay_ms integer,
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
COMMENT ON COLUMN countersign.enlisted.check_delay_ms IS
    'How long after its arming the message''s check comes due, in milliseconds: each sweep looks at the messages of its own check delay. NULL for a fence.';

CREATE TABLE countersign.sweep (
    upstream text COLLATE "C" NOT NULL,
    check_delay_ms integer NOT NULL,
    head uuid,
    walk uuid,
    walk_begun_at timestamptz,
    walk_ended_at timestamptz,
    until timestamptz NOT NULL,
    holder uuid NOT NULL,
    CONSTRAINT sweep_pkey PRIMARY KEY (upstream, check_delay_ms),
    CONSTRAINT sweep_walk_ended_was_begun CHECK (
        walk_ended_at IS NULL OR walk_begun_at IS NOT NULL
    )
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE countersign.sweep IS
    'How far the sweep over countersign.enlisted is, for each upstream and check delay. One process at a time goes on from a row, and from two places: the head, which stays behind what is new, and the walk, which goes slowly from the oldest id to the newest. To let the walk begin with the oldest id again: UPDATE countersign.sweep SET walk_begun_at = NULL, walk_ended_at = NULL.';
COMMENT ON COLUMN countersign.sweep.upstream IS 'The upstream whose messages the sweep looks at.';
COMMENT ON COLUMN countersign.sweep.check_delay_ms IS
    'The check delay of the messages that the sweep looks at, in milliseconds.';
COMMENT ON COLUMN countersign.sweep.head IS
    'The callback service knows every id from the head''s first place up to this one: a UUIDv7. NULL: the head has not begun.';
COMMENT ON COLUMN countersign.sweep.walk IS
    'The last id that the walk has looked at: a UUIDv7. NULL: the walk begins with the oldest.';
COMMENT ON COLUMN countersign.sweep.walk_begun_at IS
    'When the walk began with the oldest id, on this database''s clock. NULL: it is to begin.';
COMMENT ON COLUMN countersign.sweep.walk_ended_at IS
    'When the walk reached the ids that were new at its beginning, on this database''s clock. NULL while it is under way.';
COMMENT ON COLUMN countersign.sweep.until IS
    'When another process may go on, on this database''s clock: a process that lives moves it on.';
COMMENT ON COLUMN countersign.sweep.holder IS
    'The process that sweeps, or swept last: a UUID that it drew at its start.';
