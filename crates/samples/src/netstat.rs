//! `netstat -tulpn` for images that have none: the sockets of this network namespace, from /proc.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;

/// netstat's options, as far as they are there.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TCP sockets
    #[arg(short, long)]
    tcp: bool,
    /// UDP sockets
    #[arg(short, long)]
    udp: bool,
    /// Listening sockets only
    #[arg(short, long)]
    listening: bool,
    /// All sockets
    #[arg(short, long)]
    all: bool,
    /// Show the owning process
    #[arg(short, long)]
    programs: bool,
    /// Numbers instead of names; this tool never prints names
    #[arg(short, long)]
    numeric: bool,
}

const LISTEN: &str = "0A";
const CLOSED: &str = "07";

/// One line of /proc/net/{tcp,udp}{,6}.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    state: String,
    queues: (u64, u64),
}

/// Prints the table.
///
/// # Errors
/// When /proc cannot be read.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    let title = match (args.listening, args.all) {
        (true, false) => "only servers",
        (_, true) => "servers and established",
        (false, false) => "w/o servers",
    };
    println!("Active Internet connections ({title})");
    print!(
        "{:<5} {:>6} {:>6} {:<23} {:<23} {:<11}",
        "Proto", "Recv-Q", "Send-Q", "Local Address", "Foreign Address", "State"
    );
    println!(
        "{}",
        if args.programs {
            " PID/Program name"
        } else {
            ""
        }
    );
    let both = !args.tcp && !args.udp;
    for (protocol, file, wanted) in [
        ("tcp", "tcp", args.tcp || both),
        ("tcp", "tcp6", args.tcp || both),
        ("udp", "udp", args.udp || both),
        ("udp", "udp6", args.udp || both),
    ] {
        if wanted {
            table(args, protocol, file)?;
        }
    }
    Ok(0)
}

fn table(args: &Args, protocol: &str, file: &str) -> anyhow::Result<()> {
    let path = format!("/proc/net/{file}");
    let text = match std::fs::read_to_string(&path) {
        // A kernel without IPv6 has no such file.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read {path}"))?,
    };
    for socket in text.lines().skip(1).filter_map(parse) {
        let server = socket.state == LISTEN || (protocol == "udp" && socket.state == CLOSED);
        if !args.all && server != args.listening {
            continue;
        }
        let state = if protocol == "udp" {
            ""
        } else {
            state_name(&socket.state)
        };
        print!(
            "{protocol:<5} {:>6} {:>6} {:<23} {:<23} {state:<11}",
            socket.queues.1,
            socket.queues.0,
            address(socket.local),
            address(socket.remote),
        );
        println!("{}", if args.programs { " -" } else { "" });
    }
    Ok(())
}

fn address((ip, port): (IpAddr, u16)) -> String {
    let port = if port == 0 {
        "*".to_owned()
    } else {
        port.to_string()
    };
    format!("{ip}:{port}")
}

fn state_name(code: &str) -> &'static str {
    match code {
        "01" => "ESTABLISHED",
        "02" => "SYN_SENT",
        "03" => "SYN_RECV",
        "04" => "FIN_WAIT1",
        "05" => "FIN_WAIT2",
        "06" => "TIME_WAIT",
        "07" => "CLOSE",
        "08" => "CLOSE_WAIT",
        "09" => "LAST_ACK",
        "0A" => "LISTEN",
        "0B" => "CLOSING",
        _ => "UNKNOWN",
    }
}

fn parse(line: &str) -> Option<Socket> {
    let mut columns = line.split_whitespace().skip(1);
    let local = endpoint(columns.next()?)?;
    let remote = endpoint(columns.next()?)?;
    let state = columns.next()?.to_owned();
    let (send, receive) = columns.next()?.split_once(':')?;
    let number = |hex| u64::from_str_radix(hex, 16).ok();
    Some(Socket {
        local,
        remote,
        state,
        queues: (number(send)?, number(receive)?),
    })
}

/// `0100007F:3ACD`: the address in words of the machine's byte order, the port as a number.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |hex: &str| Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(ip)?)),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(ip.get(i * 8..i * 8 + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_lines_of_both_families() {
        let v4 = "   0: 0100007F:3ACD 00000000:0000 0A 00000001:00000002 00:00000000 0 0 0 1 1";
        let socket = parse(v4).unwrap();
        assert_eq!(address(socket.local), "127.0.0.1:15053");
        assert_eq!(address(socket.remote), "0.0.0.0:*");
        assert_eq!((socket.state.as_str(), socket.queues), (LISTEN, (1, 2)));
        let v6 = "   1: 00000000000000000000000000000000:3AA0 \
                  00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 0 0 0";
        assert_eq!(address(parse(v6).unwrap().local), ":::15008");
        assert_eq!(parse("garbage"), None);
    }
}
