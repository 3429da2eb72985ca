//! Pictures from the net, and from public addresses only: a request must not reach what stands behind the server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

/// Largest picture that is fetched, in bytes.
const MAX_BYTES: u64 = 64 << 20;
const MAX_REDIRECTS: u32 = 3;
/// From the name's look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Fetches what stands at an http or https address. Blocks.
pub(super) fn fetch(url: &str) -> Result<Vec<u8>, String> {
    fetch_from(url, is_public)
}

fn fetch_from(url: &str, is_allowed: fn(IpAddr) -> bool) -> Result<Vec<u8>, String> {
    let config = Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .max_redirects(MAX_REDIRECTS)
        .proxy(None) // it would look names up itself
        .build();
    let resolver = Checked {
        inner: DefaultResolver::default(),
        is_allowed,
    };
    let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
    let mut response = agent.get(url).call().map_err(|error| in_words(&error))?;
    let read = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
    read.map_err(|error| in_words(&error))
}

fn in_words(error: &Error) -> String {
    match error {
        Error::StatusCode(status) => format!("it cannot be fetched: the other server answers {status}"),
        Error::BodyExceedsLimit(_) => format!("it is larger than {} MiB", MAX_BYTES >> 20),
        error => format!("it cannot be fetched: {error}"),
    }
}

/// Looks names up, and refuses those that lead where they must not. What was looked up is what is connected to, for
/// redirects as for the first address.
#[derive(Debug)]
struct Checked {
    inner: DefaultResolver,
    is_allowed: fn(IpAddr) -> bool,
}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        match found.iter().find(|address| !(self.is_allowed)(address.ip())) {
            None => Ok(found),
            Some(_) => Err(Error::Other("its address is not a public one".into())),
        }
    }
}

/// Whether an address is one of the public net: none of a machine itself, of local networks or set aside (RFC 6890 and its
/// registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_for_protocols = (a, b, c) == (192, 0, 0);
    let is_for_benchmarks = a == 198 && (b & 0xfe) == 18;
    let is_old_relay = (a, b, c) == (192, 88, 99);
    !(a == 0
        || a >= 240
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || is_shared
        || is_for_protocols
        || is_for_benchmarks
        || is_old_relay)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // addresses that carry one of version 4 lead where that one leads
    let segments = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(v4(high, low))
        }
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // 2000::/3 is what is given out; of it 2001::/23 is for protocols, 2001:db8::/32 and 3fff::/20 for documents
        [first, second, ..] => {
            (0x2000..0x4000).contains(&first)
                && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
                && !(first == 0x3fff && second < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers as many requests as there are answers; returns its port.
    fn server(answers: Vec<String>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                stream.write_all(answer.as_bytes()).expect("writes");
            }
        });
        port
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}")
    }

    #[test]
    fn what_is_there_is_fetched_after_at_most_three_redirects() {
        let redirect = || answer("302 Found", "location: /next\r\n", "");
        for (n_redirects, is_found) in [(0, true), (3, true), (4, false)] {
            let mut answers: Vec<String> = (0..n_redirects).map(|_| redirect()).collect();
            answers.push(answer("200 OK", "", "hi"));
            let port = server(answers);
            let found = fetch_from(&format!("http://127.0.0.1:{port}/"), |_| true);
            assert_eq!(
                found.is_ok_and(|bytes| bytes == b"hi"),
                is_found,
                "{n_redirects} redirects"
            );
        }
        let port = server(vec![answer("404 Not Found", "", "")]);
        let error = fetch_from(&format!("http://127.0.0.1:{port}/"), |_| true).expect_err("is not there");
        assert!(error.contains("404"), "{error}");
    }

    #[test]
    fn only_public_addresses_are_connected_to() {
        let port = server(vec![answer("200 OK", "", "secret")]);
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0.0.0.0",
            "2130706433",
            "0x7f.1",
        ] {
            let error = fetch(&format!("http://{host}:{port}/")).expect_err(host);
            assert!(!error.contains("secret"), "{error}");
        }
        // a redirect to such an address is not followed
        let error = fetch_from(&format!("http://127.0.0.1:{port}/"), |_| false).expect_err("is refused");
        assert!(error.contains("not a public one"), "{error}");
    }

    #[test]
    fn addresses_that_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "3fff::1",
        ] {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
    }
}
