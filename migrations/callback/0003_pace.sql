-- pace: how fast each upstream is asked for resends, agreed on by all replicas.

CREATE TABLE upstream_pace (
    refilled_at timestamptz NOT NULL DEFAULT now(),
    tokens double precision NOT NULL,
    canaries integer,
    canaries_only boolean NOT NULL DEFAULT false,
    upstream text COLLATE "C" NOT NULL,
    CONSTRAINT upstream_pace_pkey PRIMARY KEY (upstream),
    CONSTRAINT upstream_pace_tokens_from_0 CHECK (tokens >= 0),
    CONSTRAINT upstream_pace_canaries_from_1 CHECK (canaries >= 1),
    CONSTRAINT upstream_pace_canaries_if_only CHECK (canaries IS NOT NULL OR NOT canaries_only)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE upstream_pace IS 'One row for each upstream that was ever asked: how many resends it may be asked for now. Read and written in the transaction that takes the leases.';
COMMENT ON COLUMN upstream_pace.refilled_at IS 'When tokens and canaries were last decided on, on this database''s clock.';
COMMENT ON COLUMN upstream_pace.tokens IS 'How many resends it could be asked for at refilled_at; COUNTERSIGN_RESEND_RATE are added each second, up to a quarter of a second''s worth.';
COMMENT ON COLUMN upstream_pace.canaries IS 'How many of its resends may be unconfirmed at once, a number from 1. NULL while not much is missing.';
COMMENT ON COLUMN upstream_pace.canaries_only IS 'Whether canaries holds resends back. False with canaries set: much is missing, and so many resends were confirmed that nothing is held back.';
COMMENT ON COLUMN upstream_pace.upstream IS 'Who is asked.';

CREATE TABLE upstream_tally (
    half_minute bigint NOT NULL,
    looked_up bigint NOT NULL DEFAULT 0,
    unconfirmed bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,
    not_missing bigint NOT NULL DEFAULT 0,
    upstream text COLLATE "C" NOT NULL,
    CONSTRAINT upstream_tally_pkey PRIMARY KEY (upstream, half_minute),
    CONSTRAINT upstream_tally_counts_from_0 CHECK (
        looked_up >= 0 AND unconfirmed >= 0 AND missing >= 0 AND not_missing >= 0
    )
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE upstream_tally IS 'What became of each upstream''s checks lately, in half minutes. Older ones are deleted.';
COMMENT ON COLUMN upstream_tally.half_minute IS 'Which half minute, on this database''s clock: seconds since 1970, divided by 30 and rounded down.';
COMMENT ON COLUMN upstream_tally.looked_up IS 'Checks that came due, a number from 0.';
COMMENT ON COLUMN upstream_tally.unconfirmed IS 'Of these, the messages that became overdue, a number from 0.';
COMMENT ON COLUMN upstream_tally.missing IS 'Answers that say that a message had not arrived, as far as the upstream can tell (REPUBLISHED, UNKNOWN), a number from 0.';
COMMENT ON COLUMN upstream_tally.not_missing IS 'Answers that say that there is no message to arrive (NEVER_COMMITTED, IN_PROGRESS, WITHDRAWN), a number from 0.';
COMMENT ON COLUMN upstream_tally.upstream IS 'Whose checks.';

-- What is due is looked for upstream by upstream: the rows of one that is left alone are not read.
DROP INDEX overdue_due;
CREATE INDEX overdue_due ON overdue (upstream, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX overdue_open ON overdue (upstream, (greatest(since, granted_at))) WHERE due_at IS NOT NULL;
CREATE INDEX overdue_resent ON overdue (upstream, due_at) WHERE due_at IS NOT NULL AND resends >= 1;
