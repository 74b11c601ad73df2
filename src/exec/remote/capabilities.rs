//! What a server says that it can, and what is agreed on with it. Must not know what it is used for.

use std::time::Duration;

use super::connection::{Connection, For};
use super::digest::Function;
use super::messages::{GetCapabilitiesRequest, SemVer, ServerCapabilities};
use super::retry::{Failure, Kind, Result};
use super::settings::Settings;

const DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of blobs in one request, where the server names no limit; and more are not sent in any case: a message may
/// have 4 MiB in most servers.
const BATCH: u64 = 4_000_000;

/// What is agreed on with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    /// What digests are made with.
    pub function: Function,
    /// Bytes of blobs in one request.
    pub batch: u64,
    /// The largest blob that it stores.
    pub largest: u64,
    /// Blobs may be sent and read in Zstandard's format.
    pub zstd: bool,
    /// It runs actions, as far as it says.
    pub executes: bool,
    /// Results may be given to it, as far as it says.
    pub updates: bool,
}

/// Asks a server what it can. A failure is a clause.
pub(super) async fn ask(connection: &Connection, settings: &Settings) -> Result<Agreed> {
    let request = GetCapabilitiesRequest { instance_name: settings.instance.clone() };
    let path = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities";
    let answer = connection.ask(path, &For::default(), DEADLINE, &request).await?;
    agree(&answer)
}

fn agree(answer: &ServerCapabilities) -> Result<Agreed> {
    let unsupported = |text: String| Err(Failure::new(Kind::Unsupported, text));
    let major = |version: &Option<SemVer>| version.as_ref().map_or(2, |version| version.major);
    let (low, high) = (major(&answer.low_api_version), major(&answer.high_api_version));
    if low > 2 || high < 2 {
        return unsupported(format!(
            "it speaks versions {low} to {high} of the Remote Execution API, and kthinlto speaks version 2"
        ));
    }
    let Some(cache) = &answer.cache_capabilities else {
        return unsupported("it says nothing of a store for blobs".to_owned());
    };
    let offered = |number: i32| {
        let execution = answer.execution_capabilities.as_ref();
        // What runs actions may know fewer functions than the store does.
        let executes = execution.is_none_or(|execution| {
            !execution.exec_enabled
                || execution.digest_function == number
                || execution.digest_functions.contains(&number)
                || (execution.digest_function == 0 && execution.digest_functions.is_empty())
        });
        executes && cache.digest_functions.contains(&number)
    };
    let functions = [Function::Blake3, Function::Sha256];
    let Some(function) = functions.into_iter().find(|function| offered(function.number())) else {
        return unsupported(
            "it has no digest function that kthinlto has (SHA-256 or BLAKE3) in common".to_owned(),
        );
    };
    let limit = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let updates = cache.action_cache_update_capabilities.as_ref();
    Ok(Agreed {
        function,
        batch: limit(cache.max_batch_total_size_bytes).unwrap_or(BATCH).min(BATCH),
        largest: limit(cache.max_cas_blob_size_bytes).unwrap_or(u64::MAX),
        zstd: cache.supported_compressors.contains(&1),
        executes: answer.execution_capabilities.as_ref().is_some_and(|found| found.exec_enabled),
        updates: updates.is_some_and(|found| found.update_enabled),
    })
}

#[cfg(test)]
mod tests {
    use super::super::messages::{CacheCapabilities, ExecutionCapabilities};
    use super::*;

    fn answer(cache: CacheCapabilities) -> ServerCapabilities {
        ServerCapabilities { cache_capabilities: Some(cache), ..ServerCapabilities::default() }
    }

    fn with(functions: &[i32]) -> CacheCapabilities {
        CacheCapabilities { digest_functions: functions.to_vec(), ..CacheCapabilities::default() }
    }

    #[test]
    fn the_best_function_in_common_is_taken() {
        let function =
            |functions: &[i32]| agree(&answer(with(functions))).map(|agreed| agreed.function);
        assert_eq!(function(&[1]), Ok(Function::Sha256));
        assert_eq!(function(&[3, 1, 9]), Ok(Function::Blake3));
        let text = function(&[3]).unwrap_err().text;
        assert!(text.contains("no digest function"), "{text}");
    }

    #[test]
    fn a_function_that_only_the_store_has_is_not_taken() {
        let execution = ExecutionCapabilities {
            digest_function: 1,
            exec_enabled: true,
            digest_functions: vec![1],
        };
        let mut answer = answer(with(&[9, 1]));
        answer.execution_capabilities = Some(execution);
        assert_eq!(agree(&answer).unwrap().function, Function::Sha256);
    }

    #[test]
    fn a_smaller_limit_is_kept_and_a_larger_one_is_not_used() {
        let batch = |limit| {
            let cache = CacheCapabilities { max_batch_total_size_bytes: limit, ..with(&[1]) };
            agree(&answer(cache)).unwrap().batch
        };
        assert_eq!((batch(0), batch(1000), batch(1 << 40)), (BATCH, 1000, BATCH));
    }

    #[test]
    fn another_version_of_the_protocol_is_a_sentence() {
        let version = Some(SemVer { major: 3, ..SemVer::default() });
        let answer = ServerCapabilities {
            low_api_version: version.clone(),
            high_api_version: version,
            ..answer(with(&[1]))
        };
        assert!(agree(&answer).unwrap_err().text.contains("versions 3 to 3"));
    }
}
