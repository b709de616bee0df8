-- The ledger: the consumers' word about messages, the messages that were not confirmed in time, and
-- the service's and the operators' actions about them.
--
-- Ids are UUIDv7 and sort by the time of their making. Consumers and upstreams write at the rate of
-- all messages: confirmation, consumer_report and rolled_back are partitioned by id, a day
-- each, and the service makes partitions ahead and drops them whole. There is no DEFAULT partition:
-- rows in it would block the adding of others. Their keys begin with the id, as a key of a
-- partitioned table has to hold its partition key, and every look-up is by id.
--
-- Overdue rows are few, and stay until they are closed: one plain table. Its key is the id together
-- with the upstream: an id is unique everywhere, and if one is not, neither upstream hides the other's
-- message.
--
-- Columns stand in the order: identity, what never changes, what does, when it happened. Each
-- column's meaning, unit and clock are in the catalog: \d+ shows them. Names and states have the
-- collation "C": they are compared byte by byte, in the order in which the service sorts them.

-- The consumers' and upstreams' word about messages, partitioned by id.
CREATE TABLE confirmation (
    message_id uuid NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    attempt integer,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT confirmation_pkey PRIMARY KEY (message_id, consumer),
    CONSTRAINT confirmation_attempt_from_1 CHECK (attempt >= 1)
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE confirmation IS 'One row for each consumer that has processed a message. Rows are only ever added; whole partitions are dropped after COUNTERSIGN_RETENTION.';
COMMENT ON COLUMN confirmation.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN confirmation.consumer IS 'The consumer that processed it.';
COMMENT ON COLUMN confirmation.attempt IS 'Which publish of the message was processed, from 1. NULL if the consumer did not say.';
COMMENT ON COLUMN confirmation.recorded_at IS 'When this service recorded it, on this database''s clock.';

CREATE TABLE consumer_report (
    message_id uuid NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    until timestamptz,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT consumer_report_pkey PRIMARY KEY (message_id, consumer),
    CONSTRAINT consumer_report_outcome CHECK (outcome IN ('rejected', 'retrying')),
    CONSTRAINT consumer_report_until_if_retrying CHECK ((until IS NOT NULL) = (outcome = 'retrying'))
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE consumer_report IS 'Consumers'' reports instead of a confirm, one row for each message and consumer: rejected beats retrying, a later retrying an earlier one, and a row in confirmation beats both.';
COMMENT ON COLUMN consumer_report.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN consumer_report.consumer IS 'The consumer that said so.';
COMMENT ON COLUMN consumer_report.outcome IS 'rejected: it will never be accepted. retrying: it failed, and the consumer tries again by itself.';
COMMENT ON COLUMN consumer_report.reason IS 'What the consumer said, up to 1,000 characters. May be empty.';
COMMENT ON COLUMN consumer_report.until IS 'When the consumer tries again, on the consumer''s clock. NULL unless retrying.';
COMMENT ON COLUMN consumer_report.recorded_at IS 'When this service recorded it, on this database''s clock.';

CREATE TABLE rolled_back (
    message_id uuid NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    arming bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT rolled_back_pkey PRIMARY KEY (message_id, upstream, arming)
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE rolled_back IS 'One row for each arming that its upstream dropped or rolled back: the check of this arming is settled when it comes due. Whole partitions are dropped after two days, longer than any check delay.';
COMMENT ON COLUMN rolled_back.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN rolled_back.upstream IS 'The upstream that says so; it is believed about its own checks only.';
COMMENT ON COLUMN rolled_back.arming IS 'Which arming of it, as the check carries it: 64 random bits, the highest as the sign.';
COMMENT ON COLUMN rolled_back.recorded_at IS 'When this service recorded it, on this database''s clock.';

-- The messages that were not confirmed in time. docs/states.md draws the states.
CREATE TABLE overdue (
    message_id uuid NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    database uuid,
    consumers text[] COLLATE "C" NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    state text COLLATE "C" NOT NULL,
    due_at timestamptz,
    lease uuid,
    cause text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    resends integer NOT NULL DEFAULT 0,
    calls_not_made integer NOT NULL DEFAULT 0,
    granted integer NOT NULL DEFAULT 0,
    granted_at timestamptz,
    granted_by_person boolean NOT NULL DEFAULT false,
    sent_at timestamptz,
    missing_after timestamptz NOT NULL DEFAULT now(),
    confirmed text[] COLLATE "C" NOT NULL DEFAULT '{}',
    parked_at timestamptz,
    closed_at timestamptz,
    CONSTRAINT overdue_pkey PRIMARY KEY (message_id, upstream),
    CONSTRAINT overdue_state CHECK (state IN (
        'waiting', 'asking', 'parked', 'confirmed', 'never_committed', 'withdrawn', 'conflict',
        'closed_by_hand'
    )),
    CONSTRAINT overdue_due_if_open CHECK ((due_at IS NOT NULL) = (state IN ('waiting', 'asking'))),
    CONSTRAINT overdue_lease_if_asking CHECK ((lease IS NOT NULL) = (state = 'asking')),
    CONSTRAINT overdue_closed_at_if_closed CHECK (
        (closed_at IS NOT NULL)
        = (state IN ('confirmed', 'never_committed', 'withdrawn', 'conflict', 'closed_by_hand'))
    ),
    CONSTRAINT overdue_parked_at_only_if_parked CHECK (parked_at IS NULL OR state = 'parked'),
    CONSTRAINT overdue_asking_counts CHECK (state <> 'asking' OR resends >= 1),
    CONSTRAINT overdue_counts_from_0 CHECK (resends >= 0 AND calls_not_made >= 0),
    CONSTRAINT overdue_granted_at_if_granted CHECK ((granted_at IS NOT NULL) = (granted > 0)),
    CONSTRAINT overdue_has_a_consumer CHECK (cardinality(consumers) >= 1)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE overdue IS 'One row for each message whose check came due unconfirmed. A later check adds its consumers to the row.';
COMMENT ON COLUMN overdue.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN overdue.upstream IS 'The upstream that sent it and is asked to send it again.';
COMMENT ON COLUMN overdue.database IS 'The database in which the message''s transaction commits, as its check named it: no other may say that it never committed. NULL if no check named one. The nil UUID, which no database has, if two checks named different ones.';
COMMENT ON COLUMN overdue.consumers IS 'The consumers that have to confirm it: one or more, each once.';
COMMENT ON COLUMN overdue.since IS 'When its check came due, or the row was opened again, on this database''s clock.';
COMMENT ON COLUMN overdue.state IS 'waiting, asking or parked while open; confirmed, never_committed, withdrawn, conflict or closed_by_hand once closed.';
COMMENT ON COLUMN overdue.due_at IS 'When the service judges it again, on this database''s clock. waiting: it is judged then. asking: the lease ends then, and it is judged again. NULL in every other state.';
COMMENT ON COLUMN overdue.lease IS 'The token of the replica''s round that is asking for it: only the replica that holds it may write the answer. NULL unless asking.';
COMMENT ON COLUMN overdue.cause IS 'Why it is in this state, in one of a few words that can be counted, such as rejected.';
COMMENT ON COLUMN overdue.reason IS 'Why it is in this state, for a person.';
COMMENT ON COLUMN overdue.resends IS 'Resends asked for, a number from 0. The message''s first publish is attempt 1, so the next resend asks for attempt resends + 2.';
COMMENT ON COLUMN overdue.calls_not_made IS 'How many calls in a row surely were not made and used up no resend, a number from 0.';
COMMENT ON COLUMN overdue.granted IS 'Up to how many resends an operator, or the row''s being opened again, has granted, whatever COUNTERSIGN_MAX_RESENDS says. 0 if no operator has.';
COMMENT ON COLUMN overdue.granted_at IS 'When an operator last asked for a resend, on this database''s clock. NULL if no operator has.';
COMMENT ON COLUMN overdue.granted_by_person IS 'Whether an operator has granted the resends, and not the row''s being opened again: such a resend is made although the consumer may be behind.';
COMMENT ON COLUMN overdue.sent_at IS 'When the awaited publish was sent, on its upstream''s clock: when its check was armed, then when it was published again. NULL if the upstream does not say.';
COMMENT ON COLUMN overdue.missing_after IS 'The message counts as missing only when a confirm marker that was sent after this moment has come back, on this database''s clock. Its check''s coming due at first; when it is to be judged again, once its upstream has been asked. A deferral leaves it as it is.';
COMMENT ON COLUMN overdue.confirmed IS 'The consumers that had confirmed it when it was parked: a parked row may outlive their rows in confirmation.';
COMMENT ON COLUMN overdue.parked_at IS 'When it was parked, on this database''s clock: after COUNTERSIGN_PARKED_RETENTION it is deleted. NULL unless parked.';
COMMENT ON COLUMN overdue.closed_at IS 'When it was closed, on this database''s clock. NULL unless confirmed, never_committed, withdrawn, conflict or closed_by_hand.';

-- The service looks for due rows upstream by upstream: those of a paused upstream are not read.
CREATE INDEX overdue_due ON overdue (upstream, due_at) WHERE due_at IS NOT NULL;
-- Resends under way and lost, for the budget of an upstream. A deferral waits for a consumer that is
-- behind or tries again: it is no canary, and there may be a million of them.
CREATE INDEX overdue_resent ON overdue (upstream, due_at)
    WHERE due_at IS NOT NULL AND resends >= 1
      AND (state = 'asking' OR cause IN ('republished', 'unanswered'));
-- Rows of a paused upstream that are to be given up. An operator's grant moves that time.
CREATE INDEX overdue_open ON overdue (upstream, greatest(since, granted_at))
    WHERE due_at IS NOT NULL;
-- Groups, and the rows of each in order: lists and counts are answered from it alone.
CREATE INDEX overdue_groups ON overdue (state, upstream, cause, consumers, since, message_id);
-- Rows to delete. A conflict stays for an operator.
CREATE INDEX overdue_closed ON overdue (state, closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX overdue_parked ON overdue (parked_at) WHERE parked_at IS NOT NULL;

CREATE TABLE overdue_event (
    message_id uuid NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    event_id bigint GENERATED ALWAYS AS IDENTITY,
    from_state text COLLATE "C",
    to_state text COLLATE "C" NOT NULL,
    cause text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    resends integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT overdue_event_pkey PRIMARY KEY (message_id, upstream, event_id),
    CONSTRAINT overdue_event_of_overdue FOREIGN KEY (message_id, upstream)
        REFERENCES overdue (message_id, upstream) ON DELETE CASCADE,
    CONSTRAINT overdue_event_transition CHECK ((coalesce(from_state, ''), to_state) IN (
        ('', 'waiting'),
        ('waiting', 'asking'),
        ('waiting', 'parked'),
        ('waiting', 'confirmed'),
        ('asking', 'waiting'),
        ('asking', 'asking'),
        ('asking', 'parked'),
        ('asking', 'confirmed'),
        ('asking', 'never_committed'),
        ('asking', 'withdrawn'),
        ('asking', 'conflict'),
        ('parked', 'confirmed'),
        ('parked', 'waiting'),
        ('waiting', 'closed_by_hand'),
        ('asking', 'closed_by_hand'),
        ('parked', 'closed_by_hand'),
        ('conflict', 'closed_by_hand'),
        ('confirmed', 'conflict'),
        ('confirmed', 'waiting'),
        ('conflict', 'waiting'),
        ('never_committed', 'conflict')
    ))
);

COMMENT ON TABLE overdue_event IS 'The history of overdue rows: one row for each change of state, written in the same transaction. A repeated deferral (waiting, and still waiting) leaves none.';
COMMENT ON COLUMN overdue_event.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN overdue_event.upstream IS 'The upstream that sent the message.';
COMMENT ON COLUMN overdue_event.event_id IS 'A number that grows: the order of a message''s events.';
COMMENT ON COLUMN overdue_event.from_state IS 'The state before. NULL for the first event.';
COMMENT ON COLUMN overdue_event.to_state IS 'The state after. asking after asking: a lease ran out, and another replica asks.';
COMMENT ON COLUMN overdue_event.cause IS 'Why, in one of a few words that can be counted.';
COMMENT ON COLUMN overdue_event.reason IS 'Why, for a person.';
COMMENT ON COLUMN overdue_event.resends IS 'The resends asked for at that time, this one included: a number from 0.';
COMMENT ON COLUMN overdue_event.at IS 'When it happened, on this database''s clock.';

-- The operators' jobs. Each job is the record of what an operator did: none is ever deleted.
CREATE TABLE job (
    job_id uuid NOT NULL,
    action text COLLATE "C" NOT NULL,
    selection text NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    rate double precision,
    items bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    reason text NOT NULL DEFAULT '',
    step bigint NOT NULL,
    begins_at timestamptz,
    begun bigint NOT NULL DEFAULT 0,
    succeeded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    items_kept boolean NOT NULL DEFAULT true,
    cancelled_at timestamptz,
    ended_at timestamptz,
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

COMMENT ON TABLE job IS 'What an operator does, or has done, about some messages. Never deleted.';
COMMENT ON COLUMN job.job_id IS 'The job.';
COMMENT ON COLUMN job.action IS 'resend, close or note.';
COMMENT ON COLUMN job.selection IS 'Which messages it is about, as it was asked for: a filter, or how many ids.';
COMMENT ON COLUMN job.who IS 'The operator that asked for it, as given.';
COMMENT ON COLUMN job.why IS 'The operator''s reason, as given.';
COMMENT ON COLUMN job.rate IS 'The most items begun in a second. NULL: as many as there are.';
COMMENT ON COLUMN job.items IS 'How many messages it is about, a number from 0.';
COMMENT ON COLUMN job.state IS 'running; done; cancelled by an operator; stopped by itself, see reason. The latter two begin nothing more, and what is begun comes to its end.';
COMMENT ON COLUMN job.reason IS 'The operator that cancelled it and the reason, or why it stopped by itself. Empty otherwise.';
COMMENT ON COLUMN job.step IS 'How many items may be begun in all at this step, those left out not counted. 0: all.';
COMMENT ON COLUMN job.begins_at IS 'When its rate lets the next item begin, on this database''s clock. NULL before the first, and without a rate.';
COMMENT ON COLUMN job.begun IS 'How many of its items are begun and not counted as ended, a number from 0.';
COMMENT ON COLUMN job.succeeded IS 'How many of its items ended well, a number from 0.';
COMMENT ON COLUMN job.failed IS 'How many of its items ended otherwise, a number from 0.';
COMMENT ON COLUMN job.skipped IS 'How many of its items were left out, a number from 0. Items begin in the order of their position: those above begun + succeeded + failed + skipped are pending.';
COMMENT ON COLUMN job.created_at IS 'When an operator asked for it, on this database''s clock.';
COMMENT ON COLUMN job.items_kept IS 'Whether its items are still there: they are deleted COUNTERSIGN_PARKED_RETENTION after its end.';
COMMENT ON COLUMN job.cancelled_at IS 'When an operator cancelled it, on this database''s clock. NULL unless cancelled.';
COMMENT ON COLUMN job.ended_at IS 'When its last item ended, on this database''s clock. NULL until then, also if it is cancelled or stopped.';

CREATE INDEX job_open ON job (job_id) WHERE ended_at IS NULL;
CREATE INDEX job_ended ON job (ended_at) WHERE items_kept AND ended_at IS NOT NULL;
CREATE INDEX job_newest ON job (created_at, job_id);

CREATE TABLE job_item (
    job_id uuid NOT NULL,
    position bigint NOT NULL,
    message_id uuid NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'pending',
    result text NOT NULL DEFAULT '',
    counted boolean NOT NULL DEFAULT FALSE,
    ended_at timestamptz,
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

COMMENT ON TABLE job_item IS 'What became of each message of a job. Deleted COUNTERSIGN_PARKED_RETENTION after the end of the job.';
COMMENT ON COLUMN job_item.job_id IS 'The job.';
COMMENT ON COLUMN job_item.position IS 'Items begin in this order, from 1.';
COMMENT ON COLUMN job_item.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN job_item.upstream IS 'The upstream that sent the message. Empty if the message was not overdue.';
COMMENT ON COLUMN job_item.state IS 'pending; begun, and the outcome is waited for; succeeded; failed; skipped.';
COMMENT ON COLUMN job_item.result IS 'What came of it, for a person. Empty while pending.';
COMMENT ON COLUMN job_item.counted IS 'Whether its end is in the counts of its job. An item ends together with its overdue row, in the statement that changes it; only the replica that works on the job counts.';
COMMENT ON COLUMN job_item.ended_at IS 'When it ended, on this database''s clock. NULL while pending or begun.';

CREATE INDEX job_item_message ON job_item (message_id);
CREATE INDEX job_item_begun ON job_item (message_id, upstream) WHERE state = 'begun';
CREATE INDEX job_item_uncounted ON job_item (job_id) WHERE ended_at IS NOT NULL AND NOT counted;

-- How far confirms are recorded, and how far consumers are.
CREATE TABLE confirm_marker (
    number bigint GENERATED ALWAYS AS IDENTITY,
    shard integer NOT NULL,
    awaited boolean NOT NULL DEFAULT true,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    returned_at timestamptz,
    CONSTRAINT confirm_marker_pkey PRIMARY KEY (number),
    CONSTRAINT confirm_marker_awaited_until_returned CHECK (NOT awaited OR returned_at IS NULL),
    CONSTRAINT confirm_marker_shard_from_0 CHECK (shard >= 0)
);

COMMENT ON TABLE confirm_marker IS 'Messages that this service sends through its own confirm shards. When one has come back, everything that was in its shard before it is recorded: shard_watermark says so, and the marker is deleted a minute later.';
COMMENT ON COLUMN confirm_marker.number IS 'The number that the marker carries; it grows.';
COMMENT ON COLUMN confirm_marker.shard IS 'The confirm shard that it was sent through, a number from 0.';
COMMENT ON COLUMN confirm_marker.awaited IS 'Whether the service waits for this marker and sends no other through its shard. False once the marker has returned or was given up; a marker that was given up still counts if it returns.';
COMMENT ON COLUMN confirm_marker.sent_at IS 'When it was about to be sent, on this database''s clock: the row is committed first.';
COMMENT ON COLUMN confirm_marker.returned_at IS 'When it had come back and everything before it was recorded, on this database''s clock. NULL before.';

-- One marker at a time is awaited in each shard, whatever the number of replicas.
CREATE UNIQUE INDEX confirm_marker_awaited ON confirm_marker (shard) WHERE awaited;
-- The oldest that is missed in a shard. Those that have come back are deleted after a minute.
CREATE INDEX confirm_marker_missed ON confirm_marker (shard, sent_at) WHERE returned_at IS NULL;

CREATE TABLE confirm_shard (
    shard integer NOT NULL,
    CONSTRAINT confirm_shard_pkey PRIMARY KEY (shard),
    CONSTRAINT confirm_shard_from_0 CHECK (shard >= 0)
);

COMMENT ON TABLE confirm_shard IS 'Every confirm shard that a replica was ever configured with: all are consumed and waited for, because consumers may still confirm through each.';
COMMENT ON COLUMN confirm_shard.shard IS 'The confirm shard, a number from 0.';

CREATE TABLE shard_watermark (
    shard integer NOT NULL,
    sent_at timestamptz NOT NULL,
    CONSTRAINT shard_watermark_pkey PRIMARY KEY (shard),
    CONSTRAINT shard_watermark_shard_from_0 CHECK (shard >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE shard_watermark IS 'How far each confirm shard is recorded. One row for each shard through which a marker ever came back; it is read many times a second, so it does not have to be looked for among the markers.';
COMMENT ON COLUMN shard_watermark.shard IS 'The confirm shard, a number from 0.';
COMMENT ON COLUMN shard_watermark.sent_at IS 'When the newest of its markers that have come back was about to be sent, on this database''s clock: everything that was in the shard before is recorded. It only grows.';

CREATE TABLE consumer_progress (
    consumer text COLLATE "C" NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    confirmed_up_to timestamptz,
    confirms bigint NOT NULL DEFAULT 0,
    stalled_at timestamptz,
    progressed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT consumer_progress_pkey PRIMARY KEY (consumer, upstream, queue)
) WITH (fillfactor = 50);

COMMENT ON TABLE consumer_progress IS 'How far each consumer is with the messages of each upstream that it gets through each queue. Times of one upstream are compared only with each other.';
COMMENT ON COLUMN consumer_progress.consumer IS 'The consumer that confirms them.';
COMMENT ON COLUMN consumer_progress.upstream IS 'The upstream that sent them.';
COMMENT ON COLUMN consumer_progress.queue IS 'The queue that it says it got the messages through.';
COMMENT ON COLUMN consumer_progress.confirmed_up_to IS 'The newest publish that the consumer has had in hand (processed, rejected, or to be retried), on the upstream''s clock. NULL if its confirms do not say.';
COMMENT ON COLUMN consumer_progress.confirms IS 'How many messages the consumer has confirmed as processed, each counted once and a few perhaps not at all. It only grows, while the row lives.';
COMMENT ON COLUMN consumer_progress.stalled_at IS 'Since when the log has said that it makes no progress while messages wait, on this database''s clock. NULL while it is well.';
COMMENT ON COLUMN consumer_progress.progressed_at IS 'When confirmed_up_to last grew (or, without it, when the consumer last confirmed), on this database''s clock.';

CREATE TABLE queue_depth (
    queue text COLLATE "C" NOT NULL,
    claimed_at timestamptz NOT NULL,
    claimed_since timestamptz NOT NULL,
    read_at timestamptz,
    ready bigint,
    held bigint,
    empty_at timestamptz,
    nobody_since timestamptz,
    left_since timestamptz,
    passing_from timestamptz,
    passing_need bigint,
    passing_base bigint,
    passed_to timestamptz,
    CONSTRAINT queue_depth_pkey PRIMARY KEY (queue),
    CONSTRAINT queue_depth_ready_if_read CHECK ((ready IS NOT NULL) = (read_at IS NOT NULL)),
    CONSTRAINT queue_depth_held_if_read CHECK (held IS NULL OR read_at IS NOT NULL),
    CONSTRAINT queue_depth_passing_needs CHECK ((passing_from IS NOT NULL) = (passing_need IS NOT NULL)),
    CONSTRAINT queue_depth_passing_base CHECK (passing_base IS NULL OR passing_from IS NOT NULL),
    CONSTRAINT queue_depth_from_0 CHECK (ready >= 0 AND held >= 0 AND passing_need >= 0 AND passing_base >= 0)
) WITH (fillfactor = 50);

COMMENT ON TABLE queue_depth IS 'The depths of the queues that overdue messages may wait in. The service reads a queue only while some do.';
COMMENT ON COLUMN queue_depth.queue IS 'The queue''s name.';
COMMENT ON COLUMN queue_depth.claimed_at IS 'When a replica last began to read it, on this database''s clock.';
COMMENT ON COLUMN queue_depth.claimed_since IS 'Since when replicas have read it again and again, without a pause of two minutes, on this database''s clock.';
COMMENT ON COLUMN queue_depth.read_at IS 'When the reading that ready and held are from was begun, on this database''s clock. NULL before the first.';
COMMENT ON COLUMN queue_depth.ready IS 'Messages that no consumer holds, as the queue itself says.';
COMMENT ON COLUMN queue_depth.held IS 'Messages ready or held by a consumer, as the management API says, which is late by up to COUNTERSIGN_MANAGEMENT_LAG. NULL if it is not asked or does not answer.';
COMMENT ON COLUMN queue_depth.empty_at IS 'When a reading was begun that found the queue empty and after which a confirm marker has come back: whatever had left the queue by then and was confirmed is recorded. On this database''s clock; it only grows.';
COMMENT ON COLUMN queue_depth.nobody_since IS 'Since when it has been told as one without messages and without consumers, on this database''s clock. RabbitMQ says so, too, while the queue''s leader does not answer. NULL otherwise.';
COMMENT ON COLUMN queue_depth.left_since IS 'Since when it has had no consumer and always the same number of ready messages, on this database''s clock. NULL otherwise.';
COMMENT ON COLUMN queue_depth.passing_from IS 'The reading that a count of confirms began with, on this database''s clock. NULL while none is under way.';
COMMENT ON COLUMN queue_depth.passing_need IS 'When more than so many confirms have come, the consumers have passed what lay in it at passing_from.';
COMMENT ON COLUMN queue_depth.passing_base IS 'How many confirms of its messages were recorded when a marker sent after passing_from had come back. NULL until then.';
COMMENT ON COLUMN queue_depth.passed_to IS 'What lay in it before this moment has been passed by its consumers, on this database''s clock; it only grows.';

-- How fast each upstream is asked for resends, agreed on by all replicas.
CREATE TABLE upstream_pace (
    upstream text COLLATE "C" NOT NULL,
    tokens double precision NOT NULL,
    refilled_at timestamptz NOT NULL DEFAULT now(),
    canaries integer,
    canaries_only boolean NOT NULL DEFAULT false,
    CONSTRAINT upstream_pace_pkey PRIMARY KEY (upstream),
    CONSTRAINT upstream_pace_tokens_from_0 CHECK (tokens >= 0),
    CONSTRAINT upstream_pace_canaries_from_1 CHECK (canaries >= 1),
    CONSTRAINT upstream_pace_canaries_if_only CHECK (canaries IS NOT NULL OR NOT canaries_only)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE upstream_pace IS 'One row for each upstream that the service ever asked: how many resends the service may ask it for now. Read and written in the transaction that takes the leases.';
COMMENT ON COLUMN upstream_pace.upstream IS 'The upstream.';
COMMENT ON COLUMN upstream_pace.tokens IS 'How many resends the service could ask it for at refilled_at; COUNTERSIGN_RESEND_RATE are added each second, up to a quarter of a second''s worth.';
COMMENT ON COLUMN upstream_pace.refilled_at IS 'When tokens and canaries were last decided on, on this database''s clock.';
COMMENT ON COLUMN upstream_pace.canaries IS 'How many of its resends may be unconfirmed at once, a number from 1. NULL while not much is missing.';
COMMENT ON COLUMN upstream_pace.canaries_only IS 'Whether canaries holds resends back. False with canaries set: much is missing, and so many resends were confirmed that nothing is held back.';

CREATE TABLE upstream_tally (
    upstream text COLLATE "C" NOT NULL,
    half_minute bigint NOT NULL,
    looked_up bigint NOT NULL DEFAULT 0,
    unconfirmed bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,
    not_missing bigint NOT NULL DEFAULT 0,
    CONSTRAINT upstream_tally_pkey PRIMARY KEY (upstream, half_minute),
    CONSTRAINT upstream_tally_counts_from_0 CHECK (
        looked_up >= 0 AND unconfirmed >= 0 AND missing >= 0 AND not_missing >= 0
    )
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE upstream_tally IS 'What became of each upstream''s checks lately, in half minutes. Older ones are deleted.';
COMMENT ON COLUMN upstream_tally.upstream IS 'The upstream whose checks they are.';
COMMENT ON COLUMN upstream_tally.half_minute IS 'Which half minute, on this database''s clock: seconds since 1970, divided by 30 and rounded down.';
COMMENT ON COLUMN upstream_tally.looked_up IS 'Checks that came due, a number from 0.';
COMMENT ON COLUMN upstream_tally.unconfirmed IS 'Of these, the messages that became overdue, a number from 0.';
COMMENT ON COLUMN upstream_tally.missing IS 'Answers that say that a message had not arrived, as far as the upstream can tell (REPUBLISHED, UNKNOWN), a number from 0.';
COMMENT ON COLUMN upstream_tally.not_missing IS 'Answers that say that there is no message to arrive (NEVER_COMMITTED, IN_PROGRESS, WITHDRAWN), a number from 0.';

-- How far upstreams' sweeps are, as they say.
CREATE TABLE upstream_sweep (
    upstream text COLLATE "C" NOT NULL,
    database uuid NOT NULL,
    check_delay_ms bigint NOT NULL,
    behind_ms bigint NOT NULL,
    walk_at timestamptz,
    walk_began_at timestamptz,
    told_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT upstream_sweep_pkey PRIMARY KEY (upstream, database, check_delay_ms),
    CONSTRAINT upstream_sweep_from_0 CHECK (check_delay_ms >= 0 AND behind_ms >= 0),
    CONSTRAINT upstream_sweep_walk_is_whole CHECK ((walk_at IS NULL) = (walk_began_at IS NULL))
) WITH (fillfactor = 50);

COMMENT ON TABLE upstream_sweep IS 'How far each upstream''s sweeps are, as they last said: one row for each database and check delay. For people; nothing is decided from it.';
COMMENT ON COLUMN upstream_sweep.upstream IS 'The upstream that sweeps.';
COMMENT ON COLUMN upstream_sweep.database IS 'The database that it sweeps. The nil UUID, which no database has, if it does not say.';
COMMENT ON COLUMN upstream_sweep.check_delay_ms IS 'The check delay of the messages that the sweep looks at, in milliseconds.';
COMMENT ON COLUMN upstream_sweep.behind_ms IS 'How far its head is behind the newest message that it has to ask about, in milliseconds.';
COMMENT ON COLUMN upstream_sweep.walk_at IS 'When the last message was made that its walk has asked about, on the upstream''s clock. NULL if no walk is under way.';
COMMENT ON COLUMN upstream_sweep.walk_began_at IS 'When that walk began, on the upstream''s database''s clock. NULL if none is under way.';
COMMENT ON COLUMN upstream_sweep.told_at IS 'When the sweep said so, on this database''s clock. Deleted after COUNTERSIGN_RETENTION.';
