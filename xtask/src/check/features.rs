//! Every crate alone, with each of its features alone: what only compiles in company is found here.

use crate::workspace::Workspace;

/// A crate with a choice of features.
#[derive(Debug, PartialEq)]
pub(crate) struct Combination {
    package: String,
    choice: Choice,
}

#[derive(Debug, PartialEq)]
enum Choice {
    None,
    One(String),
    All,
}

impl Combination {
    /// For Cargo.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--package".to_owned(), self.package.clone()];
        match &self.choice {
            Choice::None => flags.push("--no-default-features".into()),
            Choice::One(feature) => {
                flags.extend(["--no-default-features".into(), "--features".into(), feature.clone()]);
            }
            Choice::All => flags.push("--all-features".into()),
        }
        flags
    }
}

/// All that are checked: per crate none, each, all.
pub(crate) fn combinations(workspace: &Workspace) -> Vec<Combination> {
    let of = |member: &&cargo_metadata::Package| {
        let features: Vec<&str> = member.features.keys().map(String::as_str).collect();
        choices(&features).into_iter().map(|choice| Combination { package: member.name.to_string(), choice }).collect()
    };
    workspace.members().iter().flat_map(of as fn(&&_) -> Vec<Combination>).collect()
}

/// `default` is a list of others and is checked with the whole workspace.
fn choices(features: &[&str]) -> Vec<Choice> {
    let mut each: Vec<&str> = features.iter().copied().filter(|feature| *feature != "default").collect();
    each.sort_unstable();
    let all = (each.len() > 1).then_some(Choice::All);
    let each = each.into_iter().map(|feature| Choice::One(feature.to_owned()));
    std::iter::once(Choice::None).chain(each).chain(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_each_and_all() {
        assert_eq!(choices(&[]), [Choice::None]);
        assert_eq!(choices(&["default", "a"]), [Choice::None, Choice::One("a".into())]);
        let both = [Choice::None, Choice::One("a".into()), Choice::One("b".into()), Choice::All];
        assert_eq!(choices(&["b", "default", "a"]), both);
    }

    #[test]
    fn flags_leave_out_the_defaults_unless_all_is_meant() {
        let flags = |choice| Combination { package: "p".into(), choice }.flags().join(" ");
        assert_eq!(flags(Choice::None), "--package p --no-default-features");
        assert_eq!(flags(Choice::One("x".into())), "--package p --no-default-features --features x");
        assert_eq!(flags(Choice::All), "--package p --all-features");
    }

    #[test]
    fn every_member_of_this_workspace_is_there() {
        let workspace = Workspace::load().unwrap();
        let found = combinations(&workspace);
        for member in workspace.members() {
            assert!(found.iter().any(|one| one.package == member.name.as_str()), "{}", member.name);
        }
    }
}
