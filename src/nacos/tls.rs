//! TLS towards the registry: one trust for HTTP and gRPC, made of files that are exchanged while the agent runs.
//!
//! What a server is believed by (a bundle, or the system's store) and what it is shown (a client certificate) is read into one
//! [`Made`], for both ways of speaking. Files that have changed are read again before they are needed: over gRPC before each
//! connection, over HTTP, where a pool makes the connections, before a request, at most once a second. To ask the system what
//! three files are costs microseconds; no timer is late, and no call has to fail first. What is made new takes the place of the
//! old one as a whole, pool and sessions included: a session that is resumed would go on under the old certificate. Files that
//! cannot be used (a certificate whose key has not come yet) change nothing, and are tried again until they can.
//!
//! There is no way to switch verification off, nor anything older than TLS 1.2, and nobody writes keys down for SSLKEYLOGFILE.

use super::wire;
use crate::descriptor::settings;
use crate::descriptor::settings::Identity;
use crate::foreign::Foreign;
use crate::machine::Moment;
use crate::os::input;
use crate::os::input::Stamp;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject as _},
    },
};
use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedMutexGuard,
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

/// A bundle, or a certificate with its intermediates, is not longer; bytes.
const CERTIFICATES: u64 = 1024 * 1024;
/// A key is not longer; bytes.
const KEY: u64 = 64 * 1024;
/// Between two looks at the files for the sake of HTTP.
const LOOK: Duration = Duration::from_secs(1);
/// Names of a certificate that are told.
const NAMES: usize = 4;
/// What is told of one; characters. The name of a host is not longer.
const NAME: usize = 253;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{key}")]
    Read {
        /// The setting that names it.
        key: &'static str,
        /// What is wrong with it.
        source: input::Error,
    },
    /// A file holds something else.
    #[error("{key}: {}: {what}", path.display())]
    Content {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: &'static str,
    },
    /// The certificate and its key cannot be used.
    #[error(
        "registry.tls.cert: {}: cannot be used with the key in {}; name the key it was made with",
        cert.display(), key.display()
    )]
    Identity {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The name is none that a certificate could have.
    #[error("registry.tls.server_name: {0} is no name of a server")]
    Name(String),
    /// The system's CA store cannot be used, most likely because there is none.
    #[error(
        "https:// needs the system's CA store; install it, or name a bundle in registry.tls.ca"
    )]
    Store(#[source] rustls::Error),
    /// Nothing of the above.
    #[error("cannot set TLS up")]
    Other(#[source] rustls::Error),
    /// As [`Error::Other`].
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// What was made of the files.
pub(super) struct Made {
    /// For HTTP.
    pub(super) http: reqwest::Client,
    grpc: Arc<ClientConfig>,
}

/// What the files were when they were last read.
struct Seen {
    stamps: Vec<Option<Stamp>>,
    /// The log says that they cannot be used.
    told: bool,
}

/// See the head of this file.
pub(super) struct Tls {
    settings: settings::Tls,
    connect_timeout: Duration,
    made: Mutex<Arc<Made>>,
    /// Held while the files are looked at.
    seen: Arc<tokio::sync::Mutex<Seen>>,
    /// When that last was for the sake of HTTP, in milliseconds of the epoch.
    looked: AtomicU64,
}

impl Tls {
    /// Reads the files; blocks.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(super) fn start(
        settings: &settings::Tls,
        connect_timeout: Duration,
    ) -> Result<Arc<Self>, Error> {
        let stamps = stamps(settings);
        let made = make(settings, connect_timeout)?;
        if let Some(Identity { key, .. }) = &settings.identity
            && input::stamp(key).is_some_and(|stamp| stamp.is_open())
        {
            tracing::warn!(
                "registry.tls.key: {}: everybody on this host can read it; chmod o-r, or defaultMode: 0400 where a volume has it",
                key.display()
            );
        }
        Ok(Arc::new(Self {
            settings: settings.clone(),
            connect_timeout,
            made: Mutex::new(Arc::new(made)),
            seen: Arc::new(tokio::sync::Mutex::new(Seen {
                stamps,
                told: false,
            })),
            looked: AtomicU64::new(0),
        }))
    }

    fn made(&self) -> Arc<Made> {
        Arc::clone(&self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the files say, or said a second ago.
    pub(super) async fn recent(self: &Arc<Self>, now: Moment) -> Arc<Made> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let looked = Duration::from_millis(now - self.looked.load(Ordering::Relaxed).min(now));
        if looked < LOOK {
            return self.made();
        }
        self.looked.store(now, Ordering::Relaxed);
        self.fresh().await
    }

    /// What the files say now.
    async fn fresh(self: &Arc<Self>) -> Arc<Made> {
        if paths(&self.settings).next().is_some() {
            let look = async {
                let seen = Arc::clone(&self.seen).lock_owned().await;
                let tls = Arc::clone(self);
                // If it panicked, that was printed.
                _ = spawn_blocking(move || tls.look(seen)).await;
            };
            // A file system that hangs costs one thread and no call: what was read before serves on.
            _ = timeout(self.connect_timeout, look).await;
        }
        self.made()
    }

    /// Reads the files again if they have changed; blocks.
    fn look(&self, mut seen: OwnedMutexGuard<Seen>) {
        // Before they are read: what comes later is another change.
        let stamps = stamps(&self.settings);
        if seen.stamps == stamps {
            return;
        }
        match make(&self.settings, self.connect_timeout) {
            Ok(made) => {
                *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                (seen.stamps, seen.told) = (stamps, false);
                tracing::info!(
                    "registry.tls: the files have changed, the next connections use them"
                );
            }
            Err(error) => {
                if !seen.told {
                    let source = std::error::Error::source(&error);
                    let why = source.map_or_else(String::new, |source| format!(": {source}"));
                    tracing::warn!(error = %format!("{error}{why}"), "registry.tls: the files have changed and cannot be used; what was read before serves on");
                }
                seen.told = true;
            }
        }
    }

    /// Makes a connection of `stream` over which gRPC is spoken with `host`, or says in words why not.
    pub(super) async fn shake(
        self: &Arc<Self>,
        host: &str,
        stream: TcpStream,
    ) -> Result<Heard, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{} is no name of a server", Foreign::new(host)))?;
        let made = self.fresh().await;
        let connector = TlsConnector::from(Arc::clone(&made.grpc));
        let shaken = timeout(self.connect_timeout, connector.connect(name, stream)).await;
        match shaken {
            Ok(Ok(stream)) => Ok(Heard {
                stream,
                trouble: Trouble(Arc::default()),
                settings: self.settings.clone(),
                broken: None,
            }),
            Ok(Err(error)) => Err(match self.in_words(&error) {
                Some(words) => words,
                None if error.kind() == io::ErrorKind::UnexpectedEof => {
                    "the server closed the connection when TLS began; is TLS spoken on this port?"
                        .to_owned()
                }
                None => Foreign::new(error.to_string()).to_string(),
            }),
            Err(_) => Err(format!(
                "no answer within {:?} when TLS began; is TLS spoken on this port?",
                self.connect_timeout
            )),
        }
    }

    /// What went wrong, if that was TLS.
    pub(super) fn in_words(&self, error: &(dyn std::error::Error + 'static)) -> Option<String> {
        cause(error).map(|error| in_words(error, &self.settings))
    }
}

fn paths(settings: &settings::Tls) -> impl Iterator<Item = &PathBuf> {
    let identity = settings.identity.iter();
    let identity = identity.flat_map(|files| [&files.cert, &files.key]);
    settings.ca.iter().chain(identity)
}

fn stamps(settings: &settings::Tls) -> Vec<Option<Stamp>> {
    paths(settings).map(|path| input::stamp(path)).collect()
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = input::read(path, CERTIFICATES).map_err(|source| Error::Read { key, source })?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::Content {
            key,
            path: path.to_owned(),
            what: "holds no certificate in PEM; is it the right file?",
        }),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let key = "registry.tls.key";
    let bytes = input::read(path, KEY).map_err(|source| Error::Read { key, source })?;
    PrivateKeyDer::from_pem_slice(&Zeroizing::new(bytes)).map_err(|_| Error::Content {
        key,
        path: path.to_owned(),
        what: "holds no private key in PEM; an encrypted one must be decrypted first",
    })
}

/// Reads the files; blocks.
fn make(settings: &settings::Tls, connect_timeout: Duration) -> Result<Made, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut verifier: Arc<dyn ServerCertVerifier> = match &settings.ca {
        Some(path) => {
            let key = "registry.tls.ca";
            let unusable = |_| Error::Content {
                key,
                path: path.clone(),
                what: "holds a certificate that cannot be a CA's; take it out",
            };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(key, path)? {
                roots.add(certificate).map_err(unusable)?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| Error::Other(rustls::Error::General(error.to_string())))?
        }
        None => {
            let system = rustls_platform_verifier::Verifier::new(Arc::clone(&provider));
            Arc::new(system.map_err(Error::Store)?)
        }
    };
    if let Some(name) = &settings.server_name {
        let wrong = |_| Error::Name(name.clone());
        verifier = Arc::new(Named {
            name: ServerName::try_from(name.clone()).map_err(wrong)?,
            verifier,
        });
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut http = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some(Identity { cert, key }) => builder
            .with_client_auth_cert(certificates("registry.tls.cert", cert)?, private_key(key)?)
            .map_err(|source| Error::Identity {
                cert: cert.clone(),
                key: key.clone(),
                source,
            })?,
    };
    let mut grpc = http.clone();
    http.alpn_protocols = vec![b"http/1.1".to_vec()];
    grpc.alpn_protocols = vec![b"h2".to_vec()];
    let http = wire::http_client(connect_timeout, true)
        .tls_backend_preconfigured(http)
        .build()
        .map_err(Error::Client)?;
    Ok(Made {
        http,
        grpc: Arc::new(grpc),
    })
}

/// Verifies all that `verifier` does, for another name than that of the host.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier
            .verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// What TLS said on a connection, once it has said anything: in TLS 1.3 a server that wants a client certificate says so
/// only when the client believes the connection to be made, and HTTP/2 keeps no more of it than a text.
#[derive(Clone)]
pub(super) struct Trouble(Arc<OnceLock<String>>);

impl Trouble {
    /// In place of `why`, which came after it.
    pub(super) fn or(&self, why: String) -> String {
        self.0.get().cloned().unwrap_or(why)
    }
}

/// A connection that keeps what TLS said.
pub(super) struct Heard {
    stream: TlsStream<TcpStream>,
    settings: settings::Tls,
    trouble: Trouble,
    /// What a write failed with.
    broken: Option<io::Error>,
}

impl Heard {
    pub(super) fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }
}

impl Heard {
    fn note(&self, error: &io::Error) {
        if let Some(error) = cause(error) {
            let words = || in_words(error, &self.settings);
            self.trouble.0.get_or_init(words);
        }
    }

    /// What a write failed with, once all that can still be read was: whoever refuses a connection says so and closes it, and
    /// what is written meanwhile fails first.
    fn poll_last_words(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let mut bytes = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(read) => {
                    if let Err(error) = read {
                        self.note(&error);
                    }
                    let broken = self.broken.take();
                    return Poll::Ready(broken.unwrap_or(io::ErrorKind::BrokenPipe.into()));
                }
            }
        }
    }

    fn poll_or_last_words<T>(
        &mut self,
        context: &mut Context<'_>,
        work: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.broken.is_none() {
            match work(Pin::new(&mut self.stream), context) {
                Poll::Ready(Err(error)) => self.broken = Some(error),
                other => return other,
            }
        }
        self.poll_last_words(context).map(Err)
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.note(error);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_or_last_words(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_or_last_words(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What TLS says in an error that others have wrapped.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What such an error was made of is not its source, but has one.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// One sentence that says what to do.
fn in_words(error: &rustls::Error, settings: &settings::Tls) -> String {
    let shows = settings.identity.is_some();
    match error {
        rustls::Error::InvalidCertificate(wrong) => certificate_in_words(wrong, settings),
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS on this port; name its port for TLS, or write http://"
                .to_owned()
        }
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired if !shows => {
                "the server demands a client certificate; name one in registry.tls.cert and registry.tls.key".to_owned()
            }
            AlertDescription::HandshakeFailure | AlertDescription::BadCertificate if !shows => {
                format!("the server ended the handshake ({alert:?}); if it demands a client certificate, name one in registry.tls.cert and registry.tls.key")
            }
            AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
                if shows =>
            {
                format!("the server refuses the client certificate ({alert:?}); name one in registry.tls.cert that it takes, with its intermediates")
            }
            AlertDescription::ProtocolVersion => {
                "the server speaks neither TLS 1.2 nor TLS 1.3; it needs one of them".to_owned()
            }
            AlertDescription::NoApplicationProtocol => {
                "the server does not speak this protocol over TLS on this port; is it the right one? gRPC needs HTTP/2 (ALPN h2)".to_owned()
            }
            AlertDescription::UnrecognisedName => {
                "the server has no certificate for the name it was asked by; write its name into the address".to_owned()
            }
            other => format!("the server ended TLS: {other:?}"),
        },
        rustls::Error::PeerIncompatible(why) => {
            format!("the server and this agent have no TLS in common: {why:?}")
        }
        other => format!("TLS: {}", Foreign::new(other.to_string())),
    }
}

fn certificate_in_words(wrong: &CertificateError, settings: &settings::Tls) -> String {
    match wrong {
        CertificateError::UnknownIssuer => match &settings.ca {
            Some(_) => "the server's certificate is signed by nobody in registry.tls.ca; add its CA there".to_owned(),
            None => "the server's certificate is signed by nobody in the system's CA store; name its CA in registry.tls.ca".to_owned(),
        },
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().take(NAMES).map(|name| plain(name)).collect();
            let more = if presented.len() > NAMES { ", …" } else { "" };
            let names = match names.as_slice() {
                [] => "no name at all".to_owned(),
                names => format!("{}{more}", names.join(", ")),
            };
            format!(
                "the server's certificate is for {names}, not for {}; ask it by a name it has, or write that into registry.tls.server_name",
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => {
            "the server's certificate is for another name; ask it by a name it has, or write that into registry.tls.server_name".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; it needs a new one, unless the clock of this host is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; is the clock of this host right, and the server's?".to_owned()
        }
        other => format!(
            "the server's certificate cannot be used: {}",
            Foreign::new(other.to_string())
        ),
    }
}

/// A name of a certificate without the kind of name it is: `DnsName("nacos.example")`.
fn plain(name: &str) -> String {
    let inside = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    let inside = inside.unwrap_or(name).trim_matches('"');
    Foreign::new(inside.chars().take(NAME).collect::<String>()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{InvalidMessage, PeerIncompatible};

    fn for_names(presented: &[&str]) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("nacos.example").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    #[test]
    fn what_tls_says_is_a_sentence_that_says_what_to_do() {
        let of_certificate = rustls::Error::InvalidCertificate;
        let alert = rustls::Error::AlertReceived;
        let errors = [
            of_certificate(CertificateError::UnknownIssuer),
            for_names(&["DnsName(\"other.example\")", "IpAddress(10.0.0.7)"]),
            for_names(&[]),
            of_certificate(CertificateError::Expired),
            of_certificate(CertificateError::NotValidYet),
            of_certificate(CertificateError::Revoked),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
            rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            alert(AlertDescription::CertificateRequired),
            alert(AlertDescription::HandshakeFailure),
            alert(AlertDescription::UnknownCA),
            alert(AlertDescription::ProtocolVersion),
            alert(AlertDescription::NoApplicationProtocol),
            alert(AlertDescription::UnrecognisedName),
            alert(AlertDescription::InternalError),
        ];
        let bare = settings::Tls::default();
        let full = settings::Tls {
            ca: Some("/ca.pem".into()),
            identity: Some(Identity {
                cert: "/cert.pem".into(),
                key: "/key.pem".into(),
            }),
            server_name: None,
        };
        let mut said = String::new();
        for error in &errors {
            let (with, without) = (in_words(error, &full), in_words(error, &bare));
            said += &format!("{without}\n");
            if with != without {
                said += &format!("  else {with}\n");
            }
        }
        insta::assert_snapshot!(said, @r"
        the server's certificate is signed by nobody in the system's CA store; name its CA in registry.tls.ca
          else the server's certificate is signed by nobody in registry.tls.ca; add its CA there
        the server's certificate is for other.example, 10.0.0.7, not for nacos.example; ask it by a name it has, or write that into registry.tls.server_name
        the server's certificate is for no name at all, not for nacos.example; ask it by a name it has, or write that into registry.tls.server_name
        the server's certificate has expired; it needs a new one, unless the clock of this host is wrong
        the server's certificate is not valid yet; is the clock of this host right, and the server's?
        the server's certificate cannot be used: Revoked
        the server does not speak TLS on this port; name its port for TLS, or write http://
        the server and this agent have no TLS in common: NoCipherSuitesInCommon
        the server demands a client certificate; name one in registry.tls.cert and registry.tls.key
          else the server refuses the client certificate (CertificateRequired); name one in registry.tls.cert that it takes, with its intermediates
        the server ended the handshake (HandshakeFailure); if it demands a client certificate, name one in registry.tls.cert and registry.tls.key
          else the server ended TLS: HandshakeFailure
        the server ended TLS: UnknownCA
          else the server refuses the client certificate (UnknownCA); name one in registry.tls.cert that it takes, with its intermediates
        the server speaks neither TLS 1.2 nor TLS 1.3; it needs one of them
        the server does not speak this protocol over TLS on this port; is it the right one? gRPC needs HTTP/2 (ALPN h2)
        the server has no certificate for the name it was asked by; write its name into the address
        the server ended TLS: InternalError
        ");
    }

    #[test]
    fn names_of_a_certificate_are_shown_escaped_and_not_all_of_them() {
        let long = format!("DnsName(\"{}\")", "a".repeat(5000));
        let names = [&*long, "\u{1b}[2J", "c", "d", "never seen"];
        let said = in_words(&for_names(&names), &settings::Tls::default());
        assert!(said.contains(", c, d, …, not for"), "{said}");
        assert!(
            !said.contains(['\u{1b}']) && !said.contains("never seen") && said.len() < 600,
            "{said}"
        );
    }

    #[test]
    fn what_tls_says_is_found_below_what_others_wrapped_it_in() {
        let error = || rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error()));
        assert_eq!(cause(&wrapped), Some(&error()));
        assert_eq!(cause(&Error::Store(error())), Some(&error()));
        assert_eq!(cause(&io::Error::other("something else")), None);
    }
}
