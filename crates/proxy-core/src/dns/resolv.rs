//! Nameservers of `resolv.conf(5)`.

use std::net::{IpAddr, SocketAddr};

/// The nameservers that the text of a `resolv.conf` names, in its order.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let ip = (words.next()? == "nameserver").then(|| words.next())??;
        Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, 53))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nameserver_lines_count() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.96.0.10\n nameserver fd00::a \
                    # second\nnameserver\nnameserver nonsense\noptions ndots:5\n";
        let found: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.96.0.10:53", "[fd00::a]:53"]);
    }
}
