//! Capturing the packets on a link.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::{Namespace, Packets};

/// Room in the kernel for packets that are not read yet.
static KERNEL_BUFFER: libc::c_int = 64 * 1024 * 1024;
/// Longer than any packet, segmentation offload included.
const LONGEST: usize = 256 * 1024;
/// How often the reader looks whether it is to stop.
const TURN_MS: libc::c_int = 20;

/// Captures every packet on one link, both directions, in memory.
pub struct Capture {
    packets: Arc<Mutex<Packets>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<io::Result<()>>>,
}

impl Capture {
    /// Starts to capture; whatever passes the link after this has returned is seen.
    pub fn start(namespace: &Namespace, link: &str) -> Result<Self> {
        let socket = namespace
            .run(|| open(link))?
            .with_context(|| format!("cannot capture on {link} in {}", namespace.label()))?;
        let packets = Arc::new(Mutex::new(Packets::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, flag) = (packets.clone(), stop.clone());
        let reader = std::thread::Builder::new()
            .name(format!("capture {link}"))
            .spawn(move || read(&socket, &into, &flag))?;
        Ok(Self {
            packets,
            stop,
            reader: Some(reader),
        })
    }

    /// What has been captured so far.
    pub fn so_far(&self) -> Packets {
        self.packets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops and returns all that passed. Fails if the kernel had to drop packets, because then
    /// nothing is proven by what is absent.
    pub fn stop(mut self) -> Result<Packets> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("the capture panicked"))??;
        }
        let packets = self.so_far();
        ensure!(
            packets.dropped() == 0,
            "the kernel dropped {} captured packets",
            packets.dropped()
        );
        Ok(packets)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn open(link: &str) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let name = std::ffi::CString::new(link)?;
    // SAFETY: plain system calls; the name is NUL-terminated, and the new descriptor is owned by
    // nobody else. Protocol 0 keeps packets of other links out until the socket is bound.
    let (index, socket) = unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = check(libc::socket(libc::AF_PACKET, kind, 0))?;
        (index, OwnedFd::from_raw_fd(fd))
    };
    if index == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such link"));
    }
    // SAFETY: an all-zero sockaddr_ll is valid; value and length describe locals that outlive the
    // calls.
    unsafe {
        check(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const KERNEL_BUFFER).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        ))?;
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        check(libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        ))?;
    }
    Ok(socket)
}

fn read(socket: &OwnedFd, into: &Mutex<Packets>, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0u8; LONGEST];
    loop {
        // Looked at before reading, so that all that came before the request is still read.
        let last = stop.load(Ordering::Relaxed);
        let mut poll = libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, if last { 0 } else { TURN_MS }) };
        while let Some(length) = receive(socket, &mut buffer)? {
            let packet: Arc<[u8]> = buffer[..length].into();
            let mut packets = into.lock().unwrap_or_else(PoisonError::into_inner);
            packets.add(SystemTime::now(), packet);
        }
        if last {
            let dropped = dropped(socket)?;
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .set_dropped(dropped);
            return Ok(());
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the buffer is valid for writes of its length.
    let n = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
        )
    };
    match usize::try_from(n) {
        Ok(n) => Ok(Some(n)),
        Err(_) => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The link went away: there is nothing more to see.
            e if e.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
            e => Err(e),
        },
    }
}

fn dropped(socket: &OwnedFd) -> io::Result<u32> {
    // SAFETY: an all-zero tpacket_stats is valid.
    let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a struct of that size.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    })?;
    Ok(stats.tp_drops)
}
