//! Attempts by sockets: rows 22 to 26, 28.

use std::fs;
use std::io::{self, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;

use crate::attempt::Attempt;
use crate::host::{descriptor_of, lacks_user_namespaces, makes_sockets, socket_kind};
use crate::stage::Stage;
use crate::trial::{Scene, Trial};

/// Whoever has connected says the token.
fn hears<S: Read, A: FnMut() -> io::Result<S>>(
    mut accept: A,
    token: &str,
) -> impl FnMut(&Scene) -> bool + use<S, A> {
    let token = token.to_owned();
    move |_| {
        let Ok(mut stream) = accept() else { return false };
        let mut text = String::new();
        stream.read_to_string(&mut text).is_ok() && text.contains(&token)
    }
}

fn by_tcp(stage: &mut Stage, address: &str) -> Trial {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accept = move || {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    };
    let judge = hears(accept, &stage.token);
    stage.trial("connect", [stage.token.clone(), address]).judged(judge)
}

fn by_udp(stage: &mut Stage, address: &str) -> Trial {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let token = stage.token.clone();
    stage
        .trial("send", [stage.token.clone(), address])
        .judged(move |_| {
            let mut bytes = [0; 512];
            socket.recv(&mut bytes).is_ok_and(|length| bytes[..length] == *token.as_bytes())
        })
        // A datagram to nobody is sent all the same.
        .time_limit(std::time::Duration::from_secs(10))
}

pub(crate) fn by_path(stage: &mut Stage, path: PathBuf) -> Trial {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let removed = crate::host::RemovedAtEnd(path.clone());
    listener.set_nonblocking(true).unwrap();
    let accept = move || {
        let _removed = &removed;
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        Ok::<UnixStream, io::Error>(stream)
    };
    let judge = hears(accept, &stage.token);
    let path = path.to_str().unwrap().to_owned();
    stage.trial("connect-path", [stage.token.clone(), path]).judged(judge)
}

fn no_version_6() -> Option<&'static str> {
    TcpListener::bind("[::1]:0").is_err().then_some("no IPv6 here")
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut attempts = reaching();
    attempts.extend(families());
    attempts
}

fn reaching() -> Vec<Attempt> {
    vec![
        Attempt::new("connect_to_a_service", "24", |stage| by_tcp(stage, "127.0.0.1:0")),
        Attempt::new("connect_to_a_service_v6", "24", |stage| by_tcp(stage, "[::1]:0"))
            .unless(no_version_6),
        Attempt::new("send_to_a_resolver", "24, 26", |stage| by_udp(stage, "127.0.0.1:0"))
            .allowed_inside(),
        Attempt::new("send_to_a_resolver_v6", "24, 26", |stage| by_udp(stage, "[::1]:0"))
            .allowed_inside()
            .unless(no_version_6),
        Attempt::new("find_a_route_out", "25", |stage| {
            // Asks the kernel for a route to where clouds tell credentials, and sends nothing.
            let own = route_out().map(|own| own.to_string()).unwrap_or_default();
            let said = format!("from {own}\n");
            stage
                .trial("find-route", ["169.254.169.254:80"])
                .judged(move |scene| scene.output.contains(&said))
        })
        .unless(|| route_out().is_none().then_some("this host has no route out")),
        Attempt::new("connect_to_an_abstract_socket", "22", |stage| {
            let name = format!("{}-listener", stage.secret);
            let address = SocketAddr::from_abstract_name(&name).unwrap();
            let listener = UnixListener::bind_addr(&address).unwrap();
            listener.set_nonblocking(true).unwrap();
            let accept = move || {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(stream)
            };
            let judge = hears(accept, &stage.token);
            stage.trial("connect-abstract", [stage.token.clone(), name]).judged(judge)
        }),
        Attempt::new("pose_as_an_abstract_socket", "own", |stage| {
            let name = format!("{}-listener", stage.secret);
            let address = SocketAddr::from_abstract_name(&name).unwrap();
            let connect = move || UnixStream::connect_addr(&address);
            let judge = hears(connect, &stage.token);
            stage.trial("pose-abstract", [stage.token.clone(), name]).judged(judge)
        }),
        Attempt::new("connect_to_a_docker_socket", "23", |stage| {
            let path = stage.home().join("run/docker.sock");
            by_path(stage, path)
        }),
        Attempt::new("connect_to_an_agent_in_tmp", "23", |stage| {
            let path = PathBuf::from(format!("/tmp/{}/agent.1", stage.token));
            let mut trial = by_path(stage, path.clone());
            let directory = path.parent().unwrap().to_owned();
            let mut judge = trial.judge.take().unwrap();
            let removed = crate::host::EmptiedAtEnd(directory);
            // Captured in this order, and so the socket is gone before its directory.
            trial.judged(move |scene| {
                let seen = judge(scene);
                let _removed = &removed;
                seen
            })
        }),
        Attempt::new("connect_to_a_bus_in_run", "23", |stage| {
            let path = PathBuf::from(format!("/run/{}.sock", stage.token));
            by_path(stage, path)
        })
        .root_only(),
        Attempt::new("connect_to_a_socket_in_the_workspace", "23", |stage| {
            let path = stage.project().join("service.sock");
            by_path(stage, path)
        }),
        Attempt::new("write_into_a_pipe_of_the_home", "own", |stage| {
            let path = stage.home().join("pipe");
            pipe(stage, path)
        })
        .two_locks(),
        // A mount that is read-only stops none of these three: what is shown is an overlay, whose pipes,
        // sockets and locks are its own.
        Attempt::new("write_into_a_shared_pipe", "9", |stage| {
            let path = stage.shared().join("pipe");
            pipe(stage, path).with_shared(stage)
        })
        .allowed_inside()
        .holds_without_landlock(),
        Attempt::new("connect_to_a_shared_socket", "23", |stage| {
            let path = stage.shared().join("service.sock");
            by_path(stage, path).with_shared(stage)
        })
        .holds_without_landlock(),
        // A lock takes no more than reading: what the user shares could be kept from its writers.
        Attempt::new("lock_a_shared_file", "own", |stage| {
            let path = stage.file(&stage.shared().join("lock"), "");
            let judge = crate::host::cannot_lock(path.clone());
            stage.trial("lock", [path]).judged(judge).with_shared(stage)
        })
        .allowed_inside()
        .holds_without_landlock(),
        Attempt::new("write_into_a_pipe_of_the_workspace", "own", |stage| {
            let path = stage.project().join("pipe");
            pipe(stage, path)
        })
        .allowed_inside(),
        Attempt::new("send_to_a_datagram_socket", "23", |stage| {
            let path = stage.home().join("log");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            let (path, token) = (path.to_str().unwrap().to_owned(), stage.token.clone());
            stage.trial("send-path", [stage.token.clone(), path]).judged(move |_| {
                let mut bytes = [0; 512];
                socket.recv(&mut bytes).is_ok_and(|length| bytes[..length] == *token.as_bytes())
            })
        }),
    ]
}

/// A named pipe of the host that somebody reads.
fn pipe(stage: &mut Stage, path: PathBuf) -> Trial {
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    // Open both ways, so that it is never at its end.
    let options = fs::File::options().read(true).write(true).open(&path);
    let mut reader = options.unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let (path, token) = (path.to_str().unwrap().to_owned(), stage.token.clone());
    stage.trial("write-over", [stage.token.clone(), path]).judged(move |_| {
        let mut bytes = [0; 512];
        reader.read(&mut bytes).is_ok_and(|length| bytes[..length] == *token.as_bytes())
    })
}

/// The address that this host would use to the world; nothing is sent.
fn route_out() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("169.254.169.254:80").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A socket of this kind is held by the attempt, at the number where it puts it.
fn socket(stage: &mut Stage, attempt: &str, kind: [i32; 3]) -> Trial {
    stage.trial(attempt, kind.map(|number| number.to_string())).judged(move |scene| {
        let found = scene.pids.iter().filter_map(|pid| socket_kind(&descriptor_of(*pid, 77)?));
        found.into_iter().any(|found| found == kind)
    })
}

const VSOCK: [i32; 3] = [libc::AF_VSOCK, libc::SOCK_STREAM, 0];
const CRYPTO: [i32; 3] = [libc::AF_ALG, libc::SOCK_SEQPACKET, 0];
const BLUETOOTH: [i32; 3] = [libc::AF_BLUETOOTH, libc::SOCK_RAW, 1];
const AUDIT: [i32; 3] = [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT];
const FIREWALL: [i32; 3] = [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER];
const EVENTS: [i32; 3] = [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT];
const PACKETS: [i32; 3] = [libc::AF_PACKET, libc::SOCK_RAW, 0];
const ECHO: [i32; 3] = [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP];

fn lacks(kind: [i32; 3]) -> Option<&'static str> {
    let [family, kind, protocol] = kind;
    (!makes_sockets(family, kind, protocol)).then_some("this kernel has no such sockets")
}

fn families() -> Vec<Attempt> {
    vec![
        Attempt::new("open_a_vsock", "28", |stage| socket(stage, "open-socket", VSOCK))
            .unless(|| lacks(VSOCK)),
        Attempt::new("open_a_crypto_socket", "28", |stage| socket(stage, "open-socket", CRYPTO))
            .unless(|| lacks(CRYPTO)),
        Attempt::new("open_a_bluetooth_socket", "28", |stage| {
            socket(stage, "open-socket", BLUETOOTH)
        })
        .unless(|| lacks(BLUETOOTH)),
        Attempt::new("open_an_audit_socket", "28", |stage| socket(stage, "open-socket", AUDIT))
            .unless(|| lacks(AUDIT)),
        Attempt::new("open_a_firewall_socket", "28", |stage| {
            socket(stage, "open-socket", FIREWALL)
        })
        .unless(|| lacks(FIREWALL)),
        Attempt::new("open_an_event_socket", "28", |stage| socket(stage, "open-socket", EVENTS))
            .unless(|| lacks(EVENTS)),
        Attempt::new("open_a_packet_socket", "26", |stage| {
            socket(stage, "open-socket-with-rights", PACKETS)
        })
        .unless(lacks_user_namespaces),
        Attempt::new("open_a_raw_socket", "26", |stage| {
            socket(stage, "open-socket-with-rights", ECHO)
        })
        .unless(lacks_user_namespaces),
    ]
}
