//! What a run leaves for people and programs: `--json` against what was done, `--trace` and
//! `--timings` against `--json`, the page opened in a real browser.

#![cfg(feature = "program")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tree, assert_holds, fails, good, text, tool};
use kthinlto::report::record::Recorder;
use kthinlto::report::{Backend, Ending, Event, Job, JobKind, Listener, Row, timings};
use kthinlto::store::{Digest, Indexed};
use serde_json::Value;

/// A tree, and the reports of its last build.
struct Reported {
    tree: Tree,
}

impl Reported {
    fn new() -> Self {
        Reported { tree: Tree::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tree.dir().join(name)
    }

    fn command(&self) -> Command {
        let mut command = self.tree.kthinlto();
        for (option, name) in
            [("--json", "run.json"), ("--trace", "trace.json"), ("--timings", "timings.html")]
        {
            command.arg(option).arg(self.path(name));
        }
        command
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.read("run.json")).unwrap()
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

/// Objects by state.
fn states(run: &Value) -> BTreeMap<String, Vec<String>> {
    let mut states: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for module in list(run, "modules") {
        let word = |name: &str| module[name].as_str().unwrap().to_owned();
        states.entry(word("state")).or_default().push(word("object"));
    }
    states
}

fn sum(values: &[Value], name: &str) -> u64 {
    values.iter().map(|value| value[name].as_u64().unwrap()).sum()
}

/// The file says what was done: the same counts as kbuild's last line, each process once.
#[test]
fn json_tells_what_was_done() {
    let reported = Reported::new();
    good(reported.command());
    let run = reported.json();
    assert_eq!((&run["exit_code"], &run["error"]), (&0.into(), &Value::Null));
    let totals = &run["totals"];
    assert_eq!((&totals["modules"], &totals["rebuilt"]), (&12.into(), &12.into()));
    let jobs = list(&run, "jobs");
    let verbs = |verb: &str| jobs.iter().filter(|job| job["verb"] == verb).count();
    assert_eq!((verbs("CC"), verbs("LD"), jobs.len()), (12, 1, 13));
    assert_eq!(totals["busy_us"], sum(jobs, "wall_us"));
    assert_eq!(totals["cpu_us"], sum(jobs, "cpu_us"));
    assert_eq!(totals["critical_us"], sum(list(&run, "critical_path"), "wall_us"));
    assert!(totals["critical_us"].as_u64() <= run["wall_us"].as_u64(), "{run}");
    assert!(sum(list(&run, "phases"), "wall_us") <= run["wall_us"].as_u64().unwrap());
    // At most two at a time, each on a slot of its own.
    for slot in 0..2 {
        let on: Vec<&Value> = jobs.iter().filter(|job| job["slot"] == slot).collect();
        let start = |job: &Value| job["start_us"].as_u64().unwrap();
        for pair in on.windows(2) {
            let end = start(pair[0]) + pair[0]["wall_us"].as_u64().unwrap();
            assert!(end <= start(pair[1]), "overlap on slot {slot}: {pair:?}");
        }
    }
    let own = run["own_us"].as_u64().unwrap();
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(0 < own && own < run["wall_us"].as_u64().unwrap() * cores, "{run}");
    assert_eq!(totals["slots"], 2);
    // Imports are those that the linker wrote.
    let modules = list(&run, "modules");
    let importers = modules.iter().filter(|module| {
        let imports = list(module, "imports").iter();
        imports
            .map(|place| &modules[place.as_u64().unwrap() as usize]["object"])
            .any(|object| object == "kernel/a.o")
    });
    assert_eq!(importers.count(), reported.tree.links_that_import("kernel/a.o"));
}

#[test]
fn an_edit_is_told_with_its_reason_and_its_cost() {
    let reported = Reported::new();
    good(reported.command());
    reported.tree.edit("kernel/a", "int shared(int x) { return x * 3 + 2; }\n");
    good(reported.command());
    let run = reported.json();
    let states = states(&run);
    assert_eq!(states["up-to-date"], ["kernel/configs.o", "lib/alone.o"]);
    assert_eq!(states["rebuilt"].len(), 10);
    let by_object = |object: &str| {
        list(&run, "modules").iter().find(|module| module["object"] == object).unwrap()
    };
    assert_eq!(by_object("kernel/a.o")["why"], "bitcode kernel/a.o");
    assert_eq!(by_object("lib/w0.o")["why"], "import kernel/a.o");
    assert!(by_object("lib/w0.o")["expected_us"].as_u64().unwrap() > 0, "of the first build");
    let first = &list(&run, "costly_imports")[0];
    assert_eq!((&first["object"], &first["because"]), (&"kernel/a.o".into(), &9.into()));
    let because: u64 = list(&run, "jobs")
        .iter()
        .filter(|job| {
            job["kind"] == "backend"
                && by_object(job["object"].as_str().unwrap())["why"] == "import kernel/a.o"
        })
        .map(|job| job["wall_us"].as_u64().unwrap())
        .sum();
    assert_eq!(first["because_us"], because);
}

/// Such a build is answered from a list of stamps, unless a report has to know the modules.
#[test]
fn an_unchanged_tree_has_its_modules_in_the_report() {
    let reported = Reported::new();
    reported.tree.build();
    // Until the files are old enough for their stamps to tell.
    let stamps = reported.tree.objects.join(".kthinlto/unchanged");
    let _ = fs::remove_file(&stamps);
    common::until("a list of stamps", || {
        reported.tree.build();
        stamps.exists()
    });
    good(reported.command());
    let run = reported.json();
    assert_eq!((&run["totals"]["up_to_date"], list(&run, "jobs").len()), (&12.into(), 0));
}

#[test]
fn what_came_from_the_cache_is_told() {
    let reported = Reported::new();
    let cached = |reported: &Reported| {
        let mut command = reported.command();
        command.env("KTHINLTO_CACHE_DIR", reported.path("cache"));
        command
    };
    good(cached(&reported));
    reported.tree.shell("rm -rf .kthinlto; find . -name '*.thinlto-native.o' -delete");
    good(cached(&reported));
    let run = reported.json();
    assert_eq!(states(&run)["from-cache"].len(), 12);
    assert!(list(&run, "modules").iter().all(|module| module["cache_us"].is_u64()), "{run}");
}

#[test]
fn a_failed_run_leaves_its_reports_too() {
    let reported = Reported::new();
    let body = format!(
        "case $object in lib/w1.o) echo broken; exit 1;; esac; exec {} \"$@\"",
        tool("clang")
    );
    let cc = reported.tree.compiler("cc", &body);
    let mut command = reported.command();
    command.arg("-k").env("CC", cc);
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    let run = reported.json();
    assert_eq!((&run["exit_code"], &run["totals"]["failed"]), (&1.into(), &1.into()));
    assert_holds(run["error"].as_str().unwrap(), &["1 of 12 backends failed"]);
    assert_holds(list(&run, "failures")[0].as_str().unwrap(), &["lib/w1.o failed"]);
    assert_eq!(states(&run)["failed"], ["lib/w1.o"]);
}

#[test]
fn a_dry_run_tells_what_would_be_run() {
    let reported = Reported::new();
    reported.tree.build();
    reported.tree.edit("lib/alone", "int alone(int x) { return x + 43; }\n");
    reported.tree.build();
    reported.tree.shell("rm lib/w2.thinlto-native.o");
    let mut command = reported.command();
    command.arg("-n");
    good(command);
    let run = reported.json();
    assert_eq!(run["dry_run"], true);
    assert_eq!(states(&run)["not-run"], ["lib/w2.o"]);
}

#[test]
fn a_report_that_cannot_be_written_is_known_before_any_work() {
    let tree = Tree::new();
    let mut command = tree.kthinlto();
    command.args(["--json", "no/such/folder/run.json"]);
    fails(command, 5, &["cannot write no/such/folder/run.json"]);
    assert!(!tree.objects.join(".kthinlto").exists());
}

/// As the format wants it, and with the times of the JSON.
#[test]
fn the_trace_is_of_the_same_run() {
    let reported = Reported::new();
    let mut command = reported.command();
    command.env("KTHINLTO_JSON", "overridden.json");
    good(command);
    let (run, trace) = (reported.json(), reported.read("trace.json"));
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let events = list(&trace, "traceEvents");
    for job in list(&run, "jobs") {
        let found: Vec<&Value> = events
            .iter()
            .filter(|event| event["cat"] == job["verb"] && event["name"] == job["object"])
            .collect();
        assert_eq!(found.len(), 1, "{job}");
        assert_eq!((&found[0]["ts"], &found[0]["dur"]), (&job["start_us"], &job["wall_us"]));
        assert_eq!(found[0]["tid"], job["slot"].as_u64().unwrap() + 2);
    }
    for event in events {
        assert!(["X", "M", "C"].contains(&event["ph"].as_str().unwrap()), "{event}");
        assert!(event["ph"] == "M" || event["ts"].is_u64(), "{event}");
    }
    assert!(!reported.tree.objects.join("overridden.json").exists());
}

/// The browser that scripts/setup installs, or another of its family.
fn browser() -> Option<&'static str> {
    ["chromium-headless-shell", "chromium", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
}

/// A page as a browser has it after its scripts ran; none of them may complain.
fn opened(browser: &str, page: &Path) -> String {
    let profile = tempfile::tempdir().unwrap();
    let out = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--log-level=0", "--dump-dom", "--timeout=60000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}");
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert_eq!(console, Vec::<&str>::new());
    text(&out.stdout)
}

/// Text of the element with this id.
fn figure(dom: &str, id: &str) -> String {
    let start = dom.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in: {dom}"));
    let rest = &dom[start..];
    let rest = &rest[rest.find('>').unwrap() + 1..];
    rest[..rest.find('<').unwrap()].to_owned()
}

/// Cells of the rows of a table's body.
fn cells(dom: &str, id: &str) -> Vec<Vec<String>> {
    let table = &dom[dom.find(&format!("<table id=\"{id}\"")).unwrap()..];
    let body = &table[table.find("<tbody>").unwrap()..table.find("</tbody>").unwrap()];
    let texts = |row: &str| {
        let cells = row.split("<td").skip(1);
        cells
            .map(|cell| cell[cell.find('>').unwrap() + 1..cell.find("</td>").unwrap()].to_owned())
            .collect()
    };
    body.split("<tr>").skip(1).map(texts).collect()
}

fn seconds(us: u64) -> String {
    let digits = if us < 10_000_000 { 2 } else { 1 };
    format!("{:.digits$} s", us as f64 / 1e6)
}

#[test]
fn the_page_shows_in_a_browser_what_the_json_says() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium-headless-shell here; scripts/setup check installs it");
        return;
    };
    let reported = Reported::new();
    good(reported.command());
    reported.tree.edit("kernel/b", "int shared(int); int use_b(int x) { return shared(x) ^ 6; }\n");
    good(reported.command());
    let (run, dom) = (reported.json(), opened(browser, &reported.path("timings.html")));
    for (id, name) in [
        ("modules", "modules"),
        ("rebuilt", "rebuilt"),
        ("from-cache", "from_cache"),
        ("up-to-date", "up_to_date"),
        ("failed", "failed"),
        ("slots", "slots"),
    ] {
        assert_eq!(figure(&dom, &format!("figure-{id}")), run["totals"][name].to_string(), "{id}");
    }
    for (id, value) in [
        ("wall", &run["wall_us"]),
        ("cpu", &run["totals"]["cpu_us"]),
        ("critical", &run["totals"]["critical_us"]),
    ] {
        assert_eq!(figure(&dom, &format!("figure-{id}")), seconds(value.as_u64().unwrap()));
    }
    let mut jobs: Vec<(u64, &str)> = list(&run, "jobs")
        .iter()
        .filter(|job| job["kind"] == "backend")
        .map(|job| (job["wall_us"].as_u64().unwrap(), job["object"].as_str().unwrap()))
        .collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.0));
    let rows = cells(&dom, "slowest");
    let shown: Vec<(&str, &str)> =
        rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let walls: Vec<String> = jobs.iter().map(|job| seconds(job.0)).collect();
    let want: Vec<(&str, &str)> =
        jobs.iter().zip(&walls).map(|(job, wall)| (job.1, wall.as_str())).collect();
    assert_eq!(shown, want);
    assert_eq!(cells(&dom, "path").len(), list(&run, "critical_path").len());
    assert_eq!(cells(&dom, "imports").len(), list(&run, "costly_imports").len());
    let current = states(&run)["up-to-date"].join("\n");
    let listed = &dom[dom.find("id=\"list-up-to-date\"").unwrap()..];
    assert!(listed.contains(&format!("<pre>{current}</pre>")), "{listed}");
}

/// A name with HTML in it is text on the page, and nothing else happens.
#[test]
fn odd_names_are_text_on_the_page() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium-headless-shell here; scripts/setup check installs it");
        return;
    };
    let odd = "lib/</script><img src=x onerror=console.error(1)>&amp;'.o";
    let part = kthinlto::unit::Part::of_vmlinux(odd);
    let module = Indexed { part: part.clone(), index: Digest::of(b""), imports: vec![odd.into()] };
    let backend = Backend {
        part: &part,
        size: 1,
        due: &kthinlto::plan::Due::OutputGone("<b>".to_owned()),
        expected: None,
    };
    let mut recorder = Recorder::new("build", Path::new("/<i>"), false);
    recorder.on(&Event::Phase("backends"));
    recorder.on(&Event::Planned { modules: &[module], backends: &[backend] });
    let (row, kind) = (Row::here(0), JobKind::Backend);
    recorder.on(&Event::Started(Job { row, kind, verb: "CC", object: odd }));
    recorder.on(&Event::Ended { row, ending: Ending::Failed, usage: None, remote: None });
    recorder.on(&Event::Failure("<s>failed</s>"));
    let run = recorder.finish(1, Some("<u>".to_owned()));
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("odd.html");
    fs::write(&page, timings::render(&run)).unwrap();
    let dom = opened(browser, &page);
    let as_text = "lib/&lt;/script&gt;&lt;img src=x onerror=console.error(1)&gt;&amp;amp;'.o";
    assert!(dom.contains(&format!("<td class=\"name\">{as_text}</td>")), "{dom}");
    for tag in ["<img", "<b>", "<i>", "<s>", "<u>"] {
        assert!(!dom.contains(tag), "{tag} in {dom}");
    }
}

/// Nothing of a broken page goes unnoticed by the tests above.
#[test]
#[should_panic(expected = "CONSOLE")]
fn the_browser_reports_errors_of_a_page() {
    let Some(browser) = browser() else {
        panic!("skipped: no browser that could say CONSOLE");
    };
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    fs::write(&page, "<script>undefined_function();</script>").unwrap();
    opened(browser, &page);
}

fn graph(tree: &Tree, arguments: &[&str]) -> String {
    good(tree.bare(&[&["graph"], arguments].concat()))
}

/// As many modules as run when it is edited in earnest; weights as LLVM's own tool has them.
#[test]
fn the_graph_says_what_an_edit_costs() {
    let tree = Tree::new();
    tree.build();
    let json: Value = serde_json::from_str(&graph(&tree, &["--format", "json"])).unwrap();
    let modules = list(&json, "modules");
    let module = |object: &str| modules.iter().find(|one| one["object"] == object).unwrap();
    for (object, text) in [
        ("kernel/a", "int shared(int x) { return x * 3 + 9; }\n"),
        ("kernel/b", "int shared(int); int use_b(int x) { return shared(x) ^ 9; }\n"),
    ] {
        tree.edit(object, text);
        let said = tree.build();
        let ran = said.lines().filter(|line| line.starts_with("  CC  ")).count();
        assert_eq!(module(&format!("{object}.o"))["edit"]["backends"], ran, "{object}");
    }
    let edit = &module("kernel/a.o")["edit"];
    assert_eq!(edit["unknown"], 0);
    let importers = modules.iter().filter(|one| {
        let from = |import: &Value| &modules[import["module"].as_u64().unwrap() as usize];
        list(one, "imports").iter().any(|import| from(import)["object"] == "kernel/a.o")
    });
    let times = importers.chain([module("kernel/a.o")]).map(|one| &one["own"]["cpu_ms"]);
    assert_eq!(edit["cpu_ms"], times.map(|time| time.as_u64().unwrap()).sum::<u64>());
    assert_eq!(
        modules[json["most_expensive"][0].as_u64().unwrap() as usize]["object"],
        "kernel/a.o"
    );
}

#[test]
fn weights_of_imports_are_what_llvms_own_tool_reads() {
    let tree = Tree::new();
    tree.build();
    let json: Value = serde_json::from_str(&graph(&tree, &["--format=json"])).unwrap();
    let modules = list(&json, "modules");
    let mut seen = 0;
    for module in modules {
        let object = module["object"].as_str().unwrap();
        let dump = tree.shell(&format!("{} --dump {object}.thinlto.bc", tool("llvm-bcanalyzer")));
        let imports = list(module, "imports");
        for import in imports {
            let from = modules[import["module"].as_u64().unwrap() as usize]["object"].as_str();
            let name = format!("record string = '{}'", from.unwrap());
            let operand = |line: &str, number: usize| -> u64 {
                let text = line.split(&format!(" op{number}=")).nth(1).unwrap();
                text.split([' ', '/']).next().unwrap().parse().unwrap()
            };
            let entry = dump.lines().find(|line| line.contains(&name)).unwrap();
            let id = operand(entry, 0);
            let of = |kind: &str| -> Vec<&str> {
                let records =
                    dump.lines().filter(|line| line.contains(&format!("<COMBINED{kind}")));
                records.filter(|line| operand(line, 1) == id).collect()
            };
            let functions = of("_PROFILE");
            let sizes: u64 = functions.iter().map(|line| operand(line, 3)).sum();
            assert_eq!(import["functions"], functions.len(), "{object}: {import}");
            assert_eq!(import["instructions"], sizes, "{object}: {import}");
            assert_eq!(import["variables"], of("_GLOBALVAR").len(), "{object}: {import}");
            seen += functions.len();
        }
    }
    assert!(seen > 8, "few functions were compared: {seen}");
}

/// A function of one source that another imports the caller of has to be global, and gets another name.
#[test]
fn promoted_functions_are_listed_and_those_that_are_new_since_the_link() {
    let tree = Tree::new();
    tree.build();
    assert_holds(&graph(&tree, &["--promoted"]), &["0 promoted functions"]);
    let source = |names: &[&str]| {
        let local = |name: &&str| {
            format!(
                "static __attribute__((noinline)) int {name}(int x) {{ \
                 __asm__ volatile(\"\" : \"+r\"(x)); return x; }}\n"
            )
        };
        let calls: Vec<String> = names.iter().map(|name| format!("{name}(x)")).collect();
        let body = format!("int shared(int x) {{ return {}; }}\n", calls.join(" + "));
        names.iter().map(local).collect::<String>() + &body
    };
    tree.edit("kernel/a", &source(&["first"]));
    tree.build();
    let names = |out: &str| -> Vec<String> {
        let lines = out.lines().skip(1).map(|line| line.split(".llvm.").next().unwrap());
        lines.map(|line| line.trim().to_owned()).collect()
    };
    let out = graph(&tree, &["--promoted"]);
    assert_eq!(out.lines().next(), Some("1 promoted function"), "nothing is linked");
    assert_eq!(names(&out), ["first"]);
    tree.shell("cp kernel/a.thinlto-native.o vmlinux");
    tree.edit("kernel/a", &source(&["first", "another"]));
    tree.build();
    let out = graph(&tree, &["--promoted", "kernel/a.o"]);
    assert_holds(&out, &["2 promoted functions, 1 of them not in what is linked now (new)\n"]);
    assert_eq!(names(&out), ["new  another", "first"], "{out}");
    let json: Value =
        serde_json::from_str(&graph(&tree, &["--promoted", "--format=json"])).unwrap();
    let functions = list(&json, "functions");
    let nm = tree.shell(&format!("{} kernel/a.thinlto-native.o", tool("llvm-nm")));
    for (function, new) in functions.iter().zip([true, false]) {
        assert!(nm.contains(&format!(" T {}\n", function["name"].as_str().unwrap())), "{nm}");
        assert_eq!((&function["object"], &function["is_new"]), (&"kernel/a.o".into(), &new.into()));
    }
    assert_eq!(functions.len(), 2);
    assert_holds(&graph(&tree, &["--promoted", "kernel/b.o"]), &["0 promoted functions"]);
    fails(tree.bare(&["graph", "--promoted", "--format=dot"]), 2, &["--promoted is a list"]);
    tree.shell("echo broken >vmlinux");
    fails(tree.bare(&["graph", "--promoted"]), 3, &["vmlinux", "not an ELF file", "link it again"]);
    tree.shell("rm vmlinux kernel/a.thinlto-native.o");
    fails(tree.bare(&["graph", "--promoted"]), 3, &["kernel/a.thinlto-native.o", "kthinlto build"]);
}

#[test]
fn the_graph_is_text_for_people_and_dot_for_graphviz() {
    let tree = Tree::new();
    fails(tree.bare(&["graph"]), 3, &["no record of a thin link", "run `kthinlto build`"]);
    tree.build();
    let text = graph(&tree, &[]);
    let first = text.lines().find(|line| line.ends_with("kernel/a.o")).unwrap();
    assert!(first.trim_start().starts_with("10 "), "{text}");
    let dot = graph(&tree, &["--format", "dot", "kernel/b.o"]);
    assert_holds(&dot, &["\"kernel/b.o\" -> \"kernel/a.o\" [label=1,", "[label=\"kernel/b.o\\n"]);
    assert!(!dot.contains("lib/w0.o"), "no neighbour: {dot}");
    fails(tree.bare(&["graph", "kernel/bb.o"]), 3, &["did you mean kernel/b.o or kernel/a.o?"]);
    tree.shell("cp lib/alone.o.thinlto.bc lib/w1.o.thinlto.bc");
    fails(tree.bare(&["graph"]), 3, &["lib/w1.o.thinlto.bc", "not the index"]);
}
