-- ledger: what consumers have said about messages, and the messages that nobody has confirmed in
-- time.
--
-- Ids are UUIDv7, so they sort by the time of their making. What consumers say is partitioned by
-- that time: partitions are made ahead and dropped whole by the service, and there is no DEFAULT
-- partition, which would block adding others.

CREATE TABLE confirmation (
    message_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    attempt integer,
    consumer text COLLATE "C" NOT NULL,
    CONSTRAINT confirmation_pkey PRIMARY KEY (message_id, consumer),
    CONSTRAINT confirmation_attempt_from_1 CHECK (attempt >= 1)
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE confirmation IS 'One row for each consumer that has processed a message. Rows are only ever added; whole partitions are dropped after COUNTERSIGN_RETENTION.';
COMMENT ON COLUMN confirmation.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN confirmation.recorded_at IS 'When this service recorded it, on this database''s clock.';
COMMENT ON COLUMN confirmation.attempt IS 'Which publish of the message was processed, from 1. NULL if the consumer did not say.';
COMMENT ON COLUMN confirmation.consumer IS 'Who processed it.';

CREATE TABLE consumer_report (
    message_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz,
    consumer text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    CONSTRAINT consumer_report_pkey PRIMARY KEY (message_id, consumer),
    CONSTRAINT consumer_report_outcome CHECK (outcome IN ('rejected', 'retrying')),
    CONSTRAINT consumer_report_until_if_retrying CHECK ((until IS NOT NULL) = (outcome = 'retrying'))
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE consumer_report IS 'What consumers said instead of a confirm, one row for each message and consumer: rejected beats retrying, a later retrying an earlier one, and a row in confirmation beats both.';
COMMENT ON COLUMN consumer_report.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN consumer_report.recorded_at IS 'When this service recorded it, on this database''s clock.';
COMMENT ON COLUMN consumer_report.until IS 'When the consumer tries again, on the consumer''s clock. NULL unless retrying.';
COMMENT ON COLUMN consumer_report.consumer IS 'Whose word it is.';
COMMENT ON COLUMN consumer_report.outcome IS 'rejected: it will never be accepted. retrying: it failed, and the consumer tries again by itself.';
COMMENT ON COLUMN consumer_report.reason IS 'What the consumer said, up to 1,000 characters. May be empty.';

CREATE TABLE overdue (
    message_id uuid NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz,
    closed_at timestamptz,
    granted_at timestamptz,
    lease uuid,
    resends integer NOT NULL DEFAULT 0,
    granted integer NOT NULL DEFAULT 0,
    calls_not_made integer NOT NULL DEFAULT 0,
    upstream text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    cause text COLLATE "C" NOT NULL,
    consumers text[] COLLATE "C" NOT NULL,
    reason text NOT NULL,
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
    CONSTRAINT overdue_asking_counts CHECK (state <> 'asking' OR resends >= 1),
    CONSTRAINT overdue_counts_from_0 CHECK (resends >= 0 AND calls_not_made >= 0),
    CONSTRAINT overdue_granted_at_if_granted CHECK ((granted_at IS NOT NULL) = (granted > 0)),
    CONSTRAINT overdue_somebody_confirms CHECK (cardinality(consumers) >= 1)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE overdue IS 'One row for each message whose check came due unconfirmed. A row is never reopened by a later check.';
COMMENT ON COLUMN overdue.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN overdue.since IS 'When its check came due, on this database''s clock.';
COMMENT ON COLUMN overdue.due_at IS 'When somebody has to look at it again, on this database''s clock. waiting: it is judged then. asking: the lease ends then, and it is judged again. NULL in every other state.';
COMMENT ON COLUMN overdue.closed_at IS 'When it was closed, on this database''s clock. NULL unless confirmed, never_committed, withdrawn, conflict or closed_by_hand.';
COMMENT ON COLUMN overdue.granted_at IS 'When a person last asked for a resend, on this database''s clock. NULL if nobody has.';
COMMENT ON COLUMN overdue.lease IS 'The token of the replica''s round that is asking for it: only who holds it may write the answer. NULL unless asking.';
COMMENT ON COLUMN overdue.resends IS 'Resends asked for, a number from 0. The message''s first publish is attempt 1, so the next resend asks for attempt resends + 2.';
COMMENT ON COLUMN overdue.granted IS 'Up to how many resends a person has granted, whatever COUNTERSIGN_MAX_RESENDS says. 0 if nobody has.';
COMMENT ON COLUMN overdue.calls_not_made IS 'How many calls in a row surely were not made and used up no resend, a number from 0.';
COMMENT ON COLUMN overdue.upstream IS 'Who sent it and is asked to send it again.';
COMMENT ON COLUMN overdue.state IS 'waiting, asking or parked while open; confirmed, never_committed, withdrawn, conflict or closed_by_hand once closed.';
COMMENT ON COLUMN overdue.cause IS 'Why it is in this state, in one of a few words that can be counted, such as rejected.';
COMMENT ON COLUMN overdue.consumers IS 'Who has to confirm it: one or more, each once.';
COMMENT ON COLUMN overdue.reason IS 'Why it is in this state, for a person.';

CREATE INDEX overdue_due ON overdue (due_at) WHERE due_at IS NOT NULL;
-- Groups, and the rows of each in order: lists and counts are answered from it alone.
CREATE INDEX overdue_groups ON overdue (state, upstream, cause, consumers, since, message_id);
CREATE INDEX overdue_closed ON overdue (closed_at) WHERE closed_at IS NOT NULL;

CREATE TABLE overdue_event (
    event_id bigint GENERATED ALWAYS AS IDENTITY,
    message_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    resends integer NOT NULL,
    upstream text COLLATE "C" NOT NULL,
    from_state text COLLATE "C",
    to_state text COLLATE "C" NOT NULL,
    cause text COLLATE "C" NOT NULL,
    reason text NOT NULL,
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
        ('never_committed', 'conflict')
    ))
);

COMMENT ON TABLE overdue_event IS 'The history of overdue rows: one row for each change of state, written in the same transaction. A repeated deferral (waiting, and still waiting) leaves none.';
COMMENT ON COLUMN overdue_event.event_id IS 'A number that grows: the order of a message''s events.';
COMMENT ON COLUMN overdue_event.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN overdue_event.at IS 'When it happened, on this database''s clock.';
COMMENT ON COLUMN overdue_event.resends IS 'The resends asked for at that time, this one included: a number from 0.';
COMMENT ON COLUMN overdue_event.upstream IS 'Who sent the message.';
COMMENT ON COLUMN overdue_event.from_state IS 'The state before. NULL for the first event.';
COMMENT ON COLUMN overdue_event.to_state IS 'The state after. asking after asking: a lease ran out, and another replica asks.';
COMMENT ON COLUMN overdue_event.cause IS 'Why, in one of a few words that can be counted.';
COMMENT ON COLUMN overdue_event.reason IS 'Why, for a person.';
