//! Attempts to reach the host and the world by sockets.

use std::io::{self, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use crate::arguments::Arguments;
use crate::kernel::{call, hold, place};
use crate::namespaces::gain;
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("connect", connect),
    ("send", send),
    ("find-route", find_route),
    ("connect-abstract", connect_abstract),
    ("pose-abstract", pose_abstract),
    ("connect-path", connect_path),
    ("send-path", send_path),
    ("open-socket", open_socket),
    ("open-socket-with-rights", open_socket_with_rights),
];

const LIMIT: Duration = Duration::from_secs(2);

/// `connect TEXT ADDRESS`: says the text to a listener of the host.
fn connect(arguments: &Arguments) -> Outcome {
    let address = arguments.text(1)?.parse().map_err(io::Error::other)?;
    TcpStream::connect_timeout(&address, LIMIT)?.write_all(arguments.text(0)?.as_bytes())
}

fn send(arguments: &Arguments) -> Outcome {
    let address = arguments.text(1)?;
    let own = if address.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
    UdpSocket::bind(own)?.send_to(arguments.text(0)?.as_bytes(), address).map(drop)
}

/// Asks which address of its own would be used. Sends nothing.
fn find_route(arguments: &Arguments) -> Outcome {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(arguments.text(0)?)?;
    writeln!(io::stdout(), "from {}", socket.local_addr()?.ip())
}

fn connect_abstract(arguments: &Arguments) -> Outcome {
    let address = SocketAddr::from_abstract_name(arguments.text(1)?)?;
    UnixStream::connect_addr(&address)?.write_all(arguments.text(0)?.as_bytes())
}

/// Listens where a client of the host looks for somebody else.
fn pose_abstract(arguments: &Arguments) -> Outcome {
    let address = SocketAddr::from_abstract_name(arguments.text(1)?)?;
    let listener = UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    crate::kernel::patiently(|| {
        let (mut client, _) = listener.accept()?;
        client.write_all(arguments.text(0)?.as_bytes())
    })
}

fn connect_path(arguments: &Arguments) -> Outcome {
    let mut last = Err(io::ErrorKind::NotFound.into());
    for path in arguments.all().iter().skip(1) {
        last = UnixStream::connect(path)
            .and_then(|mut socket| socket.write_all(arguments.text(0)?.as_bytes()));
        if last.is_ok() {
            break;
        }
    }
    last
}

fn send_path(arguments: &Arguments) -> Outcome {
    let socket = UnixDatagram::unbound()?;
    socket.send_to(arguments.text(0)?.as_bytes(), arguments.text(1)?).map(drop)
}

/// `open-socket FAMILY KIND PROTOCOL`: holds the socket at a known number.
fn open_socket(arguments: &Arguments) -> Outcome {
    let (family, kind, protocol) =
        (arguments.number(0)?, arguments.number(1)?, arguments.number(2)?);
    place(call!(libc::SYS_socket, family, kind, protocol)?)?;
    hold()
}

fn open_socket_with_rights(arguments: &Arguments) -> Outcome {
    gain(libc::CLONE_NEWNET);
    open_socket(arguments)
}
