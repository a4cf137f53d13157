//! The queue port: one suite that every adapter passes, then what is an adapter's own.

mod amqp;
mod conformance;
