//! The defects, by name: what is broken, and which case must notice.

macro_rules! defects {
    ($($defect:ident $name:literal $what:literal => $case:literal;)*) => {
        /// One way of breaking the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Defect {
            $(#[doc = $what] $defect,)*
        }

        impl Defect {
            /// Every defect.
            pub const ALL: &'static [Self] = &[$(Self::$defect,)*];

            /// The name it is called by.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$defect => $name,)* }
            }

            /// What it does.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$defect => $what,)* }
            }

            /// The case that must catch it; others may too.
            #[must_use]
            pub const fn caught_by(self) -> &'static str {
                match self { $(Self::$defect => $case,)* }
            }
        }
    };
}

defects! {
    // Putting in.
    PublishLost "publish-lost" "says Accepted and publishes nothing" => "publish::fetched_and_completed";
    BatchItemLost "batch-item-lost" "loses the last item of a batch" => "publish::batch_beyond_the_brokers_own";
    OutcomesSwapped "outcomes-swapped" "answers a batch in the reverse order" => "publish::outcomes_in_order_around_an_oversize_item";
    PublishDoubled "publish-doubled" "publishes a second copy under another id" => "publish::same_id_again";
    DedupOff "dedup-off" "makes the same id another job" => "publish::same_id_again";
    OversizeAccepted "oversize-accepted" "says Accepted to what is too large" => "publish::outcomes_in_order_around_an_oversize_item";
    OversizeFailsBatch "oversize-fails-batch" "refuses a whole batch for one oversize item" => "publish::outcomes_in_order_around_an_oversize_item";
    PayloadTruncated "payload-truncated" "cuts payloads at 512 bytes" => "publish::binary_payload";
    HeadersDropped "headers-dropped" "drops the headers" => "publish::every_field_survives";
    ContentTypeReset "content-type-reset" "makes every payload JSON" => "publish::every_field_survives";
    UniqueIgnored "unique-ignored" "ignores unique keys" => "unique::held_while_waiting_and_running";
    UniqueNeverFreed "unique-never-freed" "holds unique keys for ever" => "unique::freed_by_completion";
    UniqueWindowIgnored "unique-window-ignored" "frees a window's key when its job is finished" => "unique::held_for_a_window_beyond_completion";
    DuplicateNamesItself "duplicate-names-itself" "names the newcomer as the holder of a key" => "unique::held_while_waiting_and_running";
    FullNeverReported "full-never-reported" "says Accepted where a queue is full" => "flow::full_queue_rejects_what_has_no_room";
    FullNeverWaits "full-never-waits" "rejects at once where the publisher would wait" => "flow::full_queue_lets_the_publisher_wait";
    QueueNamesMixed "queue-names-mixed" "keeps only letters, digits and dots of a queue's name" => "hostile::queue_names_stay_apart";
    // Times.
    DelayIgnored "delay-ignored" "delivers scheduled jobs at once" => "delay::never_early_and_soon_after";
    DelayCutShort "delay-cut-short" "delivers scheduled jobs a tenth too early" => "delay::never_early_and_soon_after";
    RetryDelayIgnored "retry-delay-ignored" "retries at once" => "retry::delay_is_kept";
    ReleaseDelayIgnored "release-delay-ignored" "releases at once" => "retry::delayed_release_is_kept";
    ExpiredDelivered "expired-delivered" "delivers what has expired" => "expiry::expired_job_is_never_delivered";
    // Claiming.
    MaxIgnored "max-ignored" "returns more than a fetch asked for" => "claim::fetch_never_returns_more_than_asked";
    DemandIgnored "demand-ignored" "gives out more than the demand" => "claim::outstanding_stays_within_demand";
    DemandZeroIgnored "demand-zero-ignored" "goes on where the demand is zero" => "claim::demand_zero_stops_and_goes_on";
    PriorityIgnored "priority-ignored" "delivers in the order of arrival alone" => "claim::exact_priorities_in_order";
    OrderReversed "order-reversed" "gives out each batch backwards" => "claim::first_in_first_out_within_a_batch";
    WakeUpLost "wake-up-lost" "a waiting fetch looks again only at its end" => "claim::wakes_up_when_something_is_published";
    FetchReturnsEarly "fetch-returns-early" "a fetch waits a tenth of what it was asked" => "claim::waits_as_long_as_asked";
    DeliveredTwice "delivered-twice" "gives each delivery to the next fetch as well" => "publish::fetched_and_completed";
    RedeliveredNeverSet "redelivered-never-set" "never marks a redelivery" => "lease::silent_workers_job_comes_again";
    AttemptRaisedByLoss "attempt-raised-by-loss" "spends an attempt for a lost lease" => "lease::silent_workers_job_comes_again";
    // Ending.
    SettleDropped "settle-dropped" "says Settled and does nothing" => "settle::many_in_one_batch";
    BatchSettleLost "batch-settle-lost" "loses the last settlement of a batch" => "settle::many_in_one_batch";
    SettleOutcomesSwapped "settle-outcomes-swapped" "answers settlements in the reverse order" => "settle::good_and_bad_in_one_batch";
    StaleAccepted "stale-accepted" "says Settled to a stale receipt" => "lease::loser_can_settle_nothing";
    ReplayIsSettled "replay-is-settled" "says Settled again, and publishes the follow-ups again" => "follow_up::repeated_settlement_publishes_once";
    ConflictHidden "conflict-hidden" "says AlreadySettled to a contradiction" => "settle::contradicted_is_a_conflict";
    RetryKeepsAttempt "retry-keeps-attempt" "retries without raising the attempt" => "retry::raises_the_attempt";
    ReleaseRaisesAttempt "release-raises-attempt" "spends an attempt for a release" => "retry::release_keeps_the_attempt";
    ReleaseToTail "release-to-tail" "sends released jobs behind the others" => "retry::release_returns_to_the_head";
    RetryIntoFullLost "retry-into-full-lost" "drops a retry where the queue is full" => "flow::retries_and_releases_find_room";
    ResultLost "result-lost" "forgets what the handler returned" => "store::record_of_a_completed_job";
    FollowUpsDropped "follow-ups-dropped" "publishes no follow-ups" => "follow_up::published_with_the_settlement";
    StaleFollowUps "stale-follow-ups" "publishes a stale worker's follow-ups" => "follow_up::stale_workers_are_not_published";
    UnfitFollowUpSettles "unfit-follow-up-settles" "settles although a follow-up could not be published" => "follow_up::oversize_leaves_the_job_leased";
    // Leases.
    LeaseHalved "lease-halved" "takes jobs away after half of their lease" => "lease::silent_workers_job_comes_again";
    LeaseNeverEnds "lease-never-ends" "never takes a silent worker's job away" => "lease::killed_workers_job_comes_again";
    HeldAlways "held-always" "says Held to every heartbeat" => "lease::loser_cannot_extend";
    NeverExtended "never-extended" "says Held and extends nothing" => "lease::heartbeats_hold_beyond_the_first_lease";
    BeatAlwaysExtends "beat-always-extends" "extends the lease with every beat" => "lease::beat_without_extension_extends_nothing";
    StartedNotCounted "started-not-counted" "does not count started deliveries" => "lease::started_runs_are_counted";
    EveryDeliveryCounted "every-delivery-counted" "counts deliveries that were never started" => "lease::unstarted_deliveries_are_not_counted";
    // Dead letters.
    DeadErrorForgotten "dead-error-forgotten" "forgets why a job died" => "dead_letter::kept_with_its_error";
    DeadFilterIgnored "dead-filter-ignored" "lists all the dead, whatever was asked" => "dead_letter::filtered_by_code_and_kind";
    RedriveLoses "redrive-loses" "forgets what it redrives" => "dead_letter::redrive_all";
    RedriveKeepsAttempt "redrive-keeps-attempt" "redrives with the attempt it died in" => "dead_letter::redrive_begins_at_attempt_one";
    DryRunActs "dry-run-acts" "redrives where it should only count" => "dead_letter::redrive_dry_run_changes_nothing";
    EditIgnored "edit-ignored" "redrives with the old payload" => "dead_letter::redrive_with_an_edited_payload";
    DropDeadIgnoresFilter "drop-dead-ignores-filter" "drops all the dead, whatever was asked" => "dead_letter::drop_removes_what_matches";
    // Flow and administration.
    PauseIgnored "pause-ignored" "says that it pauses, and goes on" => "flow::pause_holds_back_and_resumes";
    ResumeIgnored "resume-ignored" "stays paused" => "flow::pause_holds_back_and_resumes";
    PurgeRemovesNothing "purge-removes-nothing" "counts what it should remove" => "flow::purge_removes_what_waits";
    StatsOffByOne "stats-off-by-one" "counts one pending job too many" => "admin::stats_through_a_life";
    ConflictAccepted "conflict-accepted" "accepts another declaration of a queue" => "admin::another_declaration_is_a_conflict_by_name";
    OnlyIfEmptyIgnored "only-if-empty-ignored" "drops queues that are not empty" => "admin::drop_only_if_empty";
    PrefixIgnored "prefix-ignored" "lists every queue" => "admin::queues_listed_by_prefix";
    UnsupportedSilently "unsupported-silently" "says Ok to what it cannot do" => "refusal::durability_not_on_offer";
    ParkIgnored "park-ignored" "releases what it should park" => "park::parked_until_unparked";
    UnparksAll "unparks-all" "unparks more than was asked" => "park::unparks_as_many_as_asked";
    AtMostForgotten "at-most-forgotten" "parks for ever" => "park::comes_back_after_at_most";
    UnparkedToTail "unparked-to-tail" "sends unparked jobs behind the others" => "park::unparked_come_before_fresher_ones";
    ParkedNotListed "parked-not-listed" "lists keys by name, and those with one job only" => "waiting::parked_keys_are_listed_by_how_many";
    PositionOffByOne "position-off-by-one" "counts a job among those before it" => "waiting::position_counts_who_is_before";
    PositionOfAnything "position-of-anything" "gives a position to what does not wait" => "waiting::position_of_what_does_not_wait_is_none";
    // Order and partitions.
    AgedIsStrict "aged-is-strict" "accepts an aged order and keeps a strict one" => "order::aged_low_runs_within_its_bound";
    AgedAtOnce "aged-at-once" "takes everything for overdue from the beginning" => "order::aged_order_is_by_priority_at_first";
    AgedIgnoresPriority "aged-ignores-priority" "delivers in the order of arrival where it should age" => "order::aged_flood_of_low_holds_nothing_higher_back";
    AgedSinceSubmission "aged-since-submission" "counts the age from the submission" => "order::aged_counts_from_when_a_job_is_ready";
    WeightsIgnored "weights-ignored" "serves all partitions alike" => "partitions::claims_are_shared_by_weight";
    CapIgnored "cap-ignored" "ignores the concurrency of partitions" => "partitions::concurrency_is_exact_and_blocks_nobody_else";
    CapForAll "cap-for-all" "holds every partition to the concurrency of the narrowest" => "partitions::concurrency_is_exact_and_blocks_nobody_else";
    PartitionIgnored "partition-ignored" "puts every job into the default partition" => "partitions::unknown_partition_is_refused";
    RetryLeavesPartition "retry-leaves-partition" "retries in the default partition" => "partitions::a_retried_job_stays_in_its_partition";
    // Topics.
    TopicReachesOne "topic-reaches-one" "publishes to one of the subscribed queues" => "topics::reach_each_subscribed_queue";
    TopicHalfDone "topic-half-done" "publishes to those queues that have room" => "topics::refused_by_one_reaches_none";
    TopicLostSilently "topic-lost-silently" "says Accepted where nobody is subscribed" => "topics::nobody_subscribed_is_unroutable";
    UnsubscribeIgnored "unsubscribe-ignored" "keeps subscriptions that were ended" => "topics::end_with_the_subscription";
    DroppedStaysSubscribed "dropped-stays-subscribed" "keeps the subscriptions of dropped queues" => "topics::a_dropped_queue_is_subscribed_no_longer";
    // Closing.
    CloseIgnored "close-ignored" "a closed consumer fetches on" => "shutdown::fetch_after_close_is_empty";
    CloseLosesBuffer "close-loses-buffer" "keeps what is buffered leased when it closes" => "shutdown::close_returns_what_is_buffered";
    CloseNeverWaits "close-never-waits" "ignores the deadline of a close" => "shutdown::close_waits_for_what_is_out";
    ClosedProviderAnswers "closed-provider-answers" "says Ok after it was closed" => "shutdown::closed_provider_says_so";
    // Records.
    CancelDoesNothing "cancel-does-nothing" "says Cancelled and does nothing" => "store::cancel_of_a_waiting_job";
    CancelNotDelivered "cancel-not-delivered" "never tells a heartbeat of a cancel" => "store::cancel_of_a_running_job_reaches_its_heartbeat";
    WatchSilent "watch-silent" "never tells watchers anything" => "watch::life_of_a_job";
    WatchTellsAll "watch-tells-all" "tells every watcher everything" => "watch::only_the_jobs_watched";
    EventsDoubled "events-doubled" "tells everything twice" => "watch::each_event_fires_once";
    SlaForgotten "sla-forgotten" "does not say whether a job kept to its class" => "watch::completion_tells_whether_it_kept_to_its_class";
    ListIgnoresFilter "list-ignores-filter" "lists every job of the queue" => "store::listed_by_state_kind_tag_and_tenant";
    ListEndsEarly "list-ends-early" "says that the first page is the last" => "store::listed_page_by_page";
    ProgressLost "progress-lost" "forgets progress" => "store::progress_and_logs";
    LogsLost "logs-lost" "forgets logs" => "store::progress_and_logs";
    GoneIsNotFound "gone-is-not-found" "forgets that an evicted job ever was" => "store::evicted_is_gone_and_not_run_again";
    EvictsTooMuch "evicts-too-much" "ignores the retention when it evicts" => "store::eviction_keeps_to_the_count";
    TwoLeaders "two-leaders" "lets everybody lead" => "store::one_leads_at_a_time";
    LeadNotFenced "lead-not-fenced" "gives every leader the same epoch" => "store::leaders_are_fenced";
    ControlOverwritten "control-overwritten" "changes the switches whoever else did" => "store::control_is_compare_and_set";
}
