//! A server tried step by step, and what works said in sentences: for the one who sets it up. Each step needs the ones
//! before it. Must not know how the sentences are shown.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::blobs::{Blob, Store, unique};
use super::capabilities::{self, Agreed};
use super::connection::{Connection, For};
use super::digest::Function;
use super::execution::{self, Told};
use super::messages::{self, ActionResult};
use super::pack::{Hashes, Output, Packed, pack};
use super::protobuf::Message;
use super::results::Results;
use super::retry::{Failure, Kind, Result};
use super::server;
use super::settings::{Compiler, Settings};
use super::tree::Folder;
use crate::exec::action::Action;

/// How long a trial may run on a worker, with its waiting, if no job may take less.
const TRIAL: Duration = Duration::from_secs(120);

/// Tries a server. `compile` is an action of the compiler, with what it made on this machine; what is found is said
/// step by step. Returns whether all is well.
///
/// # Errors
/// Where a certificate or a key cannot be used.
pub fn check(
    settings: Settings,
    compile: Option<(&Action, &[u8])>,
    say: &mut dyn FnMut(&str),
) -> crate::error::Result<bool> {
    let tls = super::tls::connector(&settings)?;
    let runtime = super::runtime()?;
    let local = tokio::task::LocalSet::new();
    let endpoint = settings.endpoint.to_string();
    let settings = Rc::new(settings);
    let connection = Rc::new(Connection::new(settings.clone(), tls, unique()));
    let mut trial = Trial { settings, connection, say };
    let end = local.block_on(&runtime, trial.run(compile));
    drop(local);
    runtime.shutdown_background();
    match end {
        Ok(()) => Ok(true),
        Err((doing, failure)) => {
            say(&format!("failed: {doing}: the server {endpoint}: {}", explain(&failure)));
            Ok(false)
        }
    }
}

/// A failure with what to do about it, where that is known.
fn explain(failure: &Failure) -> String {
    let remedy = match failure.kind {
        Kind::Denied if !failure.text.contains("TLS") && !failure.text.contains("KTHINLTO_") => {
            "; it does not let us: KTHINLTO_REMOTE_HEADERS says who we are"
        }
        Kind::Lost if failure.text.contains("broke") => {
            "; grpcs:// is for a server that speaks TLS, and grpc:// for one that does not"
        }
        Kind::Lost => "; is it running, and is the address right?",
        Kind::NotFound => "; KTHINLTO_REMOTE_INSTANCE names the instance",
        _ => "",
    };
    format!("{failure}{remedy}")
}

struct Trial<'a> {
    settings: Rc<Settings>,
    connection: Rc<Connection>,
    say: &'a mut dyn FnMut(&str),
}

type Step = std::result::Result<(), (&'static str, Failure)>;

impl Trial<'_> {
    fn say(&mut self, text: &str) {
        (self.say)(text);
    }

    async fn run(&mut self, compile: Option<(&Action, &[u8])>) -> Step {
        let agreed = capabilities::ask(&self.connection, &self.settings).await;
        let agreed = agreed.map_err(|failure| ("asking what it can", failure))?;
        self.say(&describe(&self.settings, &agreed));
        let (instance, connection) = (self.settings.instance.clone(), self.connection.clone());
        let store =
            Rc::new(Store::new(connection.clone(), &instance, agreed.clone(), Arc::default()));
        let results = Results { connection, instance, store };

        self.blobs(&results).await.map_err(|failure| ("storing files", failure))?;
        self.results(&results).await.map_err(|failure| ("using its store of results", failure))?;
        if !self.settings.execute {
            self.say("ok: no action was tried, as KTHINLTO_REMOTE_EXECUTE says");
            return Ok(());
        }
        if !agreed.executes {
            let text =
                "it runs no actions; KTHINLTO_REMOTE_EXECUTE=no uses its store of results alone";
            return Err(("running an action", Failure::new(Kind::Unsupported, text)));
        }
        self.shell(&results).await.map_err(|failure| ("running an action", failure))?;
        if let Some((action, expected)) = compile {
            let end = self.compiler(&results, action, expected).await;
            end.map_err(|failure| ("running the compiler", failure))?;
        }
        Ok(())
    }

    /// A small and a large blob, there and back.
    async fn blobs(&mut self, results: &Results) -> Result<()> {
        let function = results.store.agreed.function;
        let small = unique();
        let large = small.repeat(1 + 5_000_000 / small.len());
        for text in [small, large] {
            let blob = Blob::of(function, Bytes::from(text.into_bytes()));
            let began = Instant::now();
            results.store.provide(std::slice::from_ref(&blob), &For::default(), false).await?;
            results.store.read(&blob.digest, &For::default()).await?;
            let took = began.elapsed().as_millis();
            self.say(&format!(
                "ok: a file of {} bytes was stored and read back in {took} ms",
                blob.digest.size
            ));
        }
        Ok(())
    }

    /// A result that cannot be there, and one that is given.
    async fn results(&mut self, results: &Results) -> Result<()> {
        let mut packed = trial(&self.settings, results.store.agreed.function);
        if results.find(&packed).await?.is_some() {
            return Err(Failure::other("it has a result of an action that nobody ever ran"));
        }
        self.say("ok: the store of results can be asked");
        if !self.settings.upload {
            return Ok(());
        }
        let made = vec![(packed.outputs[0].name.clone(), Bytes::from_static(b"a trial\n"))];
        match results.add(&packed, made).await {
            Ok(()) => {}
            Err(Failure { kind: Kind::Denied | Kind::Unsupported, text }) => {
                self.say(&format!("ok: results cannot be given to it by us ({text})"));
                return Ok(());
            }
            Err(failure) => return Err(failure),
        }
        let place = tempfile::NamedTempFile::new();
        let place = place.map_err(|e| Failure::other(format!("cannot write a file here: {e}")))?;
        packed.outputs[0].place = place.path().to_path_buf();
        let found = results.find(&packed).await?;
        let found = found.ok_or_else(|| Failure::other("it lost a result that it was given"))?;
        drop(results.fetch(&packed, &found).await?);
        self.say("ok: a result was given to it and found again");
        Ok(())
    }

    /// A command of the shell.
    async fn shell(&mut self, results: &Results) -> Result<()> {
        let packed = trial(&self.settings, results.store.agreed.function);
        let began = Instant::now();
        let result = execute(results, &packed, self.settings.timeout).await?;
        server::check_exit_code(&result, self.settings.compiler)?;
        if result.exit_code != 0 {
            let printed = results.printed(&result, &packed.purpose).await?;
            let printed = String::from_utf8_lossy(&printed).trim().to_owned();
            let text = format!("the shell failed, exit code {}: {printed}", result.exit_code);
            return Err(Failure::other(text));
        }
        let digest = result.output_files.first().and_then(|file| file.digest.as_ref());
        let expected = results.store.agreed.function.of(b"input\n").message();
        if digest != Some(&expected) {
            return Err(Failure::other("a command did not make what it should"));
        }
        let took = began.elapsed().as_millis();
        self.say(&format!("ok: a command of the shell ran on a worker in {took} ms"));
        Ok(())
    }

    /// The compiler, and that it makes what it makes here.
    async fn compiler(
        &mut self,
        results: &Results,
        action: &Action,
        expected: &[u8],
    ) -> Result<()> {
        let function = results.store.agreed.function;
        let packed = pack(action, &self.settings, function, &Hashes::default()).await?;
        let began = Instant::now();
        results.store.provide(&packed.blobs, &packed.purpose, false).await?;
        let sent = began.elapsed().as_millis();
        let result = execute(results, &packed, self.settings.timeout).await?;
        server::check_exit_code(&result, self.settings.compiler)?;
        if result.exit_code != 0 {
            let printed = results.printed(&result, &packed.purpose).await?;
            let printed = String::from_utf8_lossy(&printed).trim().to_owned();
            let text = format!("the compiler failed, exit code {}: {printed}", result.exit_code);
            return Err(Failure::other(text));
        }
        let made = result.output_files.iter().find(|file| file.path == packed.outputs[0].name);
        if made.and_then(|file| file.digest.as_ref()) != Some(&function.of(expected).message()) {
            let text = "a worker's compiler made another object than the one on this machine";
            return Err(Failure::other(text));
        }
        let took = began.elapsed().as_millis();
        let how = match self.settings.compiler {
            Compiler::Upload => "the uploaded compiler",
            Compiler::Worker => "a worker's own compiler",
        };
        self.say(&format!(
            "ok: {how} made the same object as the one on this machine, in {took} ms, {sent} of them to send it"
        ));
        Ok(())
    }
}

fn describe(settings: &Settings, agreed: &Agreed) -> String {
    let function = match agreed.function {
        Function::Sha256 => "SHA-256",
        Function::Blake3 => "BLAKE3",
    };
    let zstd = if agreed.zstd { ", streams compressed by zstd" } else { "" };
    let executes = if agreed.executes { "runs actions" } else { "runs no actions" };
    let updates = if agreed.updates { "takes results" } else { "takes no results from us" };
    format!(
        "ok: {} answers: digests by {function}, up to {} bytes of files in a request{zstd}; it {executes} and {updates}",
        settings.endpoint, agreed.batch
    )
}

/// An action that nobody ever ran: it copies a file by what the shell itself can do.
fn trial(settings: &Settings, function: Function) -> Packed {
    let input = Blob::of(function, Bytes::from_static(b"input\n"));
    let (mut root, mut blobs) = (Folder::default(), vec![input.clone()]);
    root.add_file(&["tree", "input"], input.digest, false);
    let input_root = root.finish(function, &mut blobs);
    let script = "read -r line <input && echo \"$line\" >output || exit 123";
    let platform = super::pack::platform(settings);
    let command = messages::Command {
        arguments: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        platform: platform.clone(),
        working_directory: "tree".to_owned(),
        output_paths: vec!["output".to_owned()],
        ..messages::Command::default()
    };
    let command = Blob::of(function, command.to_bytes());
    let message = messages::Action {
        command_digest: Some(command.digest.message()),
        input_root_digest: Some(input_root.message()),
        salt: unique().into(),
        platform,
        ..messages::Action::default()
    };
    let message = Blob::of(function, message.to_bytes());
    let digest = message.digest;
    blobs.extend([command, message]);
    let outputs =
        vec![Output { name: "output".to_owned(), place: "output".into(), required: true }];
    let purpose = For { action: digest.hex(), target: "trial".to_owned() };
    Packed { digest, blobs, outputs, purpose }
}

async fn execute(results: &Results, packed: &Packed, limit: Duration) -> Result<ActionResult> {
    results.store.provide(&packed.blobs, &packed.purpose, false).await?;
    let until = Instant::now() + limit.min(TRIAL);
    let response = execution::execute(results, packed, &Told::default(), (until, true)).await?;
    Ok(response.result.unwrap_or_default())
}
