//! What lapin's own API does not let a client do.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::client::SOON;
use super::servers::RabbitMq;

/// Publishes to `keycard.requests` with a correlation id that is no UTF-8, which AMQP and
/// `RabbitMQ` allow. The message's body is `unreadable`.
pub fn publish_unreadable(broker: &RabbitMq, vhost: &str, user: &str, password: &str) {
    // correlation-id, user-id
    let properties = [
        vec![0b0000_0100, 0b0001_0000],
        short(b"\xff\xfe"),
        short(user.as_bytes()),
    ];
    let properties = properties.concat();
    publish(broker, vhost, user, password, &properties, b"unreadable");
}

/// Publishes to `keycard.requests` with a header that holds an array in an array and so on, as deep
/// as a frame of 128 KiB takes it: `AMQPValue` could not be made that deep on a test's stack.
pub fn publish_nested(broker: &RabbitMq, vhost: &str, user: &str, password: &str, body: &[u8]) {
    const LEVELS: u32 = 26_000;
    let arrays = (0..LEVELS).rev().flat_map(|deeper| {
        let [a, b, c, d] = (5 * deeper).to_be_bytes();
        [b'A', a, b, c, d]
    });
    let entry = [short(b"deep"), arrays.collect()].concat();
    // headers, user-id
    let properties = [
        vec![0b0010_0000, 0b0001_0000],
        long(&entry),
        short(user.as_bytes()),
    ];
    publish(broker, vhost, user, password, &properties.concat(), body);
}

/// Publishes to `keycard.requests` with properties as they are on the wire: flags, then values.
fn publish(
    broker: &RabbitMq,
    vhost: &str,
    user: &str,
    password: &str,
    properties: &[u8],
    body: &[u8],
) {
    let mut stream = TcpStream::connect((broker.host.as_str(), broker.port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(SOON)))
        .unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    read_method(&mut stream, (10, 10));
    let response = format!("\0{user}\0{password}");
    let start_ok = [
        long(b""),
        short(b"PLAIN"),
        long(response.as_bytes()),
        short(b"en_US"),
    ];
    write_method(&mut stream, 0, (10, 11), &start_ok.concat());
    read_method(&mut stream, (10, 30));
    // 16 channels, frames of 128 KiB, no heartbeat.
    write_method(&mut stream, 0, (10, 31), &[0, 16, 0, 2, 0, 0, 0, 0]);
    let open = [short(vhost.as_bytes()), vec![0, 0]].concat();
    write_method(&mut stream, 0, (10, 40), &open);
    read_method(&mut stream, (10, 41));
    write_method(&mut stream, 1, (20, 10), &[0]);
    read_method(&mut stream, (20, 11));
    write_method(&mut stream, 1, (85, 10), &[0]);
    read_method(&mut stream, (85, 11));
    let publish = [vec![0, 0], short(b"keycard.requests"), vec![0, 0]].concat();
    write_method(&mut stream, 1, (60, 40), &publish);
    let length = (body.len() as u64).to_be_bytes();
    let header = [&[0, 60, 0, 0], &length[..], properties];
    write_frame(&mut stream, 2, 1, &header.concat());
    write_frame(&mut stream, 3, 1, body);
    read_method(&mut stream, (60, 80));
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes].concat()
}

fn write_method(stream: &mut TcpStream, channel: u16, id: (u16, u16), arguments: &[u8]) {
    let payload = [&id.0.to_be_bytes(), &id.1.to_be_bytes(), arguments].concat();
    write_frame(stream, 1, channel, &payload);
}

fn write_frame(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap();
    let frame = [
        &[kind][..],
        &channel.to_be_bytes(),
        &length.to_be_bytes(),
        payload,
        &[0xCE],
    ];
    stream.write_all(&frame.concat()).unwrap();
}

/// Reads one frame, which must be this method.
fn read_method(stream: &mut TcpStream, (class, method): (u16, u16)) {
    let mut head = [0; 7];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut payload = vec![0; length as usize + 1];
    stream.read_exact(&mut payload).unwrap();
    let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
    assert_eq!(
        payload[..4],
        expected,
        "{}",
        String::from_utf8_lossy(&payload)
    );
}
