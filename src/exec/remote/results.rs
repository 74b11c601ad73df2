//! The store of results: what an action made when it was last run, its outputs written aside, and results of this
//! machine added. Must not know who runs actions.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::blobs::{Blob, Source, Store};
use super::connection::{Connection, For};
use super::digest::Digest;
use super::messages::{
    self, ActionResult, GetActionResultRequest, OutputFile, UpdateActionResultRequest,
};
use super::pack::{Output, Packed};
use super::retry::{Failure, Kind, Result};

/// Bytes of an output: memory is not given to a server that names more.
const LARGEST: u64 = 1 << 30;
const QUERY: Duration = Duration::from_secs(20);
const CACHE: &str = "/build.bazel.remote.execution.v2.ActionCache";

/// Outputs that were written aside, each with its place. What is not put there is removed.
#[derive(Debug, Default)]
pub(super) struct Aside(Vec<(PathBuf, PathBuf)>);

impl Aside {
    /// Writes a file beside its place.
    fn write(&mut self, place: &Path, bytes: &[u8]) -> Result<()> {
        let mut aside = place.to_path_buf().into_os_string();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        self.0.push((aside.clone(), place.to_path_buf()));
        // What a killed run left there may be anything.
        let _ = fs::remove_file(&aside);
        let written = fs::OpenOptions::new().write(true).create_new(true).open(&aside);
        let written = written.and_then(|mut file| std::io::Write::write_all(&mut file, bytes));
        written.map_err(|e| Failure::other(format!("cannot write {}: {e}", aside.display())))
    }

    /// Puts all of them into their places.
    ///
    /// # Errors
    /// Where one cannot be renamed.
    pub fn put(mut self) -> std::io::Result<()> {
        let all = std::mem::take(&mut self.0);
        all.iter().try_for_each(|(aside, place)| fs::rename(aside, place))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.iter().for_each(|(aside, _)| drop(fs::remove_file(aside)));
    }
}

/// A server's results.
pub(super) struct Results {
    pub connection: Rc<Connection>,
    pub instance: String,
    pub store: Rc<Store>,
}

impl Results {
    /// The result of an action, if there is a good one. It is asked for once: running the action is never wrong.
    pub async fn find(&self, packed: &Packed) -> Result<Option<ActionResult>> {
        let request = GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(packed.digest.message()),
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: names(packed),
            digest_function: self.store.agreed.function.number(),
        };
        let path = format!("{CACHE}/GetActionResult");
        match self.connection.ask(&path, &packed.purpose, QUERY, &request).await {
            Ok(found) => Ok(Some(found).filter(|found: &ActionResult| found.exit_code == 0)),
            Err(Failure { kind: Kind::NotFound, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Writes the outputs of a result aside.
    pub async fn fetch(&self, packed: &Packed, result: &ActionResult) -> Result<Aside> {
        let mut aside = Aside::default();
        for Output { name, place, required } in &packed.outputs {
            let Some(file) = result.output_files.iter().find(|file| file.path == *name) else {
                match required {
                    true => return Err(Failure::other("its result lacks the output")),
                    false => continue,
                }
            };
            let digest = file.digest.as_ref().and_then(Digest::read);
            let digest = digest.ok_or_else(|| Failure::other("its result has no digest"))?;
            if digest.size > LARGEST {
                return Err(Failure::other("its result has an output that no compiler makes"));
            }
            if *required && digest.size == 0 {
                return Err(Failure::other("its result has an empty output"));
            }
            let bytes = match file.contents.is_empty() {
                true => self.store.read(&digest, &packed.purpose).await?,
                false => self.store.verify(file.contents.clone(), &digest)?,
            };
            aside.write(place, &bytes)?;
        }
        Ok(aside)
    }

    /// What an action printed: on standard output, and then on standard error.
    pub async fn printed(&self, result: &ActionResult, purpose: &For) -> Result<Vec<u8>> {
        const MOST: u64 = 4 << 20;
        let mut all = Vec::new();
        let streams = [
            (&result.stdout_raw, &result.stdout_digest),
            (&result.stderr_raw, &result.stderr_digest),
        ];
        for (raw, digest) in streams {
            match digest.as_ref().and_then(Digest::read).filter(|_| raw.is_empty()) {
                Some(digest) if digest.size <= MOST => {
                    all.extend_from_slice(&self.store.read(&digest, purpose).await?);
                }
                Some(digest) => {
                    all.extend(format!("({} bytes of output are left out)\n", digest.size).bytes());
                }
                None => all.extend_from_slice(raw),
            }
        }
        Ok(all)
    }

    /// Adds a result that was made here. Its action and command are sent too, so that the server's rules can look at
    /// them.
    pub async fn add(&self, packed: &Packed, made: Vec<(String, Bytes)>) -> Result<()> {
        let function = self.store.agreed.function;
        let mut blobs = packed.head().to_vec();
        let mut output_files = Vec::new();
        for (path, bytes) in made {
            let blob = Blob { digest: function.of(&bytes), source: Source::Bytes(bytes) };
            let (digest, contents) = (Some(blob.digest.message()), Bytes::new());
            output_files.push(OutputFile { path, digest, is_executable: false, contents });
            blobs.push(blob);
        }
        self.store.provide(&blobs, &packed.purpose, false).await?;
        let execution_metadata = Some(messages::ExecutedActionMetadata {
            worker: "kthinlto".to_owned(),
            ..Default::default()
        });
        let action_result =
            Some(ActionResult { output_files, execution_metadata, ..ActionResult::default() });
        let request = UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(packed.digest.message()),
            action_result,
            digest_function: function.number(),
        };
        let path = format!("{CACHE}/UpdateActionResult");
        let _: ActionResult = self.connection.ask(&path, &packed.purpose, QUERY, &request).await?;
        Ok(())
    }
}

/// What the server is asked to send with a result; it may not.
pub(super) fn names(packed: &Packed) -> Vec<String> {
    packed.outputs.iter().map(|output| output.name.clone()).collect()
}
