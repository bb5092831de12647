//! TLS on the same port: a certificate and a key from PEM files, HTTP/2 or HTTP/1.1 by ALPN.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::error::{Error, Result};

/// HTTP/2 as ALPN calls it.
pub(super) const H2: &[u8] = b"h2";

/// The files that prove who the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the certificate, with the intermediate ones up to the authority.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

impl Tls {
    /// Reads both files, and checks that they belong together.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the file that cannot be used.
    pub(super) fn open(&self) -> Result<Arc<ServerConfig>> {
        let certificates = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| invalid(&self.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| invalid(&self.key, &error))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(&self.certificate, &error))?
            .with_no_client_auth()
            // It fails without a certificate, and for one of another key.
            .with_single_cert(certificates, key)
            .map_err(|error| invalid(&self.certificate, &error))?;
        config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn invalid(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::invalid(path.display().to_string(), error.to_string())
}
