//! Moves the head objects to the front, as `ar mPi FIRST` with `grep -F -f
//! scripts/head-object-list.txt` does in kbuild. Text only.

/// Returns `members` with those that contain a line of `head_list` first, each group in
/// its old order.
///
/// The list is taken as `grep -F -f` takes it: every line is a pattern, comments too,
/// and an empty line matches everything (which moves nothing).
pub fn head_objects_first(members: Vec<String>, head_list: &str) -> Vec<String> {
    let patterns: Vec<&str> = head_list.lines().collect();
    let is_head = |member: &String| patterns.iter().any(|p| member.contains(p));
    let (mut ordered, rest): (Vec<_>, Vec<_>) = members.into_iter().partition(is_head);
    ordered.extend(rest);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(members: &[&str], list: &str) -> Vec<String> {
        head_objects_first(members.iter().map(|m| m.to_string()).collect(), list)
    }

    #[test]
    fn matches_are_substrings_and_keep_their_order() {
        let list = "# Head objects\narch/x/kernel/head.o\narch/x/kernel/vector.o\n";
        let members =
            ["init/main.o", "arch/x/kernel/vector.o", "lib/a.o", "./arch/x/kernel/head.o"];
        let want = ["arch/x/kernel/vector.o", "./arch/x/kernel/head.o", "init/main.o", "lib/a.o"];
        assert_eq!(order(&members, list), want);
    }

    #[test]
    fn no_match_and_an_empty_line_change_nothing() {
        let members = ["b.o", "a.o"];
        assert_eq!(order(&members, "head.o\n"), members);
        assert_eq!(order(&members, "a.o\n\n"), members);
        assert_eq!(order(&members, ""), members);
    }
}
