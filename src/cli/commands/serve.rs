//! `genebank serve`: runs the server.

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{args, config, output},
    error::{Error, Result},
    server,
};

pub(in crate::cli) fn run(options: args::Serve) -> Result<()> {
    let config = config::server(options)?;
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(Error::io("runtime"))?;
    let served = runtime.block_on(async {
        let (signals, stop) = (server::Signals::listen()?, CancellationToken::new());
        let serving = async {
            let app = config.build().await?;
            output::line(format_args!("listening on {}", app.url()))?;
            app.serve(stop.clone()).await
        };
        tokio::select! {
            served = serving => served,
            () = signals.until_second(&stop) => Ok(()),
        }
    });
    // Nobody waits for what is still computed.
    runtime.shutdown_background();
    served
}
