-- Shipments: one for each order.
--
-- There is on purpose no unique key on the order: that an order is shipped once is the inbox's
-- work, and if it ever failed, the second shipment would show here.
CREATE TABLE shipments (
    shipment_id bigint GENERATED ALWAYS AS IDENTITY,
    order_id uuid NOT NULL,
    name text NOT NULL,
    shipped_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT shipments_pkey PRIMARY KEY (shipment_id),
    CONSTRAINT shipments_name_fits_a_label CHECK (char_length(name) BETWEEN 1 AND 40)
);

CREATE INDEX shipments_order_id ON shipments (order_id);

COMMENT ON TABLE shipments IS 'One shipment for each order that was placed.';
COMMENT ON COLUMN shipments.shipment_id IS 'Counts up; gaps are transactions that rolled back.';
COMMENT ON COLUMN shipments.order_id IS 'The order, as the upstream numbers it.';
COMMENT ON COLUMN shipments.name IS 'The name on the label, which holds 1 to 40 characters.';
COMMENT ON COLUMN shipments.shipped_at IS 'When it was shipped, on this database''s clock.';
