//! What infra/ gives to servers, given to real ones. It is rendered by Terraform, without providers.

mod amqp;
