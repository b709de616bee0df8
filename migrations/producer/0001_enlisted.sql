-- What an upstream remembers of its own transactions.
--
-- A transaction that sends a message inserts its id; RequestResend, not finding it, inserts the
-- same key as a fence. Of the two, Postgres lets one through and makes the other wait or fail: that
-- is what makes "never committed" a final answer.

CREATE TABLE countersign.enlisted (
    message_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'enlisted',
    envelope jsonb,
    body bytea,
    CONSTRAINT enlisted_pkey PRIMARY KEY (message_id),
    CONSTRAINT enlisted_state_is_known CHECK (state IN ('enlisted', 'fenced')),
    CONSTRAINT enlisted_message_is_whole CHECK ((envelope IS NULL) = (body IS NULL)),
    CONSTRAINT enlisted_fence_holds_no_message CHECK (state = 'enlisted' OR envelope IS NULL)
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE countersign.enlisted IS
    'Ids of messages whose transaction committed, and of those that never will. One partition a day in UTC, dropped whole past retention.';
COMMENT ON COLUMN countersign.enlisted.message_id IS
    'The message''s id: a UUIDv7, so it holds the time of its making in milliseconds.';
COMMENT ON COLUMN countersign.enlisted.state IS
    'enlisted: the transaction that sends the message committed. fenced: it did not and never can, since its key is taken.';
COMMENT ON COLUMN countersign.enlisted.envelope IS
    'The stored message without its body: exchange, key, kind, content type, headers, consumers. NULL unless the upstream stores its messages here.';
COMMENT ON COLUMN countersign.enlisted.body IS
    'The stored message''s body, in bytes as it goes to the broker. NULL unless the upstream stores its messages here.';
