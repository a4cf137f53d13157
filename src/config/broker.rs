//! The broker's URL, taken apart here because lapin's parser takes an IPv6 host for localhost and a
//! missing user for guest, and repeats the whole URL in its errors.

use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};
use percent_encoding::percent_decode_str;

use super::conninfo::UrlFault;

const EXAMPLE: &str = "write it like amqps://keycard@broker.example.com:5671/keycard";

/// Query parameters that lapin reads and that make sense here.
const OPTIONS: [&str; 4] = [
    "heartbeat",
    "connection_timeout",
    "frame_max",
    "channel_max",
];

/// Takes `amqps://user@host:port/vhost` apart; the password in it stays empty. Without a virtual
/// host, or with an empty one, it is `/`.
pub(super) fn parse(url: &str) -> Result<AMQPUri, UrlFault> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("amqps", rest)) => (AMQPScheme::AMQPS, rest),
        Some(("amqp", rest)) => (AMQPScheme::AMQP, rest),
        Some(_) | None => return fault("does not begin with amqps:// or amqp://"),
    };
    // A password that is not percent-encoded may hold a slash, so the last @ decides.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((userinfo, _)) if userinfo.contains(':') => {
            return Err((
                "holds a password".to_owned(),
                r#"take it out and set password = { env = "NAME" }"#.to_owned(),
            ));
        }
        Some((user, _)) if user.contains(['/', '?', '@']) => {
            return fault("has an @ that is not between user and host (write %40 for it)");
        }
        Some((user, rest)) => (decoded(user)?, rest),
        None => (String::new(), rest),
    };
    if user.is_empty() {
        return fault("names no user");
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
    let vhost = match decoded(vhost)? {
        vhost if vhost.is_empty() => "/".to_owned(),
        vhost => vhost,
    };
    let (host, port) = match authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return fault("names no host");
    }
    let port = match port.map(str::parse::<u16>) {
        None => scheme.default_port(),
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return fault("has an invalid port"),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if !OPTIONS.contains(&pair.split('=').next().unwrap_or(pair)) {
            return Err((
                "has an option that keycard does not know".to_owned(),
                format!("known: {}", OPTIONS.join(", ")),
            ));
        }
    }
    let options: Result<AMQPUri, _> = format!("amqp://host/?{query}").parse();
    let Ok(options) = options else {
        return fault("has an option whose value is no number");
    };
    Ok(AMQPUri {
        scheme,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: user,
                password: String::new(),
            },
            host: host.to_owned(),
            port,
        },
        vhost,
        query: options.query,
    })
}

fn fault<T>(problem: &str) -> Result<T, UrlFault> {
    Err((problem.to_owned(), EXAMPLE.to_owned()))
}

fn decoded(text: &str) -> Result<String, UrlFault> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => fault("is not UTF-8 once decoded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, user, host, port, vhost) in [
            (
                "amqps://keycard@b.example.com:5671/keycard",
                "keycard",
                "b.example.com",
                5671,
                "keycard",
            ),
            ("amqps://k@b", "k", "b", 5671, "/"),
            ("amqp://k@b/", "k", "b", 5672, "/"),
            (
                "amqp://k%40x@127.0.0.1:1/a%2Fb?heartbeat=5",
                "k@x",
                "127.0.0.1",
                1,
                "a/b",
            ),
            ("amqp://k@[::1]:9/v", "k", "::1", 9, "v"),
            ("amqp://k@[::1]", "k", "::1", 5672, "/"),
        ] {
            let uri = parse(url).unwrap();
            assert_eq!(uri.authority.userinfo.username, user);
            assert_eq!(uri.authority.userinfo.password, "");
            assert_eq!(
                (uri.authority.host.as_str(), uri.authority.port),
                (host, port)
            );
            assert_eq!(uri.vhost, vhost);
        }
        let uri = parse("amqp://k@b/v?heartbeat=5&connection_timeout=3000").unwrap();
        assert_eq!(uri.query.heartbeat, Some(5));
        assert_eq!(uri.query.connection_timeout, Some(3000));
    }

    #[test]
    fn faults_never_show_the_url() {
        for (url, problem) in [
            ("amqps://k:canary@b/v", "holds a password"),
            ("amqps://k:can/ary@b/v", "holds a password"),
            ("amqps://k:can?a@ry@b/v", "holds a password"),
            ("amqps://canary/v", "names no user"),
            ("amqps://@canary/v", "names no user"),
            ("amqps://canary@/v", "names no host"),
            ("amqps://k@b:canary/v", "has an invalid port"),
            ("amqps://k@b:0/v", "has an invalid port"),
            (
                "amqps://k@b/canary@x",
                "has an @ that is not between user and host (write %40 for it)",
            ),
            (
                "amqps://k@b/v?canary=1",
                "has an option that keycard does not know",
            ),
            (
                "amqps://k@b/v?heartbeat=canary",
                "has an option whose value is no number",
            ),
            (
                "https://canary@b/v",
                "does not begin with amqps:// or amqp://",
            ),
            ("canary", "does not begin with amqps:// or amqp://"),
            ("amqps://k@b/%FF", "is not UTF-8 once decoded"),
        ] {
            let (found, remedy) = parse(url).unwrap_err();
            assert_eq!(found, problem, "{url}");
            assert!(!remedy.contains("canary"));
        }
    }
}
