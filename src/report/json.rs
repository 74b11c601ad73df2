//! A run as JSON for other programs; docs/json.md says what is in it.

use super::record::Run;

/// One object on one line, and a newline.
pub fn render(run: &Run) -> String {
    // Plain data with text for keys: there is nothing that could fail.
    serde_json::to_string(run).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::run;
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let found: serde_json::Value = serde_json::from_str(&render(&run())).unwrap();
        assert_eq!((&found["schema"], &found["version"]), (&"kthinlto-run".into(), &1.into()));
        let states = ["failed", "rebuilt", "from-cache", "up-to-date"];
        for (module, state) in found["modules"].as_array().unwrap().iter().zip(states) {
            assert_eq!(module["state"], state);
        }
        assert_eq!(found["modules"][2]["imports"], serde_json::json!([0, 1]));
        assert_eq!(found["jobs"][0]["outcome"], "failed");
        let text = include_str!("../../docs/json.md");
        for name in found.as_object().unwrap().keys() {
            assert!(text.contains(&format!("`{name}`")), "docs/json.md does not tell of {name}");
        }
    }
}
