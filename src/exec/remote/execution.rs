//! An action that a server runs: the stream on which it says what becomes of it, taken up again where it breaks, and
//! missing blobs sent again. Must not know what is done with a result.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::connection::For;
use super::grpc::{self, Call};
use super::messages::{
    CancelOperationRequest, Empty, ExecuteOperationMetadata, ExecuteRequest, ExecuteResponse,
    Operation, WaitExecutionRequest,
};
use super::pack::Packed;
use super::protobuf::Message;
use super::results::{Results, names};
use super::retry::{Failure, Kind, Result, TRIES, pause};

const EXECUTION: &str = "/build.bazel.remote.execution.v2.Execution";

/// How often blobs may be missing before it is the server's fault.
const EVICTIONS: u32 = 3;

/// What is left of the time, and it is not asked again: servers end a call at its deadline in many ways, some as if
/// it might pass.
const AS_GOOD_AS_LATE: Duration = Duration::from_millis(200);

/// What a server told of what it does for us.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The name by which it knows it.
    pub name: RefCell<String>,
    /// How far it is, as a number of the protocol.
    stage: Cell<i32>,
}

/// Runs an action whose blobs the server has.
pub(super) async fn execute(
    results: &Results,
    packed: &Packed,
    told: &Told,
    (until, skip_cache_lookup): (Instant, bool),
) -> Result<ExecuteResponse> {
    let (mut failed, mut evicted) = (0, 0);
    let began = Instant::now();
    loop {
        let end = attempt(results, packed, told, (until, skip_cache_lookup)).await;
        let failure = match end {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        let late = until.saturating_duration_since(Instant::now()) < AS_GOOD_AS_LATE;
        if failure.kind == Kind::TooLong || late {
            return Err(give_up(results, packed, told, until - began).await);
        }
        match &failure.kind {
            Kind::Missing(digests) if evicted < EVICTIONS => {
                evicted += 1;
                let named = packed.blobs.iter().filter(|blob| digests.contains(&blob.digest));
                let named: Vec<_> = named.cloned().collect();
                let again = if named.is_empty() { &packed.blobs } else { &named };
                results.store.provide(again, &packed.purpose, true).await?;
                told.name.borrow_mut().clear();
            }
            // The server that knew the operation is gone, or forgot it; or a blob is missing, and it does not say which.
            Kind::NotFound | Kind::Unknown => {
                told.name.borrow_mut().clear();
                results.store.provide_again(&packed.blobs, &packed.purpose).await?;
                failed += 1;
            }
            Kind::Lost | Kind::Passing => failed += 1,
            _ => return Err(failure),
        }
        if failed >= TRIES {
            return Err(failure);
        }
        if failed > 0 {
            tokio::time::sleep(pause(failed)).await;
        }
    }
}

/// The failure of an action that was not done in its time. The server is told that nobody waits for it any more: a queue
/// whose workers are not for it would keep it for good.
async fn give_up(results: &Results, packed: &Packed, told: &Told, limit: Duration) -> Failure {
    let name = told.name.take();
    if !name.is_empty() {
        cancel(results, &name, &packed.purpose).await;
    }
    Failure::new(Kind::TooLong, too_late(told.stage.get(), limit))
}

/// What an action waited for (`ExecutionStage.Value`).
fn too_late(stage: i32, limit: Duration) -> String {
    const QUEUED: i32 = 2;
    let seconds = limit.as_secs_f64().round();
    match stage {
        QUEUED => format!(
            "no worker took it within {seconds} s: all are busy, or none has the properties of \
             KTHINLTO_REMOTE_PLATFORM"
        ),
        _ => format!("it was not done within {seconds} s"),
    }
}

/// Asks for the execution, or for what became of it where it was asked for before.
async fn attempt(
    results: &Results,
    packed: &Packed,
    told: &Told,
    (until, skip_cache_lookup): (Instant, bool),
) -> Result<ExecuteResponse> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failure::new(Kind::TooLong, "there is no time left"));
    }
    let known = told.name.borrow().clone();
    let purpose = &packed.purpose;
    let operation = match known.is_empty() {
        true => {
            let request = ExecuteRequest {
                instance_name: results.instance.clone(),
                skip_cache_lookup,
                action_digest: Some(packed.digest.message()),
                digest_function: results.store.agreed.function.number(),
                inline_stdout: true,
                inline_stderr: true,
                inline_output_files: names(packed),
            };
            follow(results, "Execute", purpose, left, &request, told).await?
        }
        false => {
            let request = WaitExecutionRequest { name: known };
            follow(results, "WaitExecution", purpose, left, &request, told).await?
        }
    };
    // It is done: nobody has to cancel it, or to wait for it again.
    told.name.borrow_mut().clear();
    if let Some(status) = operation.error.filter(|status| status.code != 0) {
        return Err(grpc::failure(&status));
    }
    let response = operation.response.map(|any| ExecuteResponse::from_bytes(any.value));
    let response = response.transpose().map_err(|_| Failure::other("its answer is garbled"))?;
    let response = response.ok_or_else(|| Failure::other("it ended without an answer"))?;
    match response.status.as_ref().filter(|status| status.code != 0) {
        Some(status) => Err(grpc::failure(status)),
        None if response.result.is_none() => Err(Failure::other("it ended without a result")),
        None => Ok(response),
    }
}

/// Reads a stream of operations to the one that is done.
async fn follow(
    results: &Results,
    method: &str,
    purpose: &For,
    left: Duration,
    request: &impl Message,
    told: &Told,
) -> Result<Operation> {
    let run = async |call: &mut Call| {
        call.send(request, true).await?;
        while let Some(operation) = call.next::<Operation>().await? {
            if operation.done {
                return Ok(operation);
            }
            told.name.borrow_mut().clone_from(&operation.name);
            let metadata = operation.metadata.map(|any| any.value);
            let metadata = metadata.map(ExecuteOperationMetadata::from_bytes);
            if let Some(Ok(metadata)) = metadata {
                told.stage.set(metadata.stage);
            }
        }
        Err(Failure::new(Kind::Lost, "the stream of an execution ended too early"))
    };
    results.connection.call(&format!("{EXECUTION}/{method}"), purpose, left, run).await
}

/// Tells the server that nobody waits for an operation any more. It may go on all the same.
pub(super) async fn cancel(results: &Results, name: &str, purpose: &For) {
    let request = CancelOperationRequest { name: name.to_owned() };
    let path = "/google.longrunning.Operations/CancelOperation";
    let told: Result<Empty> =
        results.connection.ask(path, purpose, Duration::from_secs(2), &request).await;
    if let Err(failure) = told {
        tracing::debug!("an operation could not be cancelled: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_that_no_worker_took_is_told_from_one_that_takes_long() {
        let limit = Duration::from_millis(19_990);
        assert_eq!(too_late(3, limit), "it was not done within 20 s");
        assert!(too_late(2, limit).starts_with("no worker took it within 20 s: all are busy"));
        assert_eq!(too_late(0, limit), too_late(3, limit), "a server that does not say");
    }
}
