-- Orders, and the message that announces each.
CREATE TABLE orders (
    order_id uuid NOT NULL,
    message_id uuid NOT NULL,
    name text NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz,
    CONSTRAINT orders_pkey PRIMARY KEY (order_id),
    CONSTRAINT orders_message_id_key UNIQUE (message_id),
    CONSTRAINT orders_name_is_said CHECK (btrim(name) <> ''),
    CONSTRAINT orders_name_is_short CHECK (char_length(name) <= 200)
);

COMMENT ON TABLE orders IS 'One row for each order.';
COMMENT ON COLUMN orders.order_id IS 'The order''s number.';
COMMENT ON COLUMN orders.message_id IS 'The message that announces the order, as Countersign knows it. A resend finds the order by it.';
COMMENT ON COLUMN orders.name IS 'The name of the goods, 1 to 200 characters.';
COMMENT ON COLUMN orders.placed_at IS 'When it was placed, on this database''s clock.';
COMMENT ON COLUMN orders.cancelled_at IS 'When it was cancelled, on this database''s clock: it is then not announced again. NULL unless it was.';
