//! What TLS connections are made with: whom to trust, and who we are. Must not know what is sent.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::retry::{Failure, Kind};
use super::settings::Settings;
use crate::error::{Error, Result};

/// A connector for a server, if its address asks for TLS.
///
/// # Errors
/// Where a certificate or a key cannot be used.
pub(super) fn connector(settings: &Settings) -> Result<Option<TlsConnector>> {
    if !settings.endpoint.tls {
        return Ok(None);
    }
    check_processor()?;
    let provider = Arc::new(rustls_graviola::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Error::Usage(format!("cannot use TLS: {e}")))?;
    let builder = builder.with_root_certificates(roots(settings.authorities.as_deref())?);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e.to_string()))?;
            let config = builder.with_client_auth_cert(chain, secret);
            config.map_err(|e| bad(key, &format!("it does not go with its certificate ({e})")))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(TlsConnector::from(Arc::new(config))))
}

fn roots(authorities: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|e| bad(file, &e.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let text = "this system trusts no certificate; name a file with the authority's in \
                            KTHINLTO_REMOTE_CA";
                return Err(Error::Usage(text.to_owned()));
            }
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let all = all.map_err(|e| bad(file, &e.to_string()))?;
    match all.is_empty() {
        true => Err(bad(file, "no certificate is in it")),
        false => Ok(all),
    }
}

/// Not what is in the file: it may be a key.
fn bad(file: &Path, found: &str) -> Error {
    let remedy = "give a file in PEM format";
    Error::bad_input(file, format!("{found}, while TLS was prepared"), remedy)
}

/// The library that computes has no code for older processors, and would end the program there.
fn check_processor() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    let fits = is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("adx");
    #[cfg(target_arch = "aarch64")]
    let fits = std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("sha2");
    match fits {
        true => Ok(()),
        false => {
            let text = "cannot use grpcs://: this processor is older than what TLS needs here (AVX2, ADX, AES); \
                        give a grpc:// address of a proxy that speaks TLS";
            Err(Error::Usage(text.to_owned()))
        }
    }
}

/// Why TLS was not agreed on.
pub(super) fn refused(error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(found)) => {
            let text = format!(
                "its certificate is not accepted ({found}); name a file with that of its authority in \
                 KTHINLTO_REMOTE_CA"
            );
            Failure::new(Kind::Denied, text)
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            let text = format!(
                "it refuses TLS with us ({alert:?}); KTHINLTO_REMOTE_CERT and _KEY name a certificate of ours"
            );
            Failure::new(Kind::Denied, text)
        }
        Some(other) => {
            let text = format!(
                "it does not speak TLS that can be used here ({other}); grpc:// is without TLS"
            );
            Failure::new(Kind::Denied, text)
        }
        None => Failure::new(
            Kind::Lost,
            format!("the connection broke while TLS was agreed on ({error})"),
        ),
    }
}
