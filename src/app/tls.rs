//! TLS to databases, and to the broker's management.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::AppError;
use crate::config::TlsMode;

/// TLS as the configuration wants it; `None` without.
pub(super) fn verified(
    mode: TlsMode,
    authorities: Option<&Path>,
) -> Result<Option<Arc<ClientConfig>>, AppError> {
    match mode {
        TlsMode::Disable => Ok(None),
        TlsMode::VerifyFull => Ok(Some(Arc::new(tls(authorities)?))),
    }
}

/// TLS that verifies the server by these authorities, or else the system's.
pub(super) fn tls(authorities: Option<&Path>) -> Result<ClientConfig, AppError> {
    let unusable = |problem: String| AppError::Authorities {
        path: authorities.map_or_else(
            || "the system's certificate authorities".to_owned(),
            |path| path.display().to_string(),
        ),
        problem,
    };
    let certificates = match authorities {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unusable(error.to_string()))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(unusable("no certificate is in it".to_owned()));
    }
    Ok(trusting(roots))
}

/// TLS that verifies the server by these.
pub(super) fn trusting(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
