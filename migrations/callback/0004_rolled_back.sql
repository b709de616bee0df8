-- rolled_back: what upstreams say was never committed, so that its checks need not be asked about.

CREATE TABLE rolled_back (
    message_id uuid NOT NULL,
    arming bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    upstream text COLLATE "C" NOT NULL,
    CONSTRAINT rolled_back_pkey PRIMARY KEY (message_id, upstream, arming)
) PARTITION BY RANGE (message_id);

COMMENT ON TABLE rolled_back IS 'One row for each arming that its upstream dropped or rolled back: the check of this arming is settled when it comes due. Whole partitions are dropped after two days, longer than any check delay.';
COMMENT ON COLUMN rolled_back.message_id IS 'The message: a UUIDv7.';
COMMENT ON COLUMN rolled_back.arming IS 'Which arming of it, as the check carries it: 64 random bits, the highest as the sign.';
COMMENT ON COLUMN rolled_back.recorded_at IS 'When this service recorded it, on this database''s clock.';
COMMENT ON COLUMN rolled_back.upstream IS 'Whose word it is; it is believed about its own checks only.';
