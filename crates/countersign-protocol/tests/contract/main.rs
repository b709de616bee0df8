//! Holds the wire contract: the golden files, printing and parsing, what hostile input can do, and
//! what must stand in the broker.

mod golden;

mod generate;

mod round_trip;

mod hostile;

mod header;

mod topology;

mod grpc;
