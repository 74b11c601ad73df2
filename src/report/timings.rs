//! A run as one HTML page that needs nothing else: no network, no other file. The page is a
//! fixed text with the run's JSON in it; all names come to the screen as text, never as HTML.

use super::json;
use super::record::Run;

/// The page, with a mark where the run goes.
const PAGE: &str = include_str!("timings.html");
/// The mark.
const MARK: &str = "RUN_AS_JSON";

/// The whole page.
pub fn render(run: &Run) -> String {
    PAGE.replacen(MARK, &inert(json::render(run).trim_end()), 1)
}

/// JSON that no HTML parser takes for anything else: neither the end of the script element nor
/// a comment can be in it.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::run;
    use super::*;

    #[test]
    fn no_name_ends_the_script() {
        let mut run = run();
        let name = "</script><!--<b>\u{2028}&amp;\"'\\.o";
        run.modules[0].object = name.to_owned();
        let page = render(&run);
        let start = page.find("type=\"application/json\">").unwrap() + 24;
        let json = &page[start..start + page[start..].find("</script>").unwrap()];
        let found: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(found["modules"][0]["object"], name);
        assert_eq!(page.matches(MARK).count(), 0);
    }

    #[test]
    fn the_page_asks_nobody() {
        for word in ["http:", "https:", "src=", "href=", "@import", "url(", "fetch("] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }
}
