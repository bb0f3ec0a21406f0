//! The matrix of defects and cases: each named defect of the saboteur is caught by the case that it names.
//!
//! `QUEUE_SABOTEUR_FULL=1` runs every case against every defect and prints all that catch it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod memory_harness;

use libtest_mimic::{Arguments, Trial};
use queue_testkit::{
    conformance::{all_cases, find_case, run_case, survey},
    saboteur::{Defect, sabotaged},
};

fn main() {
    let factory = memory_harness::factory();
    let full = std::env::var("QUEUE_SABOTEUR_FULL").is_ok_and(|value| value == "1");
    let (facts, capabilities, store) = survey(&factory).expect("memory is always there");

    let mut trials: Vec<Trial> = Defect::ALL
        .iter()
        .map(|&defect| {
            let broken = sabotaged(&factory, Some(defect));
            let (facts, capabilities) = (facts.clone(), capabilities.clone());
            Trial::test(format!("saboteur::{}", defect.name()), move || {
                let case = find_case(defect.caught_by()).ok_or_else(|| format!("no case {}", defect.caught_by()))?;
                if let Some(reason) = case.excluded(&facts, &capabilities, store) {
                    return Err(format!("{} cannot be asked: {reason}", case.name).into());
                }
                let caught = run_case(&broken, case).err();
                let Some(caught) = caught else {
                    return Err(format!("{:?} ({}) is not caught by {}", defect, defect.describe(), case.name).into());
                };
                let mut line = format!("{}: {} — caught by {}: {caught}", defect.name(), defect.describe(), case.name);
                if full {
                    let asked = all_cases().filter(|case| case.excluded(&facts, &capabilities, store).is_none());
                    let names: Vec<_> =
                        asked.filter(|case| run_case(&broken, case).is_err()).map(|case| case.name).collect();
                    line = format!(
                        "{}: {} — caught by {}: {}",
                        defect.name(),
                        defect.describe(),
                        names.len(),
                        names.join(" ")
                    );
                }
                eprintln!("{}", line.lines().next().unwrap_or_default());
                Ok(())
            })
        })
        .collect();

    // The layer itself changes nothing: without a defect every case that passes bare passes through it.
    let clean = sabotaged(&factory, None);
    trials.extend(all_cases().filter(|case| case.excluded(&facts, &capabilities, store).is_none()).map(|case| {
        let clean = clean.clone();
        Trial::test(format!("no_defect::{}", case.name), move || {
            run_case(&clean, case).map_err(|failed| failed.0.into())
        })
    }));
    trials.push(Trial::test("at_least_thirty_defects", || {
        if Defect::ALL.len() >= 30 { Ok(()) } else { Err("fewer than thirty defects".into()) }
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
