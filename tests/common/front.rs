//! A house in front of a real server: it speaks TLS, asks for a token, or has the server say less of itself. All else
//! is passed on as it comes.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

/// What is asked of clients, and changed for them.
#[derive(Default)]
pub struct Rules {
    /// The only value of `authorization` that is let in.
    pub token: Option<&'static str>,
    /// The most bytes in a batch, as the server says it then.
    pub batch: Option<u64>,
    /// It speaks TLS with the certificate `own.pem` of this folder.
    pub tls: Option<std::path::PathBuf>,
}

/// Makes a certificate for 127.0.0.1, which vouches for itself.
pub fn certify(folder: &Path) {
    let name = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args([
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=front",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.args(["-keyout", &name("own.key"), "-out", &name("own.pem")]);
    assert!(command.stderr(Stdio::null()).status().unwrap().success());
}

/// Opens a house in front of a server; returns its port. It stands as long as the test program runs.
pub fn open(server: u16, rules: Rules) -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, take(listener, server, rules));
    });
    port
}

async fn take(listener: std::net::TcpListener, server: u16, rules: Rules) {
    let listener = TcpListener::from_std(listener).unwrap();
    let acceptor = rules.tls.as_ref().map(|folder| {
        let certificate = CertificateDer::from_pem_file(folder.join("own.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("own.key")).unwrap();
        let provider = Arc::new(rustls_graviola::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    let rules = Rc::new(rules);
    while let Ok((stream, _)) = listener.accept().await {
        let (rules, acceptor) = (rules.clone(), acceptor.clone());
        spawn_local(async move {
            match acceptor {
                None => serve(stream, server, rules).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, server, rules).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, server: u16, rules: Rc<Rules>) {
    let Ok(upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
        return;
    };
    let (client, connection) = h2::client::handshake(upstream).await.unwrap();
    spawn_local(connection);
    let Ok(mut house) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = house.accept().await {
        let (client, rules) = (client.clone(), rules.clone());
        spawn_local(async move { pass_on(client, request, respond, &rules).await });
    }
}

async fn pass_on(
    client: h2::client::SendRequest<Bytes>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    rules: &Rules,
) -> Option<()> {
    let (head, body) = request.into_parts();
    let given = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    if rules.token.is_some_and(|token| given != Some(token)) {
        let refused = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "16")
            // Some servers say what they were given.
            .header("grpc-message", format!("not a good token: {}", given.unwrap_or("none")));
        respond.send_response(refused.body(()).unwrap(), true).ok()?;
        return None;
    }
    let asks = head.uri.path().ends_with("/GetCapabilities");
    let (answer, out) =
        client.ready().await.ok()?.send_request(Request::from_parts(head, ()), false).ok()?;
    spawn_local(copy(body, out));
    let (head, mut body) = answer.await.ok()?.into_parts();
    let ended = body.is_end_stream();
    let mut out = respond.send_response(Response::from_parts(head, ()), ended).ok()?;
    match rules.batch.filter(|_| asks) {
        None => copy(body, out).await,
        Some(batch) => {
            let mut message = Vec::new();
            while let Some(data) = body.data().await {
                message.extend_from_slice(&data.ok()?);
            }
            let mut limit = vec![0x20];
            let mut rest = batch;
            while rest > 0x7f {
                limit.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            limit.push(rest as u8);
            // A field that comes once more is merged with what was there.
            message.extend([0x0a, limit.len() as u8]);
            message.extend(limit);
            let size = message.len() as u32 - 5;
            message[1..5].copy_from_slice(&size.to_be_bytes());
            push(&mut out, message.into()).await?;
            out.send_trailers(body.trailers().await.ok()??).ok()
        }
    }
}

async fn copy(mut from: RecvStream, mut to: SendStream<Bytes>) -> Option<()> {
    while let Some(data) = from.data().await {
        let data = data.ok()?;
        from.flow_control().release_capacity(data.len()).ok()?;
        push(&mut to, data).await?;
    }
    match from.trailers().await.ok()? {
        Some(trailers) => to.send_trailers(trailers).ok(),
        None => to.send_data(Bytes::new(), true).ok(),
    }
}

async fn push(to: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = poll_fn(|context| to.poll_capacity(context)).await?.ok()?;
        to.send_data(data.split_to(room.min(data.len())), false).ok()?;
    }
    Some(())
}
