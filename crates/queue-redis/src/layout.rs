//! Where things stand in Redis.

use queue_core::QueueName;

/// The keys of one installation: everything begins with its prefix.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    prefix: String,
}

impl Layout {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// What the keys of a queue begin with. The name is the hash tag, so all of them are in one slot of a cluster; braces in it, which
    /// would end the tag early, are written as `%7B` and `%7D`.
    pub(crate) fn base(&self, queue: &QueueName) -> String {
        let name = queue.as_str().replace('%', "%25").replace('{', "%7B").replace('}', "%7D");
        format!("{}:{{{name}}}:", self.prefix)
    }

    /// The same of one of several shards of a queue. The first has the queue's own base, so that a queue of one is as it always was; the tag
    /// of another can be of no queue, for in a name `%` is written as `%25`.
    pub(crate) fn shard(&self, queue: &QueueName, place: u16) -> String {
        let base = self.base(queue);
        match place {
            0 => base,
            place => format!("{}%s{place}}}:", base.trim_end_matches("}:")),
        }
    }

    /// A sorted set of the names of all queues.
    pub(crate) fn queues(&self) -> String {
        format!("{}:queues", self.prefix)
    }

    /// A marker that tells who leads that there is a queue more, or less.
    pub(crate) fn declared(&self) -> String {
        format!("{}:declared", self.prefix)
    }

    /// Until when somebody watches all queues: new ones tell their events at once.
    pub(crate) fn watched(&self) -> String {
        format!("{}:watched", self.prefix)
    }

    /// The identity of the store.
    pub(crate) fn store(&self) -> String {
        format!("{}:store", self.prefix)
    }

    /// The numbers of the queues of a tracking store.
    pub(crate) fn numbers(&self) -> String {
        format!("{}:numbers", self.prefix)
    }

    /// What the keys of the limiter begin with. All of its keys are in one slot: a run takes all limits that it comes under, or none.
    pub(crate) fn limits(&self) -> String {
        format!("{}:limits:{{all}}:", self.prefix)
    }

    pub(crate) fn role(&self, role: &str) -> String {
        format!("{}:lead:{role}", self.prefix)
    }

    /// What interrupts a process's own blocking wait.
    pub(crate) fn stir(&self, process: &str) -> String {
        format!("{}:stir:{process}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_hash_tag_nor_meet_another() {
        let layout = Layout::new("queue");
        let base = |name: &'static str| layout.base(&QueueName::from_static(name));
        assert_eq!(base("mail"), "queue:{mail}:");
        assert_eq!(base("a}b{c%7D"), "queue:{a%7Db%7Bc%257D}:");
        let shard = |name: &'static str, place| layout.shard(&QueueName::from_static(name), place);
        assert_eq!((shard("mail", 0), shard("mail", 25)), (base("mail"), "queue:{mail%s25}:".to_owned()));
        assert_eq!(shard("a}:", 1), "queue:{a%7D:%s1}:");
        assert_ne!(shard("mail", 25), base("mail%s25"));
    }

    #[test]
    fn neighbours_lie_in_different_quarters_of_a_cluster() {
        let layout = Layout::new("queue");
        for name in ["mail", "reports", "x"] {
            let quarter = |place| {
                let base = layout.shard(&QueueName::from_static(name), place);
                crate::client::slot_of(base.as_bytes()) / 4_096
            };
            let mut quarters: Vec<u16> = (4..8).map(quarter).collect();
            quarters.sort_unstable();
            assert_eq!(quarters, [0, 1, 2, 3], "{name}");
        }
    }
}
