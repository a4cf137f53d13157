//! What infra/ gives to servers, given to real ones, and what runs there.

mod amqp;
mod image;
