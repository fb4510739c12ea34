//! Serving HTTP on this machine.

use std::{future::IntoFuture as _, io, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::Response,
};
use azul_vt::{pipeline::Limits, webhook::LetIn};
use tokio::net::TcpListener;

use crate::failure::{Failure, say};

/// How long requests may still take once it is time to end: whoever sends or reads slowly holds nobody up.
const GRACE: Duration = Duration::from_secs(3);

/// A server that has its address and serves nobody yet.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the address that `setting` names, and says so. `secrets`: the settings that let it serve others
    /// than this machine, where none of them is set.
    pub(crate) async fn bind(
        setting: &str,
        address: SocketAddr,
        secrets: Option<&str>,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("{setting}: cannot listen on {address}"))
            .map_err(Failure::Job)?;
        let address = listener.local_addr().map_err(Failure::job)?;
        let note = secrets.map_or_else(String::new, |secrets| {
            format!(" (loopback only: set {secrets} to serve others)")
        });
        say(&format!("listening on http://{address}{note}"));
        Ok(Self { listener, address })
    }

    /// Answers requests until `limits` end, and those that came before for three seconds more. Where only this machine can reach it, they are marked with
    /// [`LetIn`]; without secrets settings.rs allows no other addresses.
    pub(crate) async fn serve<Answer>(
        self,
        limits: &Limits,
        handle: impl Fn(Request) -> Answer + Clone + Send + Sync + 'static,
    ) -> io::Result<()>
    where
        Answer: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let let_in = self.address.ip().is_loopback();
        let app = Router::new().fallback(move |mut request: Request| {
            if let_in {
                request.extensions_mut().insert(LetIn);
            }
            let answer = handle(request);
            async move { answer.await.map(Body::from) }
        });
        let stop = limits.stop.clone();
        let serving = axum::serve(self.listener, app)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let late = async {
            limits.stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = serving.into_future() => served,
            () = late => Ok(()),
        }
    }
}
