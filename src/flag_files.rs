//! Files that a tool's flags name. The thin link and the backends ask; must not know what
//! the flags mean to either.

/// Files that flags name: any value, or part after a `=` or `,`, that leads to a file. Taken
/// wide on purpose: profiles, lists, plugins and response files have many spellings, and an
/// input too many costs one digest.
pub fn named_files(flags: &[&str], is_file: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for word in flags {
        let pieces = word.match_indices(['=', ',']).map(|(at, _)| &word[at + 1..]);
        let response = word.strip_prefix('@');
        let whole = Some(*word).filter(|word| !word.starts_with('-'));
        for piece in pieces.chain(whole).chain(response) {
            let known = found.iter().any(|name: &String| name == piece);
            if !piece.is_empty() && !known && is_file(piece) {
                found.push(piece.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_every_spelling() {
        let flags = ["-fprofile-sample-use=p.prof", "-fbasic-block-sections=list=l.txt", "@r.rsp"];
        let more = ["-Wl,-plugin,x.so", "plain.so", "-O2"];
        let all: Vec<&str> = flags.into_iter().chain(more).collect();
        let files = ["p.prof", "l.txt", "r.rsp", "x.so", "plain.so"];
        assert_eq!(named_files(&all, |name| files.contains(&name)), files);
    }
}
