-- What the sweep needs: who had to confirm each message, and how far the sweep is.

ALTER TABLE countersign.enlisted ADD COLUMN consumers text COLLATE "C";
COMMENT ON COLUMN countersign.enlisted.consumers IS
    'Who had to confirm the message when it was enlisted: names, separated by commas. NULL for a fence, and for what was enlisted before this column was there.';

CREATE TABLE countersign.sweep (
    only_row boolean NOT NULL DEFAULT true,
    position uuid,
    begun_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz NOT NULL,
    holder uuid NOT NULL,
    CONSTRAINT sweep_pkey PRIMARY KEY (only_row),
    CONSTRAINT sweep_has_one_row CHECK (only_row)
);

COMMENT ON TABLE countersign.sweep IS
    'How far the sweep over countersign.enlisted is. One row, and one process at a time that goes on from it. To have everything looked at again: UPDATE countersign.sweep SET position = NULL, until = now().';
COMMENT ON COLUMN countersign.sweep.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN countersign.sweep.position IS
    'The last id that was looked at: a UUIDv7. NULL: none yet, begin with the oldest.';
COMMENT ON COLUMN countersign.sweep.begun_at IS
    'When it last began with the oldest id, on this database''s clock.';
COMMENT ON COLUMN countersign.sweep.until IS
    'When another process may go on, on this database''s clock: while one walks, so that it is replaced when it dies; after a walk, the pause before the next.';
COMMENT ON COLUMN countersign.sweep.holder IS
    'The process that walks, or walked last: a UUID that it drew at its start.';
