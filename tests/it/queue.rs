//! The queue port: one suite that every adapter passes, then what is an adapter's own.
//!
//! Only `amqp` has direct replies, headers and a topology that somebody else can change, and TLS
//! and protocol errors of its own. Only `postgres` keeps every delay in one hop, lets results be
//! read again, and grants by itself what services may do.

mod amqp;
mod conformance;
mod postgres;
