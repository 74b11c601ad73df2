//! What our reader of bitcode takes for granted of what the real compiler writes.

#![cfg(feature = "program")]

mod common;

use std::path::Path;
use std::process::Command;

use common::tool;
use kthinlto::bitcode::asm;
use kthinlto::bitcode::bitstream::{Record, Visitor, walk};

/// Assembly at the beginning, in a branch, in a loop and at the end of functions that have
/// constants of their own, and at the top.
const SOURCE: &str = r#"
__asm__(".section .a\n.incbin \"top\"\n.previous");
double other(double, const char *, long);
int first(int x) {
	__asm__ volatile(".incbin \"begin\"" ::: "memory");
	double sum = 0;
	for (int i = 0; i < x; i++) {
		sum += other(1.25 * i, "text", 123456789012345);
		if (sum > 1e9)
			__asm__ volatile("nop\n\t.include \"branch\"" : : "r"(i));
		switch (i & 7) {
		case 3: sum -= 17.5; break;
		case 5: sum *= other(2.5, 0, -98765432109876); break;
		}
		__asm__ volatile(".INCBIN \"loop\"" : "+m"(i));
	}
	int result = sum > 4242 ? (int)sum : -1000001;
	__asm__ volatile(".incbin \"end\"" : "+r"(result));
	return result;
}
int second(int x) { return first(x) + 1234567; }
static inline int third(int x) { __asm__(".incbin \"inlined\"" : "+r"(x)); return x ^ 0x5a5a5a; }
int fourth(int x) { return third(third(x) * 1000003); }
"#;
const INCLUDED: [&str; 6] = ["begin", "branch", "end", "inlined", "loop", "top"];

fn compiled(dir: &Path, flags: &[&str]) -> Vec<u8> {
    compiled_from(SOURCE, dir, flags)
}

fn compiled_from(text: &str, dir: &Path, flags: &[&str]) -> Vec<u8> {
    let (source, object) = (dir.join("a.c"), dir.join("a.o"));
    std::fs::write(&source, text).unwrap();
    // clang looks into what the top includes for symbols.
    std::fs::write(dir.join("top"), "").unwrap();
    let mut clang = Command::new(tool("clang"));
    clang.current_dir(dir);
    clang.args(["-flto=thin", "-c", "-o"]).arg(&object).args(flags).arg(&source);
    common::good(clang);
    std::fs::read(object).unwrap()
}

const FLAGS: [&[&str]; 4] =
    [&["-O0"], &["-O2"], &["-O2", "-g", "-fsplit-lto-unit"], &["-Os", "-fno-discard-value-names"]];

#[test]
fn assembly_is_found_wherever_it_is_in_a_function() {
    let dir = tempfile::tempdir().unwrap();
    for flags in FLAGS {
        let mut found = asm::includes(&compiled(dir.path(), flags)).unwrap();
        found.files.sort();
        assert_eq!(found.files, INCLUDED, "{flags:?}");
        assert!(!found.unknown);
    }
}

const CONSTANTS_BLOCK: u64 = 11;
const FUNCTION_BLOCK: u64 = 12;

/// Counts constants of functions, and those that come after a function's second record.
#[derive(Default)]
struct Order {
    records: Option<usize>,
    early: usize,
    late: usize,
}

impl<'a> Visitor<'a> for Order {
    fn wants(&mut self, block: u64) -> bool {
        match (block, self.records) {
            (FUNCTION_BLOCK, _) => self.records = Some(0),
            (CONSTANTS_BLOCK, Some(0..=1)) => self.early += 1,
            (CONSTANTS_BLOCK, Some(_)) => self.late += 1,
            _ => {}
        }
        matches!(block, 8 | FUNCTION_BLOCK)
    }

    fn record(&mut self, block: u64, _: &Record<'a>) {
        self.records = match block {
            FUNCTION_BLOCK => self.records.map(|records| records + 1),
            _ => None,
        };
    }
}

/// `asm` reads no more of a function than that.
#[test]
fn a_functions_constants_come_before_its_instructions() {
    let dir = tempfile::tempdir().unwrap();
    for flags in FLAGS {
        let mut order = Order::default();
        walk(&compiled(dir.path(), flags), &mut order).unwrap();
        assert!(order.early >= 3, "{flags:?}: {}", order.early);
        assert_eq!(order.late, 0, "{flags:?}");
    }
}

/// Counts the modules of a file, by who wrote each.
struct Modules(usize);

impl<'a> Visitor<'a> for Modules {
    fn wants(&mut self, block: u64) -> bool {
        block == 13
    }

    fn record(&mut self, _: u64, record: &Record<'a>) {
        self.0 += usize::from(record.code == 1);
    }
}

/// Split LTO units with type metadata: abbreviations of the first module were taken for the second's.
#[test]
fn a_file_of_two_modules_is_read_to_its_end() {
    let source = "int target(int x) { return x; }\nint (*pointer)(int) = target;\n\
                  int caller(int x) { __asm__(\".incbin \\\"file\\\"\"); return pointer(x); }\n";
    let dir = tempfile::tempdir().unwrap();
    let flags = ["-O2", "-fsplit-lto-unit", "-fvisibility=hidden", "-fsanitize=cfi-icall"];
    let flags = [&flags[..], &["-fno-sanitize-ignorelist", "--target=x86_64-linux-gnu"]].concat();
    let bitcode = compiled_from(source, dir.path(), &flags);
    let mut modules = Modules(0);
    walk(&bitcode, &mut modules).unwrap();
    assert_eq!(modules.0, 2);
    assert_eq!(asm::includes(&bitcode).unwrap().files, ["file"]);
}
