//! The connection to a server: TCP, TLS where it is asked for, HTTP/2; made when a call needs one, and anew after it
//! broke. Each call has a deadline, and says who asks. Must not know any service.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::grpc::{Call, broken};
use super::messages::{RequestMetadata, ToolDetails};
use super::protobuf::Message;
use super::retry::{Failure, Kind, Result};
use super::settings::Settings;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// After so much time a connection with calls is asked whether it is still there, and must say so in as much again.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// What a server may send before we have read it: of one stream, and of all.
const WINDOWS: (u32, u32) = (4 << 20, 32 << 20);

/// What a request is for, as the server's logs show it.
#[derive(Debug, Clone, Default)]
pub(super) struct For {
    /// Hash of the action.
    pub action: String,
    /// What is made.
    pub target: String,
}

/// A server that calls are made to.
pub(super) struct Connection {
    settings: Rc<Settings>,
    tls: Option<TlsConnector>,
    headers: HeaderMap,
    /// Tells this run from others.
    invocation: String,
    live: RefCell<Option<Live>>,
    /// Held by the one who connects.
    connecting: tokio::sync::Mutex<()>,
    calls: Rc<Cell<usize>>,
}

struct Live {
    sender: SendRequest<Bytes>,
    tasks: [AbortHandle; 2],
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Counts a call as long as it runs.
struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A stream that is read and written.
trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

impl Connection {
    /// A server that nobody has spoken to yet. `tls` is what is trusted, where the address asks for TLS.
    pub fn new(settings: Rc<Settings>, tls: Option<TlsConnector>, invocation: String) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_str(value.reveal())) {
                // It is neither printed nor kept in the connection's tables.
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        Connection {
            settings,
            tls,
            headers,
            invocation,
            live: RefCell::default(),
            connecting: tokio::sync::Mutex::default(),
            calls: Rc::default(),
        }
    }

    /// Makes a call: `run` is given the call after its headers were sent, and has to be done before the deadline.
    pub async fn call<T>(
        &self,
        path: &str,
        purpose: &For,
        deadline: Duration,
        run: impl AsyncFnOnce(&mut Call) -> Result<T>,
    ) -> Result<T> {
        self.calls.set(self.calls.get() + 1);
        let _counted = Counted(self.calls.clone());
        let whole = async {
            let mut sender = self.sender().await?;
            let mut call = Call::begin(&mut sender, self.request(path, purpose, deadline)?)?;
            run(&mut call).await
        };
        match timeout(deadline, whole).await {
            Ok(result) => result.map_err(|failure| self.without_secrets(failure)),
            Err(_) => {
                let text = format!("it did not answer within {} s", deadline.as_secs());
                Err(Failure::new(Kind::TooLong, text))
            }
        }
    }

    /// A call with one message in each direction.
    pub async fn ask<M: Message>(
        &self,
        path: &str,
        purpose: &For,
        deadline: Duration,
        message: &impl Message,
    ) -> Result<M> {
        let run = async |call: &mut Call| {
            call.send(message, true).await?;
            call.only().await
        };
        self.call(path, purpose, deadline, run).await
    }

    /// Gives the connection up, if there is one: whatever runs over it fails.
    pub fn give_up(&self) {
        self.live.borrow_mut().take();
    }

    fn request(&self, path: &str, purpose: &For, deadline: Duration) -> Result<Request<()>> {
        let endpoint = &self.settings.endpoint;
        let scheme = if endpoint.tls { "https" } else { "http" };
        let host = match endpoint.host.contains(':') {
            true => format!("[{}]", endpoint.host),
            false => endpoint.host.clone(),
        };
        let uri = Uri::builder().scheme(scheme).authority(format!("{host}:{}", endpoint.port));
        let uri = uri.path_and_query(path).build();
        let mut request = Request::post(uri.map_err(|e| Failure::other(format!("its name: {e}")))?)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("user-agent", concat!("kthinlto/", env!("CARGO_PKG_VERSION")))
            .header("grpc-timeout", format!("{}m", deadline.as_millis().min(99_999_999)));
        let metadata = RequestMetadata {
            tool_details: Some(ToolDetails {
                tool_name: "kthinlto".to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            action_id: purpose.action.clone(),
            tool_invocation_id: self.invocation.clone(),
            action_mnemonic: "ThinLtoBackend".to_owned(),
            target_id: purpose.target.clone(),
        };
        let metadata = base64::engine::general_purpose::STANDARD_NO_PAD.encode(metadata.to_bytes());
        request = request.header("build.bazel.remote.execution.v2.requestmetadata-bin", metadata);
        let mut request = request.body(()).map_err(|e| Failure::other(format!("a header: {e}")))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    /// The connection, ready for a call.
    async fn sender(&self) -> Result<SendRequest<Bytes>> {
        if let Some(sender) = self.ready().await {
            return Ok(sender);
        }
        let _held = self.connecting.lock().await;
        // Somebody else may have connected meanwhile.
        if let Some(sender) = self.ready().await {
            return Ok(sender);
        }
        let live = match timeout(CONNECT, self.connect()).await {
            Ok(live) => live?,
            Err(_) => {
                let text = format!("cannot connect to it within {} s", CONNECT.as_secs());
                return Err(Failure::new(Kind::Lost, text));
            }
        };
        let sender = live.sender.clone();
        *self.live.borrow_mut() = Some(live);
        sender.ready().await.map_err(broken)
    }

    async fn ready(&self) -> Option<SendRequest<Bytes>> {
        let sender = self.live.borrow().as_ref().map(|live| live.sender.clone())?;
        match sender.ready().await {
            Ok(sender) => Some(sender),
            Err(_) => {
                self.give_up();
                None
            }
        }
    }

    async fn connect(&self) -> Result<Live> {
        let endpoint = &self.settings.endpoint;
        let lost = |error: io::Error| {
            Failure::new(Kind::Lost, format!("cannot connect to it: {}", plain(&error)))
        };
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
        let stream = stream.await.map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        let wire: Box<dyn Wire> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = endpoint.host.clone().try_into();
                let name = name.map_err(|_| Failure::other("no certificate can name its host"))?;
                Box::new(tls.connect(name, stream).await.map_err(|e| super::tls::refused(&e))?)
            }
        };
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
        let (sender, mut connection) = builder.handshake(wire).await.map_err(broken)?;
        let ping = connection.ping_pong();
        let carry = tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection to the remote engine ended: {error}");
            }
        });
        let (carry, calls) = (carry.abort_handle(), self.calls.clone());
        let keep = tokio::task::spawn_local(keep_alive(ping, calls, carry.clone()));
        Ok(Live { sender, tasks: [carry, keep.abort_handle()] })
    }

    /// A server may repeat what it was sent.
    fn without_secrets(&self, mut failure: Failure) -> Failure {
        for (_, value) in &self.settings.headers {
            let words = [value.reveal()].into_iter().chain(value.reveal().split(' '));
            for word in words.filter(|word| word.len() > 3) {
                failure.text = failure.text.replace(word, "[...]");
            }
        }
        failure
    }
}

/// An error without the number that the library adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Ends a connection over which calls run and nothing comes back.
async fn keep_alive(ping: Option<h2::PingPong>, calls: Rc<Cell<usize>>, carry: AbortHandle) {
    let Some(mut ping) = ping else {
        return;
    };
    loop {
        sleep(KEEP_ALIVE).await;
        if calls.get() == 0 {
            continue;
        }
        match timeout(KEEP_ALIVE, ping.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return carry.abort(),
        }
    }
}
