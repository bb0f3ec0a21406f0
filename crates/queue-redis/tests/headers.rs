//! Every script says at its top what it takes, answers and costs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::Path;

/// What the comment at the top of a script must have, each at the beginning of a line, in this order of reading.
const HEADINGS: [&str; 4] = ["KEYS[1]  ", "ARGV: ", "Answers ", "O("];

struct Script {
    name: String,
    header: Vec<String>,
    code: String,
}

fn scripts() -> Vec<Script> {
    let mut scripts = Vec::new();
    for folder in ["src/scripts", "src/tracking/scripts", "src/limiter/scripts"] {
        for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let header = text.lines().take_while(|line| line.starts_with("--"));
            let header: Vec<String> = header.map(|line| line.trim_start_matches('-').trim_start().to_owned()).collect();
            let code = text.lines().skip(header.len()).filter(|line| !line.trim_start().starts_with("--"));
            let name = format!("{folder}/{}", path.file_name().unwrap().display());
            scripts.push(Script { name, code: code.collect::<Vec<_>>().join("\n"), header });
        }
    }
    scripts
}

/// What comes before others is no script by itself: it says only what they share.
fn is_prelude(script: &Script) -> bool {
    script.name.ends_with("/prelude.lua")
}

#[test]
fn every_script_says_its_keys_arguments_result_and_complexity() {
    let scripts = scripts();
    assert!(scripts.len() > 50, "{}", scripts.len());
    for script in &scripts {
        let name = &script.name;
        assert!(
            script.header.first().is_some_and(|line| line.ends_with(['.', ',']) || line.len() > 60),
            "{name}: no summary"
        );
        let headings = if is_prelude(script) { &HEADINGS[..1] } else { &HEADINGS[..] };
        for heading in headings {
            let times = script.header.iter().filter(|line| line.starts_with(heading)).count();
            assert_eq!(times, 1, "{name}: `{heading}` begins {times} lines of the comment at its top");
        }
    }
}

#[test]
fn what_a_header_says_of_keys_and_arguments_is_what_the_code_takes() {
    for script in scripts().iter().filter(|script| !is_prelude(script)) {
        let Script { name, header, code } = script;
        let arguments = header.iter().find(|line| line.starts_with("ARGV: ")).unwrap();
        assert_eq!(arguments != "ARGV: nothing.", code.contains("ARGV"), "{name}: {arguments}");
        // The others, on a cluster, are there for the server alone.
        for used in code.split("KEYS[").skip(1) {
            assert!(used.starts_with("1]"), "{name}: KEYS[{}", &used[..2]);
        }
        // What nobody mentions is taken by its place: there are as many words as places at least.
        let places = code.split("ARGV[").skip(1).filter_map(|rest| rest.split(']').next()?.parse::<usize>().ok());
        let words = header
            .iter()
            .skip_while(|line| !line.starts_with("ARGV: "))
            .take_while(|line| !line.starts_with("Answers "));
        let commas = words.map(|line| line.matches([',', ';', ':']).count()).sum::<usize>();
        let as_there = arguments == "ARGV: as there.";
        let most = places.max().unwrap_or(0);
        assert!(as_there || most <= commas, "{name}: ARGV[{most}] is taken, and {commas} arguments are told of");
    }
}
