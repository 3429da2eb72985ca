//! `visipruner devices` and `visipruner rpc-server`: what is computed on, here and by others.

#[cfg(feature = "rpc")]
use std::path::PathBuf;

use serde::Serialize;
use visipruner::engine::{Device, devices, missing_gpu};
#[cfg(feature = "rpc")]
use visipruner::engine::{RpcServerOptions, add_rpc_server, serve_rpc};

use super::args::{DevicesArgs, OutputArgs};
#[cfg(feature = "rpc")]
use super::args::{RpcArgs, RpcServerArgs};
use super::error::Error;
use super::terminal::Terminal;
use super::{output, units};

/// Lists devices.
///
/// # Errors
/// Servers that cannot be used.
pub fn run(args: &DevicesArgs) -> Result<(), Error> {
    #[cfg(feature = "rpc")]
    add(&args.rpc)?;
    if let Some(message) = missing_gpu() {
        Terminal::new(&OutputArgs::default()).warn(message);
    }
    let all = devices();
    if args.json {
        let rows: Vec<Row> = all.iter().map(Row::from).collect();
        return output::print_json(&rows);
    }
    let width = all.iter().map(|device| device.name.len()).max().unwrap_or(0);
    let lines: Vec<String> = all.iter().map(|device| line(device, width)).collect();
    output::print_lines(&lines)
}

fn line(device: &Device, width: usize) -> String {
    let memory = match device.total_bytes {
        0 => String::new(),
        total => format!(
            ", {} of {} free",
            units::bytes(device.free_bytes),
            units::bytes(total)
        ),
    };
    let Device {
        name, description, ..
    } = device;
    format!(
        "{name:<width$}  {:<11}  {description}{memory}",
        device.kind.name()
    )
}

/// A device in JSON.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kind: &'static str,
    description: &'a str,
    free_bytes: u64,
    total_bytes: u64,
}

impl<'a> From<&'a Device> for Row<'a> {
    fn from(device: &'a Device) -> Self {
        Self {
            name: &device.name,
            kind: device.kind.name(),
            description: &device.description,
            free_bytes: device.free_bytes,
            total_bytes: device.total_bytes,
        }
    }
}

/// Adds the devices of other machines.
///
/// # Errors
/// Servers that cannot be used.
#[cfg(feature = "rpc")]
pub fn add(args: &RpcArgs) -> Result<(), Error> {
    for endpoint in &args.rpc {
        add_rpc_server(endpoint)?;
    }
    Ok(())
}

/// Where weights are kept unless a folder is named.
#[cfg(feature = "rpc")]
fn usual_cache() -> Option<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let cache = xdg
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    Some(cache.join("visipruner").join("rpc"))
}

/// Lends devices to other machines, until a signal ends the program.
///
/// # Errors
/// Devices that there are not, a port that is taken, a folder that cannot be made.
#[cfg(feature = "rpc")]
pub fn serve(args: &RpcServerArgs) -> Result<(), Error> {
    let cache_dir = args.cache.as_ref().map(|folder| match folder {
        Some(folder) => Ok(folder.clone()),
        None => usual_cache().ok_or(Error::NoCacheFolder),
    });
    let cache_dir = cache_dir.transpose()?;
    if let Some(folder) = &cache_dir {
        std::fs::create_dir_all(folder).map_err(|source| Error::Write {
            what: "the weights of clients",
            path: folder.clone(),
            source,
        })?;
    }
    let options = RpcServerOptions {
        host: args.host,
        port: args.port,
        devices: (!args.device.is_empty()).then(|| args.device.clone()),
        n_threads: args.threads.map(u32::from),
        cache_dir,
    };
    let error = serve_rpc(&options, |address, devices| {
        for device in devices {
            eprintln!("lending {device}");
        }
        if !address.ip().is_loopback() {
            eprintln!(
                "warning: there is no password: whoever can reach {address} can use these devices, and end this server"
            );
        }
        eprintln!("listening on {address}, for one client at a time");
    });
    Err(error.into())
}
