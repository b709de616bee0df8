-- progress: how far confirms have been recorded, and how far consumers are. A message counts as
-- missing only when neither can explain that it is not confirmed.

CREATE TABLE confirm_marker (
    number bigint GENERATED ALWAYS AS IDENTITY,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    returned_at timestamptz,
    shard integer NOT NULL,
    awaited boolean NOT NULL DEFAULT true,
    CONSTRAINT confirm_marker_pkey PRIMARY KEY (number),
    CONSTRAINT confirm_marker_awaited_until_returned CHECK (NOT awaited OR returned_at IS NULL),
    CONSTRAINT confirm_marker_shard_from_0 CHECK (shard >= 0)
);

COMMENT ON TABLE confirm_marker IS 'Messages that this service sends through its own confirm shards. When one has come back, everything that was in its shard before it is recorded.';
COMMENT ON COLUMN confirm_marker.number IS 'What the marker carries, a number that grows.';
COMMENT ON COLUMN confirm_marker.sent_at IS 'When it was about to be sent, on this database''s clock: the row is committed first.';
COMMENT ON COLUMN confirm_marker.returned_at IS 'When it had come back and everything before it was recorded, on this database''s clock. NULL before.';
COMMENT ON COLUMN confirm_marker.shard IS 'The confirm shard that it was sent through, a number from 0.';
COMMENT ON COLUMN confirm_marker.awaited IS 'Whether no other is sent through this shard yet. Not any more once it has returned or has been given up; one that was given up counts all the same if it returns.';

CREATE UNIQUE INDEX confirm_marker_awaited ON confirm_marker (shard) WHERE awaited;
CREATE INDEX confirm_marker_watermark ON confirm_marker (shard, sent_at) WHERE returned_at IS NOT NULL;

ALTER TABLE overdue
    ADD COLUMN missing_after timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN sent_at timestamptz;

COMMENT ON COLUMN overdue.missing_after IS 'The message counts as missing only when a confirm marker that was sent after this moment has come back, on this database''s clock. Its check''s coming due at first; when it is to be judged again, once its upstream has been asked. A deferral leaves it as it is.';
COMMENT ON COLUMN overdue.sent_at IS 'When what is waited for was sent, on its upstream''s clock: when its check was armed, then when it was published again. NULL if the upstream does not say.';

CREATE TABLE consumer_progress (
    confirmed_up_to timestamptz,
    progressed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    stalled_at timestamptz,
    consumer text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    CONSTRAINT consumer_progress_pkey PRIMARY KEY (consumer, upstream, queue)
) WITH (fillfactor = 50);

COMMENT ON TABLE consumer_progress IS 'How far each consumer is with the messages of each upstream that it gets through each queue. Times of one upstream are compared only with each other.';
COMMENT ON COLUMN consumer_progress.confirmed_up_to IS 'The newest publish that the consumer has had in hand (processed, rejected, or to be retried), on the upstream''s clock. NULL if its confirms do not say.';
COMMENT ON COLUMN consumer_progress.progressed_at IS 'When confirmed_up_to last grew (or, without it, when the consumer last confirmed), on this database''s clock.';
COMMENT ON COLUMN consumer_progress.stalled_at IS 'Since when the log has said that it makes no progress while messages wait, on this database''s clock. NULL while it is well.';
COMMENT ON COLUMN consumer_progress.consumer IS 'Whose confirms they are.';
COMMENT ON COLUMN consumer_progress.queue IS 'The queue that it says it got the messages through.';
COMMENT ON COLUMN consumer_progress.upstream IS 'Who sent them.';

CREATE TABLE queue_depth (
    claimed_at timestamptz NOT NULL,
    read_at timestamptz,
    empty_at timestamptz,
    ready bigint,
    held bigint,
    queue text COLLATE "C" NOT NULL,
    CONSTRAINT queue_depth_pkey PRIMARY KEY (queue),
    CONSTRAINT queue_depth_ready_if_read CHECK ((ready IS NOT NULL) = (read_at IS NOT NULL)),
    CONSTRAINT queue_depth_held_if_read CHECK (held IS NULL OR read_at IS NOT NULL),
    CONSTRAINT queue_depth_from_0 CHECK (ready >= 0 AND held >= 0)
) WITH (fillfactor = 50);

COMMENT ON TABLE queue_depth IS 'What lies in the queues that overdue messages may wait in. Read only while some do.';
COMMENT ON COLUMN queue_depth.claimed_at IS 'When a replica last began to read it, on this database''s clock.';
COMMENT ON COLUMN queue_depth.read_at IS 'When the reading that ready and held are from was begun, on this database''s clock. NULL before the first.';
COMMENT ON COLUMN queue_depth.empty_at IS 'When a reading was begun that found the queue empty and after which a confirm marker has come back: whatever had left the queue by then and was confirmed is recorded. On this database''s clock; it only grows.';
COMMENT ON COLUMN queue_depth.ready IS 'Messages that no consumer holds, as the queue itself says.';
COMMENT ON COLUMN queue_depth.held IS 'Messages ready or held by a consumer, as the management API says, which is late by up to COUNTERSIGN_MANAGEMENT_LAG. NULL if it is not asked or does not answer.';
COMMENT ON COLUMN queue_depth.queue IS 'Its name.';
