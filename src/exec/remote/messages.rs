//! The messages of the Remote Execution API, version 2.3, and of the services of Google's that it is made of:
//! ByteStream, long-running operations, `Status`. Only the fields that are used here
//! (<https://github.com/bazelbuild/remote-apis>, <https://github.com/googleapis/googleapis>). Must not know
//! when one is sent.

use bytes::Bytes;

use super::protobuf::{Field, Malformed, Message, messages, skip};

messages! {
    /// What names a blob.
    Digest {
        1 => hash: String,
        2 => size_bytes: i64,
    }
    /// A property of a worker.
    Property {
        1 => name: String,
        2 => value: String,
    }
    /// What a worker has to be.
    Platform {
        1 => properties: Vec<Property>,
    }
    /// A variable.
    EnvironmentVariable {
        1 => name: String,
        2 => value: String,
    }
    /// What is run.
    Command {
        1 => arguments: Vec<String>,
        2 => environment_variables: Vec<EnvironmentVariable>,
        5 => platform: Option<Platform>,
        6 => working_directory: String,
        7 => output_paths: Vec<String>,
    }
    /// A command with all that it reads.
    Action {
        1 => command_digest: Option<Digest>,
        2 => input_root_digest: Option<Digest>,
        7 => do_not_cache: bool,
        9 => salt: Bytes,
        10 => platform: Option<Platform>,
    }
    /// A file of a folder.
    FileNode {
        1 => name: String,
        2 => digest: Option<Digest>,
        4 => is_executable: bool,
    }
    /// A folder of a folder.
    DirectoryNode {
        1 => name: String,
        2 => digest: Option<Digest>,
    }
    /// A folder.
    Directory {
        1 => files: Vec<FileNode>,
        2 => directories: Vec<DirectoryNode>,
    }
    /// A moment.
    Timestamp {
        1 => seconds: i64,
        2 => nanos: i32,
    }
    /// A time.
    Span {
        1 => seconds: i64,
        2 => nanos: i32,
    }
    /// A file that a command wrote.
    OutputFile {
        1 => path: String,
        2 => digest: Option<Digest>,
        4 => is_executable: bool,
        5 => contents: Bytes,
    }
    /// Who ran an action, and when.
    ExecutedActionMetadata {
        1 => worker: String,
        2 => queued_timestamp: Option<Timestamp>,
        3 => worker_start_timestamp: Option<Timestamp>,
        4 => worker_completed_timestamp: Option<Timestamp>,
        7 => execution_start_timestamp: Option<Timestamp>,
        8 => execution_completed_timestamp: Option<Timestamp>,
        12 => virtual_execution_duration: Option<Span>,
    }
    /// What came of an action.
    ActionResult {
        2 => output_files: Vec<OutputFile>,
        4 => exit_code: i32,
        5 => stdout_raw: Bytes,
        6 => stdout_digest: Option<Digest>,
        7 => stderr_raw: Bytes,
        8 => stderr_digest: Option<Digest>,
        9 => execution_metadata: Option<ExecutedActionMetadata>,
    }
    /// ActionCache/GetActionResult.
    GetActionResultRequest {
        1 => instance_name: String,
        2 => action_digest: Option<Digest>,
        3 => inline_stdout: bool,
        4 => inline_stderr: bool,
        5 => inline_output_files: Vec<String>,
        6 => digest_function: i32,
    }
    /// ActionCache/UpdateActionResult.
    UpdateActionResultRequest {
        1 => instance_name: String,
        2 => action_digest: Option<Digest>,
        3 => action_result: Option<ActionResult>,
        5 => digest_function: i32,
    }
    /// Execution/Execute.
    ExecuteRequest {
        1 => instance_name: String,
        3 => skip_cache_lookup: bool,
        6 => action_digest: Option<Digest>,
        9 => digest_function: i32,
        10 => inline_stdout: bool,
        11 => inline_stderr: bool,
        12 => inline_output_files: Vec<String>,
    }
    /// Execution/WaitExecution.
    WaitExecutionRequest {
        1 => name: String,
    }
    /// The answer in an operation that is done.
    ExecuteResponse {
        1 => result: Option<ActionResult>,
        2 => cached_result: bool,
        3 => status: Option<Status>,
        5 => message: String,
    }
    /// ContentAddressableStorage/FindMissingBlobs.
    FindMissingBlobsRequest {
        1 => instance_name: String,
        2 => blob_digests: Vec<Digest>,
        3 => digest_function: i32,
    }
    /// Its answer.
    FindMissingBlobsResponse {
        2 => missing_blob_digests: Vec<Digest>,
    }
    /// ContentAddressableStorage/BatchUpdateBlobs.
    BatchUpdateBlobsRequest {
        1 => instance_name: String,
        2 => requests: Vec<BlobUpdate>,
        5 => digest_function: i32,
    }
    /// A blob in it.
    BlobUpdate {
        1 => digest: Option<Digest>,
        2 => data: Bytes,
    }
    /// Its answer.
    BatchUpdateBlobsResponse {
        1 => responses: Vec<BlobUpdated>,
    }
    /// What became of a blob.
    BlobUpdated {
        1 => digest: Option<Digest>,
        2 => status: Option<Status>,
    }
    /// ContentAddressableStorage/BatchReadBlobs.
    BatchReadBlobsRequest {
        1 => instance_name: String,
        2 => digests: Vec<Digest>,
        4 => digest_function: i32,
    }
    /// Its answer.
    BatchReadBlobsResponse {
        1 => responses: Vec<BlobRead>,
    }
    /// A blob in it.
    BlobRead {
        1 => digest: Option<Digest>,
        2 => data: Bytes,
        3 => status: Option<Status>,
        4 => compressor: i32,
    }
    /// Capabilities/GetCapabilities.
    GetCapabilitiesRequest {
        1 => instance_name: String,
    }
    /// Its answer.
    ServerCapabilities {
        1 => cache_capabilities: Option<CacheCapabilities>,
        2 => execution_capabilities: Option<ExecutionCapabilities>,
        4 => low_api_version: Option<SemVer>,
        5 => high_api_version: Option<SemVer>,
    }
    /// Who may write results.
    ActionCacheUpdateCapabilities {
        1 => update_enabled: bool,
    }
    /// What the stores can do.
    CacheCapabilities {
        1 => digest_functions: Vec<i32>,
        2 => action_cache_update_capabilities: Option<ActionCacheUpdateCapabilities>,
        4 => max_batch_total_size_bytes: i64,
        6 => supported_compressors: Vec<i32>,
        8 => max_cas_blob_size_bytes: i64,
    }
    /// Whether actions are run.
    ExecutionCapabilities {
        1 => digest_function: i32,
        2 => exec_enabled: bool,
        5 => digest_functions: Vec<i32>,
    }
    /// A version of the protocol.
    SemVer {
        1 => major: i32,
        2 => minor: i32,
        3 => patch: i32,
    }
    /// Who asks.
    ToolDetails {
        1 => tool_name: String,
        2 => tool_version: String,
    }
    /// A header of each request: for whom it is.
    RequestMetadata {
        1 => tool_details: Option<ToolDetails>,
        2 => action_id: String,
        3 => tool_invocation_id: String,
        5 => action_mnemonic: String,
        6 => target_id: String,
    }
    /// google.bytestream.ByteStream/Read.
    ReadRequest {
        1 => resource_name: String,
        2 => read_offset: i64,
    }
    /// A piece of its answer.
    ReadResponse {
        10 => data: Bytes,
    }
    /// A piece of google.bytestream.ByteStream/Write.
    WriteRequest {
        1 => resource_name: String,
        2 => write_offset: i64,
        3 => finish_write: bool,
        10 => data: Bytes,
    }
    /// Its answer.
    WriteResponse {
        1 => committed_size: i64,
    }
    /// google.longrunning.Operation.
    Operation {
        1 => name: String,
        2 => metadata: Option<Any>,
        3 => done: bool,
        4 => error: Option<Status>,
        5 => response: Option<Any>,
    }
    /// What an operation says of itself: how far it is.
    ExecuteOperationMetadata {
        1 => stage: i32,
    }
    /// google.longrunning.Operations/CancelOperation.
    CancelOperationRequest {
        1 => name: String,
    }
    /// A message with its type.
    Any {
        1 => type_url: String,
        2 => value: Bytes,
    }
    /// google.rpc.Status.
    Status {
        1 => code: i32,
        2 => message: String,
        3 => details: Vec<Any>,
    }
    /// google.rpc.PreconditionFailure.
    PreconditionFailure {
        1 => violations: Vec<Violation>,
    }
    /// What is not as it has to be: a `MISSING` blob, by its name.
    Violation {
        1 => kind: String,
        2 => subject: String,
    }
    /// google.protobuf.Empty.
    Empty {}
}
