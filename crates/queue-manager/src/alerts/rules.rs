//! What holds for one queue.

use std::time::Duration;

use queue_core::QueueName;

use crate::config::AlertsConfig;

/// The thresholds of one queue.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    pub(super) backlog: Option<u64>,
    pub(super) dead_letters: Option<u64>,
    pub(super) growth: Option<u64>,
    pub(super) growth_within: Duration,
    pub(super) unhealthy_after: Option<Duration>,
    pub(super) flood: Option<u64>,
    pub(super) flood_within: Duration,
    pub(super) sla: bool,
    pub(super) sla_quiet: Duration,
    pub(super) repeat: Option<Duration>,
    pub(super) clear_at: f64,
}

impl Rules {
    /// What the configuration says of a queue.
    pub(super) fn of(queue: &QueueName, config: &AlertsConfig) -> Self {
        let none = crate::config::QueueAlertsConfig::default();
        let own = config.queues.get(queue).unwrap_or(&none);
        Self {
            backlog: own.backlog.or(&config.backlog),
            dead_letters: own.dead_letters.or(&config.dead_letters),
            growth: own.dead_letter_growth.or(&config.dead_letter_growth),
            growth_within: own.dead_letter_growth_within.or(&config.dead_letter_growth_within),
            unhealthy_after: own.unhealthy_after.or(&config.unhealthy_after),
            flood: own.flood.or(&config.flood),
            flood_within: own.flood_within.or(&config.flood_within),
            sla: own.sla.or(&config.sla),
            sla_quiet: config.sla_quiet,
            repeat: config.repeat,
            clear_at: config.clear_at,
        }
    }

    /// Whether any queue's late jobs are told.
    pub(super) fn any_sla(config: &AlertsConfig) -> bool {
        config.sla || config.queues.values().any(|own| own.sla.or(&config.sla))
    }
}
