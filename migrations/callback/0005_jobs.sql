-- jobs: what people have done about messages, one by one or many at once. Each job is also the record
-- of who did it, when and why: none is ever deleted.

-- A message that somebody has asked for by hand is given up so much later.
DROP INDEX overdue_open;
CREATE INDEX overdue_open ON overdue (greatest(since, granted_at)) WHERE due_at IS NOT NULL;

CREATE TABLE job (
    job_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz,
    ended_at timestamptz,
    begins_at timestamptz,
    items bigint NOT NULL,
    begun bigint NOT NULL DEFAULT 0,
    succeeded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    step bigint NOT NULL,
    rate double precision,
    action text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    selection text NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    reason text NOT NULL DEFAULT '',
    CONSTRAINT job_pkey PRIMARY KEY (job_id),
    CONSTRAINT job_action CHECK (action IN ('resend', 'close', 'note')),
    CONSTRAINT job_state CHECK (state IN ('running', 'done', 'cancelled', 'stopped')),
    CONSTRAINT job_done_has_ended CHECK (state <> 'done' OR ended_at IS NOT NULL),
    CONSTRAINT job_running_has_not_ended CHECK (state <> 'running' OR ended_at IS NULL),
    CONSTRAINT job_cancelled_at_if_cancelled CHECK ((cancelled_at IS NOT NULL) = (state = 'cancelled')),
    CONSTRAINT job_counts_from_0 CHECK (
        least(items, begun, succeeded, failed, skipped, step) >= 0
    ),
    CONSTRAINT job_counts_no_item_twice CHECK (begun + succeeded + failed + skipped <= items),
    CONSTRAINT job_ended_has_ended_items CHECK (
        ended_at IS NULL OR succeeded + failed + skipped = items
    ),
    CONSTRAINT job_rate_above_0 CHECK (rate > 0),
    CONSTRAINT job_says_who_and_why CHECK (who <> '' AND why <> '')
);

COMMENT ON TABLE job IS 'What somebody has done, or has had done, about some messages. Never deleted.';
COMMENT ON COLUMN job.job_id IS 'The job.';
COMMENT ON COLUMN job.created_at IS 'When somebody asked for it, on this database''s clock.';
COMMENT ON COLUMN job.cancelled_at IS 'When somebody cancelled it, on this database''s clock. NULL unless cancelled.';
COMMENT ON COLUMN job.ended_at IS 'When its last item ended, on this database''s clock. NULL until then, also if it is cancelled or stopped.';
COMMENT ON COLUMN job.begins_at IS 'When its rate lets the next item begin, on this database''s clock. NULL before the first, and without a rate.';
COMMENT ON COLUMN job.items IS 'How many messages it is about, a number from 0.';
COMMENT ON COLUMN job.begun IS 'How many of its items are begun and not counted as ended, a number from 0.';
COMMENT ON COLUMN job.succeeded IS 'How many of its items ended well, a number from 0.';
COMMENT ON COLUMN job.failed IS 'How many of its items ended otherwise, a number from 0.';
COMMENT ON COLUMN job.skipped IS 'How many of its items were left out, a number from 0. Items begin in the order of their position: those above begun + succeeded + failed + skipped are pending.';
COMMENT ON COLUMN job.step IS 'How many items may be begun in all at this step, those left out not counted. 0: all.';
COMMENT ON COLUMN job.rate IS 'The most items begun in a second. NULL: as many as there are.';
COMMENT ON COLUMN job.action IS 'resend, close or note.';
COMMENT ON COLUMN job.state IS 'running; done; cancelled by somebody; stopped by itself, see reason. The latter two begin nothing more, and what is begun comes to its end.';
COMMENT ON COLUMN job.selection IS 'Which messages it is about, as it was asked for: a filter, or how many ids.';
COMMENT ON COLUMN job.who IS 'Who asked for it, as they said.';
COMMENT ON COLUMN job.why IS 'Why, as they said.';
COMMENT ON COLUMN job.reason IS 'Who cancelled it and why, or why it stopped by itself. Empty otherwise.';

CREATE INDEX job_open ON job (job_id) WHERE ended_at IS NULL;
CREATE INDEX job_newest ON job (created_at, job_id);

CREATE TABLE job_item (
    job_id uuid NOT NULL,
    position bigint NOT NULL,
    message_id uuid NOT NULL,
    ended_at timestamptz,
    counted boolean NOT NULL DEFAULT FALSE,
    upstream text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'pending',
    result text NOT NULL DEFAULT '',
    CONSTRAINT job_item_pkey PRIMARY KEY (job_id, position),
    CONSTRAINT job_item_of_job FOREIGN KEY (job_id) REFERENCES job (job_id),
    CONSTRAINT job_item_state CHECK (
        state IN ('pending', 'begun', 'succeeded', 'failed', 'skipped')
    ),
    CONSTRAINT job_item_ended_at_if_ended CHECK (
        (ended_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'skipped'))
    ),
    CONSTRAINT job_item_counted_has_ended CHECK (NOT counted OR ended_at IS NOT NULL),
    CONSTRAINT job_item_position_from_1 CHECK (position >= 1)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE job_item IS 'What became of each message of a job. Never deleted.';
COMMENT ON COLUMN job_item.job_id IS 'The job.';
COMMENT ON COLUMN job_item.position IS 'Items begin in this order, from 1.';
COMMENT ON COLUMN job_item.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN job_item.ended_at IS 'When it ended, on this database''s clock. NULL while pending or begun.';
COMMENT ON COLUMN job_item.counted IS 'Whether its end is in the counts of its job. An item ends together with its overdue row, whoever changes that; only the replica that works on the job counts.';
COMMENT ON COLUMN job_item.upstream IS 'Who sent the message. Empty if the message was not overdue.';
COMMENT ON COLUMN job_item.state IS 'pending; begun, and the outcome is waited for; succeeded; failed; skipped.';
COMMENT ON COLUMN job_item.result IS 'What came of it, for a person. Empty while pending.';

CREATE INDEX job_item_message ON job_item (message_id);
CREATE INDEX job_item_begun ON job_item (message_id, upstream) WHERE state = 'begun';
CREATE INDEX job_item_uncounted ON job_item (job_id) WHERE ended_at IS NOT NULL AND NOT counted;
