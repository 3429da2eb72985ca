//! Connections: HTTP/1, with a limit to how long a client may keep one waiting.

use std::future::{Ready, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::time::Duration;

use axum_server::accept::Accept;
use axum_server::{Handle, Server};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

/// A server that gives up connections on which for so long no head arrives, or nothing of an answer can be sent.
///
/// # Errors
/// A listener that tokio cannot use.
pub fn server(
    listener: TcpListener,
    handle: Handle<SocketAddr>,
    timeout: Duration,
) -> io::Result<Server<SocketAddr, WriteTimeout>> {
    let mut server = axum_server::from_tcp(listener)?
        .handle(handle)
        .http1_only() // of HTTP/2 no head has a limit
        .acceptor(WriteTimeout(timeout));
    server
        .http_builder()
        .http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(timeout);
    Ok(server)
}

/// An answer to somebody who does not read it must not be kept for ever.
#[derive(Debug, Clone)]
pub struct WriteTimeout(Duration);

impl<S> Accept<TcpStream, S> for WriteTimeout {
    type Stream = Pin<Box<TimeoutStream<TcpStream>>>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.0));
        ready(Ok((Box::pin(stream), service)))
    }
}
