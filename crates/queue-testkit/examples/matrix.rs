use std::sync::Arc;
use queue_testkit::{saboteur::Defect, simulation::{Campaign, MemoryWorld, ModelWorld, Soil, World}};
fn main() {
    let seeds: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100);
    let world_name = std::env::args().nth(2).unwrap_or("memory".into());
    let only = std::env::args().nth(3);
    for soil in [Soil::Broker, Soil::Process] {
        let (mut found, mut missed) = (0, vec![]);
        for defect in Defect::ALL {
            if only.as_ref().is_some_and(|only| only != defect.name()) { continue; }
            let world: Arc<dyn World> = match world_name.as_str() {
                "memory" => Arc::new(MemoryWorld::planted(soil, Arc::new(*defect))),
                "push" => Arc::new(ModelWorld::push().planted(soil, Arc::new(*defect))),
                "log" => Arc::new(ModelWorld::log().planted(soil, Arc::new(*defect))),
                _ => Arc::new(ModelWorld::visibility().planted(soil, Arc::new(*defect))),
            };
            let mut campaign = Campaign::new(vec![world], 0, seeds);
            campaign.stop_at_first = true;
            let tally = campaign.run();
            match tally.failures.first() {
                Some(failure) => { if only.is_some() { println!("{}", failure.trace.join("\n")); } found += 1; println!("{soil:?} {:<24} seed {:>4}  {}", defect.name(), failure.seed, failure.wrongs[0]); }
                None => missed.push(defect.name()),
            }
        }
        println!("{soil:?}: {found} found, missed {}: {}", missed.len(), missed.join(" "));
    }
}
