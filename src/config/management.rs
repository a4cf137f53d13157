//! Where `keycard doctor` asks who the broker's users are: its management API, as an administrator.

use std::path::PathBuf;

use hyper::Uri;
use hyper::http::uri::Authority;
use percent_encoding::percent_decode_str;

use super::PasswordSource;
use super::conninfo::UrlFault;
use super::section::Section;

const EXAMPLE: &str = "https://admin@broker.example.com:15671";

/// The broker's management API.
#[derive(Debug, Clone)]
pub struct Management {
    /// Its base, without the user.
    pub url: Uri,
    /// Who asks: a user that is tagged administrator.
    pub user: String,
    /// That user's password.
    pub password: PasswordSource,
    /// PEM file of the authorities trusted instead of the system's; only with `https`.
    pub ca_file: Option<PathBuf>,
}

/// Reads the section if there is one.
pub(super) fn read(top: &Section) -> Option<Management> {
    let section = top.section("management")?;
    let password = section.password();
    let ca_file = section.path("ca_file");
    let url = section.required_text("url", &format!("{EXAMPLE:?}"))?;
    let (user, url) = parse(url)
        .map_err(|(problem, remedy)| section.report("url", problem, remedy))
        .ok()?;
    if ca_file.is_some() && url.scheme_str() == Some("http") {
        section.report(
            "ca_file",
            "has no use without TLS",
            "write https:// in url, or take it out",
        );
    }
    Some(Management {
        url,
        user,
        password: password?,
        ca_file,
    })
}

/// Takes `https://user@host:port` apart, into the user and the rest.
fn parse(url: &str) -> Result<(String, Uri), UrlFault> {
    let fault = |problem: &str| Err((problem.to_owned(), format!("write it like {EXAMPLE}")));
    let Some((scheme @ ("https" | "http"), rest)) = url.split_once("://") else {
        return fault("does not begin with https:// or http://");
    };
    // A password that is not percent-encoded may hold a slash, so the last @ decides.
    let Some((user, rest)) = rest.rsplit_once('@') else {
        return fault("names no user");
    };
    if user.contains(':') {
        return Err((
            "holds a password".to_owned(),
            r#"take it out and set password = { env = "NAME" }"#.to_owned(),
        ));
    }
    let Ok(user) = percent_decode_str(user).decode_utf8() else {
        return fault("is not UTF-8 once decoded");
    };
    if user.is_empty() {
        return fault("names no user");
    }
    let base = rest.trim_end_matches('/');
    let url: Uri = match format!("{scheme}://{base}").parse() {
        Ok(url) if !base.contains(['?', '#']) => url,
        Ok(_) | Err(_) => return fault("names no host, or more than host, port and path"),
    };
    if !url.authority().is_some_and(is_host_and_port) {
        return fault("has no host or an invalid port");
    }
    Ok((user.into_owned(), url))
}

/// Whether it is a host, with a port that there can be if any.
pub(super) fn is_host_and_port(authority: &Authority) -> bool {
    let host = authority.host();
    !host.is_empty()
        && (authority.as_str() == host || authority.port_u16().is_some_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, user, base) in [
            ("https://admin@b", "admin", "https://b/"),
            ("https://admin@b:443/", "admin", "https://b:443/"),
            (
                "http://a%40x@[::1]:15672/mq/",
                "a@x",
                "http://[::1]:15672/mq",
            ),
        ] {
            let (found, uri) = parse(url).unwrap();
            assert_eq!((found.as_str(), uri.to_string().as_str()), (user, base));
        }
    }

    #[test]
    fn faults_never_show_the_url() {
        for (url, problem) in [
            ("https://a:canary@b", "holds a password"),
            ("https://a:can/ary@b", "holds a password"),
            ("https://canary", "names no user"),
            ("https://@canary", "names no user"),
            (
                "https://canary@",
                "names no host, or more than host, port and path",
            ),
            (
                "https://a@b?canary=1",
                "names no host, or more than host, port and path",
            ),
            ("https://a@b:canary", "has no host or an invalid port"),
            ("https://a@b:0", "has no host or an invalid port"),
            ("https://a@:443", "has no host or an invalid port"),
            (
                "amqps://canary@b",
                "does not begin with https:// or http://",
            ),
            ("https://%FF@canary", "is not UTF-8 once decoded"),
        ] {
            let (found, remedy) = parse(url).unwrap_err();
            assert_eq!(found, problem, "{url}");
            assert!(!remedy.contains("canary"));
        }
    }
}
