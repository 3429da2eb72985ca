//! Devices of other machines, over ggml's RPC backend: TCP, without a password and in the clear.
//!
//! ggml waits for a server without end, and takes whatever answers for one. So a server is asked for its version here, with a
//! clock, before ggml hears of it.

use std::ffi::CString;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::devices::{Device, DeviceKind, device, devices};
use super::options::{MAX_THREADS, in_range};
use super::{Error, n_threads};
use crate::ffi;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to tell its version.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// `RPC_CMD_HELLO` and what follows it: the length of the request, which asks for no other transport than TCP
/// (ggml-rpc.cpp@0.1.161).
const HELLO: [u8; 33] = {
    let mut request = [0; 33];
    request[0] = 14;
    request[1] = 24;
    request
};
/// The length of the answer.
const HELLO_ANSWER: u64 = 28;

/// Adds the devices of a server on another machine, `host:port`, to those that there are; returns them. From then on models are
/// split over them, too, unless their options name other devices. Layers go to the devices of servers first, in the order in
/// which these were added. The connection is kept until the process ends.
///
/// Pixels stay here: a projector takes such a device only if its options name it.
///
/// # Errors
/// [`Error::RpcServer`]: nobody listens there, or somebody else, or one of another version; or it is busy with another client.
pub fn add_rpc_server(endpoint: &str) -> Result<Vec<Device>, Error> {
    let failed = |reason: String| Error::RpcServer {
        endpoint: endpoint.to_owned(),
        reason,
    };
    if of_server(endpoint).is_empty() {
        greet(endpoint).map_err(failed)?;
    }
    let c_endpoint = CString::new(endpoint).map_err(|_| failed("the name holds a NUL byte".to_owned()))?;
    ffi::add_rpc_server(&c_endpoint).map_err(|error| failed(error.message))?;
    Ok(of_server(endpoint))
}

fn of_server(endpoint: &str) -> Vec<Device> {
    let all = ffi::Device::all().into_iter();
    all.filter(|device| device.kind() == ffi::DeviceKind::Remote && device.description() == endpoint)
        .map(Device::from)
        .collect()
}

/// Asks a server for its version.
fn greet(endpoint: &str) -> Result<(), String> {
    let address = resolve(endpoint)?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .map_err(|e| format!("{e}: see that a server is started there, and that the port is right"))?;
    let said = stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)))
        .and_then(|()| stream.write_all(&HELLO))
        .and_then(|()| {
            let mut answer = [0; 8 + HELLO_ANSWER as usize];
            stream.read_exact(&mut answer).map(|()| answer)
        });
    match said {
        Ok(answer) => check_version(&answer),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(format!(
            "no answer in {} seconds: a server has one client at a time, and this one may have another",
            ANSWER_TIMEOUT.as_secs()
        )),
        Err(_) => Err("what listens there is no RPC server, or a much older one".to_owned()),
    }
}

fn check_version(answer: &[u8; 36]) -> Result<(), String> {
    let (length, answer) = answer.split_at(8);
    if length != HELLO_ANSWER.to_le_bytes() {
        return Err("what listens there is no RPC server, or one of another version".to_owned());
    }
    let (major, minor) = (answer[0], answer[1]);
    let (our_major, our_minor) = ffi::RPC_VERSION;
    if major == our_major && minor <= our_minor {
        return Ok(());
    }
    Err(format!(
        "it speaks version {major}.{minor} of the protocol, this program {our_major}.{our_minor}: take both from the same release"
    ))
}

/// `host:port`, to an address of version 4, the only one that ggml takes.
fn resolve(endpoint: &str) -> Result<SocketAddr, String> {
    let form = "give it as host:port, with an IPv4 address or a name for host";
    match endpoint.split_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {}
        _ => return Err(form.to_owned()),
    }
    let addresses = endpoint
        .to_socket_addrs()
        .map_err(|e| format!("the name cannot be resolved ({e})"))?;
    let found = addresses.into_iter().find(SocketAddr::is_ipv4);
    found.ok_or_else(|| format!("the host has no IPv4 address: {form}"))
}

/// Which devices are lent to other machines, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcServerOptions {
    /// The address to listen on. Default: 127.0.0.1. There is no password: whoever can reach it can use the devices, read what is
    /// computed, and end the process.
    pub host: Ipv4Addr,
    /// The port; 0 for any that is free. Default: 50052.
    pub port: u16,
    /// The devices, by ggml's names. Default: all GPUs, or without any the CPU.
    pub devices: Option<Vec<String>>,
    /// Threads of the CPU. Default: as many as the machine has.
    pub n_threads: Option<u32>,
    /// An existing folder in which large tensors are kept, so that a model that comes again is not sent again. Default: none.
    pub cache_dir: Option<PathBuf>,
}

impl Default for RpcServerOptions {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST,
            port: 50052,
            devices: None,
            n_threads: None,
            cache_dir: None,
        }
    }
}

/// Lends devices of this machine to others, one client at a time, until the process ends; `listening` hears where. What ggml says
/// goes to the standard output. A request that ggml does not understand may end the process: run it as one of its own.
///
/// # Errors
/// [`Error::OptionRange`], [`Error::NoDevice`]; [`Error::RpcServe`] if the address is taken. There is no other return.
pub fn serve_rpc(options: &RpcServerOptions, listening: impl FnOnce(SocketAddrV4, &[Device])) -> Error {
    match prepare(options) {
        Err(error) => error,
        Ok((address, endpoint, cache_dir, lent)) => {
            let shown: Vec<Device> = lent.iter().copied().map(Device::from).collect();
            listening(address, &shown);
            let n_threads = usize::try_from(n_threads(options.n_threads)).unwrap_or(1);
            let error = ffi::start_rpc_server(&endpoint, cache_dir.as_deref(), n_threads, &lent);
            Error::RpcServe {
                address: address.to_string(),
                reason: error.message,
            }
        }
    }
}

type Prepared = (SocketAddrV4, CString, Option<CString>, Vec<ffi::Device>);

fn prepare(options: &RpcServerOptions) -> Result<Prepared, Error> {
    in_range("n_threads", options.n_threads.unwrap_or(1), 1..=MAX_THREADS)?;
    let lent = lent(options)?;
    let asked = SocketAddrV4::new(options.host, options.port);
    let failed = |reason: String| Error::RpcServe {
        address: asked.to_string(),
        reason,
    };
    // ggml says nothing of why it cannot listen, and takes no port 0
    let port = TcpListener::bind(asked)
        .and_then(|listener| listener.local_addr())
        .map_err(|e| failed(e.to_string()))?
        .port();
    let address = SocketAddrV4::new(options.host, port);
    let endpoint = CString::new(address.to_string()).map_err(|e| failed(e.to_string()))?;
    let cache_dir = options.cache_dir.as_deref().map(|dir| {
        if !dir.is_dir() {
            return Err(failed(format!("{} is no folder", dir.display())));
        }
        ffi::c_path(dir).ok_or_else(|| failed("the name of the folder holds a NUL byte".to_owned()))
    });
    Ok((address, endpoint, cache_dir.transpose()?, lent))
}

fn lent(options: &RpcServerOptions) -> Result<Vec<ffi::Device>, Error> {
    if let Some(names) = &options.devices {
        let is_cpu = |name: &str| {
            devices()
                .iter()
                .any(|d| d.name == name && d.kind == DeviceKind::Cpu)
        };
        if let [name] = names.as_slice()
            && is_cpu(name)
        {
            return Ok(of_kind(ffi::DeviceKind::Cpu));
        }
        return names.iter().map(|name| device(name)).collect();
    }
    let gpus = of_kind(ffi::DeviceKind::Gpu);
    Ok(if gpus.is_empty() {
        of_kind(ffi::DeviceKind::Cpu)
    } else {
        gpus
    })
}

fn of_kind(kind: ffi::DeviceKind) -> Vec<ffi::Device> {
    let all = ffi::Device::all().into_iter();
    all.filter(|device| device.kind() == kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered_by(answer: impl Into<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let answer = answer.into();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = [0; HELLO.len()];
            client.read_exact(&mut request).expect("a request");
            assert_eq!(request, HELLO);
            client.write_all(&answer).expect("an answer");
        });
        let said = greet(&endpoint).expect_err("no server of ours");
        server.join().expect("no panic");
        said
    }

    #[test]
    fn what_is_no_server_of_our_version_is_told_apart() {
        let mut other = vec![0; 36];
        other[0] = 28;
        (other[8], other[9]) = (6, 2);
        let (major, minor) = ffi::RPC_VERSION;
        let said = answered_by(other);
        assert!(
            said.contains("version 6.2") && said.contains(&format!("{major}.{minor}")),
            "{said}"
        );

        assert!(
            answered_by("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").contains("no RPC server")
        );
        assert!(answered_by("").contains("no RPC server"));
    }

    #[test]
    fn endpoints_are_host_and_port() {
        assert_eq!(
            resolve("127.0.0.1:50052"),
            Ok("127.0.0.1:50052".parse().expect("an address"))
        );
        for bad in [
            "",
            "127.0.0.1",
            ":50052",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:x",
            "[::1]:50052",
        ] {
            assert!(resolve(bad).is_err_and(|e| e.contains("host:port")), "{bad}");
        }
    }
}
