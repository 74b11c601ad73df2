//! The import graph as text for a person, as DOT for Graphviz, as JSON for programs. Must not
//! know where it comes from.

use std::fmt::Write;
use std::ops::AddAssign;

use serde::Serialize;

use crate::bitcode::index;

/// Version of the JSON's layout; it grows when a field changes its meaning or goes.
pub const VERSION: u32 = 2;

/// Modules, in link order, and their imports.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The object tree.
    pub tree: String,
    /// The modules.
    pub modules: Vec<Node>,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The bitcode object.
    pub object: String,
    /// What its own backend took when it last ran.
    pub own: Cost,
    /// What an edit costs: its own backend, and those of all that import from it.
    pub edit: Cost,
    /// What it imports.
    pub imports: Vec<Import>,
}

/// What backends take, by the records of their last runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// How many.
    pub backends: usize,
    /// Those of them that have no record: their time is not in the sums.
    pub unknown: usize,
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// CPU time in milliseconds.
    pub cpu_ms: u64,
}

/// An import of one module from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The other, as a place in the list of modules, from 0.
    pub module: usize,
    /// How much.
    #[serde(flatten)]
    pub weight: Weight,
}

/// How much is imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Weight {
    /// Functions.
    pub functions: u64,
    /// LLVM instructions of these.
    pub instructions: u64,
    /// Variables.
    pub variables: u64,
}

impl From<index::Weight> for Weight {
    fn from(weight: index::Weight) -> Self {
        let index::Weight { functions, instructions, variables } = weight;
        Weight { functions, instructions, variables }
    }
}

impl Cost {
    /// Of one backend: its wall and CPU time in milliseconds, if they are on record.
    pub(crate) fn of(recorded: Option<(u64, u64)>) -> Self {
        let (wall_ms, cpu_ms) = recorded.unwrap_or_default();
        Cost { backends: 1, unknown: usize::from(recorded.is_none()), wall_ms, cpu_ms }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.backends += other.backends;
        self.unknown += other.unknown;
        self.wall_ms += other.wall_ms;
        self.cpu_ms += other.cpu_ms;
    }
}

impl Graph {
    /// Places of all modules, the one with the most expensive edit first: by CPU time, then by how
    /// many backends run.
    pub(crate) fn most_expensive(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.modules.len()).collect();
        let cost = |place: &usize| {
            let Cost { cpu_ms, backends, .. } = self.modules[*place].edit;
            std::cmp::Reverse((cpu_ms, backends))
        };
        places.sort_by_key(cost);
        places
    }

    /// Only these modules and what is imported by or from them.
    pub(crate) fn around(&self, objects: &[String]) -> Graph {
        let chosen = |node: &Node| objects.contains(&node.object);
        let near = |place: usize, node: &Node| {
            let imports =
                |node: &Node| node.imports.iter().any(|i| chosen(&self.modules[i.module]));
            let imported = |other: &Node| {
                chosen(other) && other.imports.iter().any(|import| import.module == place)
            };
            chosen(node) || imports(node) || self.modules.iter().any(imported)
        };
        let kept: Vec<usize> =
            (0..self.modules.len()).filter(|place| near(*place, &self.modules[*place])).collect();
        let modules = kept.iter().map(|place| {
            let mut node = self.modules[*place].clone();
            let own = chosen(&node);
            node.imports.retain(|import| own || chosen(&self.modules[import.module]));
            for import in &mut node.imports {
                // All that is left is kept.
                import.module = kept.binary_search(&import.module).unwrap_or_default();
            }
            node
        });
        Graph { tree: self.tree.clone(), modules: modules.collect() }
    }
}

/// How many modules import how much, and the most expensive edits.
pub fn text(graph: &Graph, most: usize) -> String {
    let imports = graph.modules.iter().flat_map(|node| &node.imports);
    let mut sum = Weight::default();
    let mut count = 0;
    for Import { weight, .. } in imports {
        count += 1;
        sum.functions += weight.functions;
        sum.instructions += weight.instructions;
        sum.variables += weight.variables;
    }
    let mut out = format!(
        "{} modules, {count} imports: {} functions ({} instructions), {} variables\n\n\
         Most expensive edits: backends that run, and their CPU time when they last ran\n\
         {:>8}  {:>9}  {}\n",
        graph.modules.len(),
        sum.functions,
        sum.instructions,
        sum.variables,
        "backends",
        "seconds",
        "object"
    );
    for place in graph.most_expensive().into_iter().take(most) {
        let Node { object, edit, .. } = &graph.modules[place];
        let _ = writeln!(out, "{:>8}  {:>9}  {object}", edit.backends, time(edit));
    }
    out
}

/// CPU seconds; `?` where none are on record, and `+` where some are not.
fn time(cost: &Cost) -> String {
    let seconds = cost.cpu_ms as f64 / 1000.0;
    match cost.unknown {
        0 => format!("{seconds:.2}"),
        unknown if unknown == cost.backends => "?".to_owned(),
        _ => format!("{seconds:.2}+"),
    }
}

/// For Graphviz: an arrow from the importer to the module that it imports from, with the number
/// of functions and variables, the heavier the more instructions.
pub fn dot(graph: &Graph) -> String {
    let mut out = "digraph imports {\n  node [shape=box];\n".to_owned();
    for Node { object, edit, .. } in &graph.modules {
        let backends = if edit.backends == 1 { "backend" } else { "backends" };
        let cost = format!("{} {backends}, {} s", edit.backends, time(edit));
        let name = quoted(object);
        let _ = writeln!(out, "  {name} [label={}];", quoted(&format!("{object}\n{cost}")));
    }
    for node in &graph.modules {
        for Import { module, weight } in &node.imports {
            let (from, to) = (quoted(&node.object), quoted(&graph.modules[*module].object));
            let label = weight.functions + weight.variables;
            let width = 1.0 + (1.0 + weight.instructions as f64).log10();
            let _ = writeln!(
                out,
                "  {from} -> {to} [label={label}, weight={}, penwidth={width:.1}];",
                label.max(1)
            );
        }
    }
    out + "}\n"
}

/// A string as DOT reads it.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{text}\"")
}

/// For programs; docs/json.md says what is in it.
pub fn json(graph: &Graph) -> String {
    let all = serde_json::json!({
        "schema": "kthinlto-graph",
        "version": VERSION,
        "tree": graph.tree,
        "modules": graph.modules,
        "most_expensive": graph.most_expensive(),
    });
    all.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `b` and `c` import from `a`, `c` from `b`; `d` is alone and was never compiled here.
    fn graph() -> Graph {
        let node = |object: &str, own, edit, imports: &[usize]| Node {
            object: object.to_owned(),
            own: Cost::of(own),
            edit,
            imports: imports
                .iter()
                .map(|module| Import {
                    module: *module,
                    weight: Weight { functions: 2, instructions: 99, variables: 1 },
                })
                .collect(),
        };
        let cost = |backends, cpu_ms| Cost { backends, unknown: 0, wall_ms: cpu_ms, cpu_ms };
        let unknown = Cost::of(None);
        Graph {
            tree: "/obj".to_owned(),
            modules: vec![
                node("a.o", Some((10, 10)), cost(3, 1060), &[]),
                node("b.o", Some((50, 50)), cost(2, 1050), &[0]),
                node("c.o", Some((1000, 1000)), cost(1, 1000), &[0, 1]),
                node("d\".o", None, unknown, &[]),
            ],
        }
    }

    #[test]
    fn the_most_expensive_edit_comes_first() {
        assert_eq!(graph().most_expensive(), [0, 1, 2, 3]);
        let text = text(&graph(), 4);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "4 modules, 3 imports: 6 functions (297 instructions), 3 variables");
        assert_eq!(lines[4], "       3       1.06  a.o");
        assert_eq!(lines[7], "       1          ?  d\".o");
    }

    #[test]
    fn dot_has_an_arrow_for_each_import() {
        let dot = dot(&graph());
        assert!(dot.contains("  \"c.o\" -> \"b.o\" [label=3, weight=3, penwidth=3.0];\n"), "{dot}");
        assert!(dot.contains("  \"d\\\".o\" [label=\"d\\\".o\\n1 backend, ? s\"];\n"), "{dot}");
        assert_eq!(dot.matches(" -> ").count(), 3);
    }

    #[test]
    fn a_part_has_the_neighbours_alone() {
        let part = graph().around(&["b.o".to_owned()]);
        let names: Vec<&str> = part.modules.iter().map(|node| node.object.as_str()).collect();
        assert_eq!(names, ["a.o", "b.o", "c.o"]);
        let places = |node: &Node| node.imports.iter().map(|i| i.module).collect::<Vec<_>>();
        assert_eq!(places(&part.modules[1]), [0]);
        assert_eq!(places(&part.modules[2]), [1], "not the import of a.o");
    }

    #[test]
    fn json_is_as_documented() {
        let found: serde_json::Value = serde_json::from_str(&json(&graph())).unwrap();
        assert_eq!(found["modules"][2]["imports"][1]["module"], 1);
        assert_eq!(found["modules"][2]["imports"][1]["instructions"], 99);
        assert_eq!(found["modules"][0]["edit"]["backends"], 3);
        let text = include_str!("../../docs/json.md");
        for name in found["modules"][0].as_object().unwrap().keys() {
            assert!(text.contains(&format!("`{name}`")), "docs/json.md does not tell of {name}");
        }
    }
}
