//! What the user says about a server, read out of a snapshot of the environment into plain data. Header values
//! are secrets: they are shown nowhere, and a variable in them is looked up here, so that no file has to hold
//! them. Must not know the protocol.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::Environment;
use crate::error::{Error, Result};

/// Jobs that are with a server at a time, if the user does not say how many.
const JOBS: usize = 32;
/// How long an action may take with all its waiting, if the user does not say how long.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A text that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for whom it is meant.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Secret")
    }
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Over TLS: `grpcs://`.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "grpcs" } else { "grpc" };
        match self.host.contains(':') {
            true => write!(to, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(to, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Where workers have the compiler from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiler {
    /// It is uploaded with its libraries, once.
    Upload,
    /// They have it at the path that it has here; each action compares its content.
    Worker,
}

/// A server, and how it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The instance's name; many servers have one without a name.
    pub instance: String,
    /// Headers of each request, by names in small letters.
    pub headers: Vec<(String, Secret)>,
    /// Certificates, as PEM, of those whom the server may be vouched for by; the system's without it.
    pub authorities: Option<PathBuf>,
    /// Our certificate, as PEM, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Properties that a worker must have, sorted.
    pub platform: Vec<(String, String)>,
    /// Jobs that are with the server at a time.
    pub jobs: usize,
    /// How long an action may take with all its waiting.
    pub timeout: Duration,
    /// It may run actions; else only its store of results is used.
    pub execute: bool,
    /// What was made here may be put into its store of results.
    pub upload: bool,
    /// What the server can run also runs on this machine, while a slot is free.
    pub local: bool,
    /// Where workers have the compiler from.
    pub compiler: Compiler,
}

impl Settings {
    /// Settings of the server at `place`, a URL, or else at `KTHINLTO_REMOTE`; `None` if neither names one.
    /// The rest is read from the variables whose names begin with `KTHINLTO_REMOTE_`.
    ///
    /// # Errors
    /// Where a value is none that its variable can have.
    pub fn read(place: Option<&str>, environment: &Environment) -> Result<Option<Self>> {
        let from = Variables(environment);
        let place = match place {
            Some(place) => Some(place.to_owned()),
            None => from.text("")?,
        };
        let Some(place) = place.filter(|place| !place.trim().is_empty()) else {
            return Ok(None);
        };
        let identity = match (from.text("_CERT")?, from.text("_KEY")?) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            (Some(_), None) => return Err(from.bad("_CERT", "is set without KTHINLTO_REMOTE_KEY")),
            (None, Some(_)) => return Err(from.bad("_KEY", "is set without KTHINLTO_REMOTE_CERT")),
        };
        Ok(Some(Settings {
            endpoint: endpoint(place.trim())?,
            instance: from.text("_INSTANCE")?.unwrap_or_default(),
            headers: headers(&from)?,
            authorities: from.text("_CA")?.map(PathBuf::from),
            identity,
            platform: platform(&from)?,
            jobs: from.number("_JOBS")?.map_or(JOBS, |jobs| jobs as usize),
            timeout: from.number("_TIMEOUT")?.map_or(TIMEOUT, Duration::from_secs),
            execute: from.truth("_EXECUTE")?,
            upload: from.truth("_UPLOAD")?,
            local: from.truth("_LOCAL")?,
            compiler: match from.text("_COMPILER")?.as_deref() {
                None | Some("upload") => Compiler::Upload,
                Some("worker") => Compiler::Worker,
                Some(_) => return Err(from.bad("_COMPILER", "is neither `upload` nor `worker`")),
            },
        }))
    }
}

/// The variables of these settings, by the ends of their names. Errors do not repeat values.
struct Variables<'a>(&'a Environment);

impl Variables<'_> {
    /// A value; an empty one is none, as in make.
    fn text(&self, end: &str) -> Result<Option<String>> {
        match self.0.get(format!("KTHINLTO_REMOTE{end}")) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => match value.to_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(self.bad(end, "is not UTF-8")),
            },
        }
    }

    fn number(&self, end: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(end)? else {
            return Ok(None);
        };
        let number = text.trim().parse().ok().filter(|number| (1..=1_000_000).contains(number));
        number.map(Some).ok_or_else(|| self.bad(end, "is not a number from 1 to 1000000"))
    }

    /// Yes, where nothing is said.
    fn truth(&self, end: &str) -> Result<bool> {
        match self.text(end)?.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
            None | Some("yes" | "y" | "true" | "on" | "1") => Ok(true),
            Some("no" | "n" | "false" | "off" | "0") => Ok(false),
            Some(_) => Err(self.bad(end, "is neither `yes` nor `no`")),
        }
    }

    fn bad(&self, end: &str, found: &str) -> Error {
        Error::Usage(format!("cannot use KTHINLTO_REMOTE{end}: it {found}"))
    }
}

fn endpoint(place: &str) -> Result<Endpoint> {
    // Not repeated: somebody may have put a password into it.
    let bad = |found: &str| {
        let remedy = "give grpc://HOST:PORT, or grpcs://HOST:PORT for TLS";
        Error::Usage(format!("cannot use the address of the remote engine: {found}; {remedy}"))
    };
    let (scheme, rest) = place.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
    let tls = match scheme {
        "grpc" => false,
        "grpcs" => true,
        _ => return Err(bad("its scheme is neither grpc nor grpcs")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err(bad("it has a user's name; KTHINLTO_REMOTE_HEADERS says who asks"));
    }
    if rest.contains(['/', '?', '#', ' ']) {
        return Err(bad("more than a port follows the host"));
    }
    let default = if tls { ("443", 443) } else { ("50051", 50051) };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(|| bad("a `]` is missing"))?;
            (host, rest.strip_prefix(':').unwrap_or(default.0))
        }
        None => rest.rsplit_once(':').unwrap_or((rest, default.0)),
    };
    let port = port.parse().map_err(|_| bad("its port is not a number from 1 to 65535"))?;
    match host.is_empty() || port == 0 {
        true => Err(bad("it names no host or no port")),
        false => Ok(Endpoint { tls, host: host.to_owned(), port }),
    }
}

/// `NAME=VALUE` and others after commas.
fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').map(|(name, value)| (name.trim(), value.trim())))
}

fn headers(from: &Variables<'_>) -> Result<Vec<(String, Secret)>> {
    let text = from.text("_HEADERS")?.unwrap_or_default();
    let mut headers = Vec::new();
    for pair in pairs(&text) {
        let (name, value) = pair.ok_or_else(|| from.bad("_HEADERS", "has a part without `=`"))?;
        let name = name.to_ascii_lowercase();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let ours = ["content-type", "te", "user-agent"];
        if name.is_empty() || !name.bytes().all(fits) || ours.contains(&name.as_str()) {
            return Err(from.bad("_HEADERS", "has a part whose name no header can have"));
        }
        let value = expand(value, from)?;
        if !value.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
            return Err(from.bad("_HEADERS", "has a value with other than printable ASCII letters"));
        }
        headers.push((name, Secret(value)));
    }
    Ok(headers)
}

/// Puts in the values of `$NAME` and `${NAME}`; `$$` is a dollar sign.
fn expand(text: &str, from: &Variables<'_>) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let (name, after) = match after.strip_prefix('{') {
            Some(inner) => inner
                .split_once('}')
                .ok_or_else(|| from.bad("_HEADERS", "has a `${` without `}`"))?,
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        if name.is_empty() || !name.chars().all(is_name) {
            let found = "has a `$` with no variable's name after it; `$$` is a dollar sign";
            return Err(from.bad("_HEADERS", found));
        }
        let value = from.0.get(name).and_then(|value| value.to_str()).filter(|v| !v.is_empty());
        match value {
            // A file's last line break is often read into a variable with it.
            Some(value) => out.push_str(value.trim_end_matches('\n')),
            None => return Err(from.bad("_HEADERS", &format!("names ${name}, which is not set"))),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn platform(from: &Variables<'_>) -> Result<Vec<(String, String)>> {
    let text = from.text("_PLATFORM")?.unwrap_or_default();
    let mut all = Vec::new();
    for pair in pairs(&text) {
        let (name, value) = pair.ok_or_else(|| from.bad("_PLATFORM", "has a part without `=`"))?;
        all.push((name.to_owned(), value.to_owned()));
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>> {
        Settings::read(None, &Environment::from_iter(variables.iter().copied()))
    }

    fn place(text: &str) -> Result<Endpoint> {
        read(&[("KTHINLTO_REMOTE", text)]).map(|settings| settings.unwrap().endpoint)
    }

    #[test]
    fn without_an_address_there_is_no_server() {
        assert_eq!(read(&[("KTHINLTO_REMOTE_JOBS", "3")]).unwrap(), None);
        assert_eq!(read(&[("KTHINLTO_REMOTE", "")]).unwrap(), None);
    }

    #[test]
    fn addresses() {
        let is = |tls, host: &str, port| Endpoint { tls, host: host.into(), port };
        assert_eq!(place("grpc://a.b:9000").unwrap(), is(false, "a.b", 9000));
        assert_eq!(place("grpcs://a.b/").unwrap(), is(true, "a.b", 443));
        assert_eq!(place("grpc://[::1]:70").unwrap(), is(false, "::1", 70));
        assert_eq!(place("grpc://[::1]:70").unwrap().to_string(), "grpc://[::1]:70");
        for bad in [
            "a.b:9000",
            "http://a.b:1",
            "grpc://:1",
            "grpc://a:x",
            "grpc://a:0",
            "grpc://me:secret@a:1",
            "grpc://a:1/secret",
            "grpc://[::1",
        ] {
            let text = place(bad).unwrap_err().to_string();
            assert!(!text.contains("secret") && text.contains("grpc://HOST:PORT"), "{bad}: {text}");
        }
    }

    #[test]
    fn secrets_come_from_variables_and_are_not_shown() {
        let settings = read(&[
            ("KTHINLTO_REMOTE", "grpc://a:1"),
            ("KTHINLTO_REMOTE_HEADERS", "Authorization=Bearer ${TOKEN}, x-key=$$5-$KEY"),
            ("TOKEN", "hush,hush=\n"),
            ("KEY", "secret"),
        ]);
        let settings = settings.unwrap().unwrap();
        let shown: Vec<(&str, &str)> =
            settings.headers.iter().map(|(n, v)| (n.as_str(), v.reveal())).collect();
        assert_eq!(shown, [("authorization", "Bearer hush,hush="), ("x-key", "$5-secret")]);
        let text = format!("{settings:?}");
        assert!(!text.contains("hush") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_header_that_cannot_be_is_a_sentence_without_its_value() {
        for (bad, words) in [
            ("secret", "without `=`"),
            ("a b=secret", "name no header"),
            ("te=secret", "name no header"),
            ("a=secret$", "no variable's name"),
            ("a=secret$NOT_THERE", "$NOT_THERE, which is not set"),
            ("a=secret${X", "without `}`"),
            ("a=$ODD", "printable ASCII"),
        ] {
            let all = [
                ("KTHINLTO_REMOTE", "grpc://a:1"),
                ("KTHINLTO_REMOTE_HEADERS", bad),
                ("ODD", "secret\nx"),
            ];
            let text = read(&all).unwrap_err().to_string();
            assert!(text.contains(words) && !text.contains("secret"), "{bad}: {text}");
        }
    }

    #[test]
    fn values_are_read_or_refused() {
        let with = |name: &str, value: &str| {
            read(&[("KTHINLTO_REMOTE", "grpc://a:1"), (&format!("KTHINLTO_REMOTE_{name}"), value)])
                .map(Option::unwrap)
        };
        let plain = read(&[("KTHINLTO_REMOTE", "grpc://a:1")]).unwrap().unwrap();
        assert!(plain.execute && plain.upload && plain.compiler == Compiler::Upload);
        assert_eq!((plain.jobs, plain.timeout), (JOBS, TIMEOUT));
        assert_eq!(with("JOBS", "64").unwrap().jobs, 64);
        assert_eq!(with("TIMEOUT", "30").unwrap().timeout, Duration::from_secs(30));
        assert!(!with("EXECUTE", "no").unwrap().execute);
        assert!(!with("UPLOAD", "0").unwrap().upload);
        assert_eq!(with("COMPILER", "worker").unwrap().compiler, Compiler::Worker);
        let platform = with("PLATFORM", "b=2, a=1").unwrap().platform;
        assert_eq!(platform, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        for (name, value) in [
            ("JOBS", "0"),
            ("TIMEOUT", "soon"),
            ("EXECUTE", "maybe"),
            ("COMPILER", "mine"),
            ("PLATFORM", "a"),
            ("CERT", "a.pem"),
            ("KEY", "a.pem"),
        ] {
            assert!(with(name, value).is_err(), "{name}={value}");
        }
    }
}
