//! A reverse proxy on Pingora that does nothing but forward: what teamgate's cost is counted on top of.
//!
//! Owns: one listener, one upstream, as plain as Pingora allows. Must not know: anything of teamgate.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use async_trait::async_trait;
use pingora::Result;
use pingora::modules::http::HttpModules;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

/// Forwards everything to one address.
struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    /// None, as in teamgate: Pingora's compressor would only cost.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// `bare LISTEN UPSTREAM`: serves until it is killed, with a thread for each core that it may use.
pub(crate) fn run() -> std::result::Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let mut address = |name: &str| {
        let text = arguments.next().ok_or_else(|| format!("{name} is missing: bare LISTEN UPSTREAM"))?;
        text.parse::<SocketAddr>().map_err(|error| format!("{name}: {error}: {text}"))
    };
    let (listen, upstream) = (address("LISTEN")?, address("UPSTREAM")?);
    let conf = ServerConf {
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        upstream_keepalive_pool_size: 1_024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { upstream });
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever()
}

/// Says what was wrong, if anything was.
pub(crate) fn exit(outcome: std::result::Result<(), String>) -> ExitCode {
    let Err(fault) = outcome else { return ExitCode::SUCCESS };
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{fault}");
    ExitCode::from(2)
}
