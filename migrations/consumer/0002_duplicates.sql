-- How often a message came again after it had taken effect.
--
-- A constant default is kept in the catalog: no row of the inbox is rewritten.
ALTER TABLE countersign.inbox
    ADD COLUMN duplicates integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT inbox_duplicates_from_0 CHECK (duplicates >= 0);

COMMENT ON COLUMN countersign.inbox.duplicates IS 'Further deliveries of it, which had no effect: a number from 0. Each is counted before it is confirmed; one that is interrupted between the two is counted again.';
