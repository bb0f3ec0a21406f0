//! Batches over several queues: a script is of one queue, and of so many items.

use queue_core::QueueName;

use crate::provider::BATCH;

/// Which items go to one script call.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) queue: QueueName,
    /// Their places in the batch, in order.
    pub(super) items: Vec<usize>,
}

/// Divides a batch by the queues of its items, each queue's in their order.
pub(super) fn by_queue<'a>(queues: impl IntoIterator<Item = Option<&'a QueueName>>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut newest: std::collections::HashMap<&QueueName, usize> = std::collections::HashMap::new();
    for (item, queue) in queues.into_iter().enumerate() {
        let Some(queue) = queue else { continue };
        match newest.get(queue).and_then(|part| parts.get_mut(*part)).filter(|part| part.items.len() < BATCH) {
            Some(part) => part.items.push(item),
            None => {
                newest.insert(queue, parts.len());
                parts.push(Part { queue: queue.clone(), items: vec![item] });
            }
        }
    }
    parts
}

/// One answer an item, whatever came of its part.
#[derive(Debug)]
pub(super) struct Answers<R>(Vec<Option<R>>);

impl<R> Answers<R> {
    pub(super) fn new(count: usize) -> Self {
        Self(std::iter::repeat_with(|| None).take(count).collect())
    }

    pub(super) fn put(&mut self, part: &Part, answers: impl IntoIterator<Item = R>) {
        for (item, answer) in part.items.iter().zip(answers) {
            if let Some(slot) = self.0.get_mut(*item) {
                *slot = Some(answer);
            }
        }
    }

    pub(super) fn into_vec(self, mut missing: impl FnMut() -> R) -> Vec<R> {
        self.0.into_iter().map(|answer| answer.unwrap_or_else(&mut missing)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_a_queue_stay_in_order_and_in_bounds() {
        let (one, two) = (QueueName::from_static("one"), QueueName::from_static("two"));
        let all = (0..2 * BATCH + 3).map(|item| match item % 2 {
            0 => Some(&one),
            _ if item == 1 => None,
            _ => Some(&two),
        });
        let parts = by_queue(all);
        let sizes: Vec<_> = parts.iter().map(|part| (part.queue.as_str(), part.items.len())).collect();
        assert_eq!(sizes, [("one", BATCH), ("two", BATCH), ("one", 2)]);
        assert!(parts.iter().all(|part| part.items.is_sorted()));
        let mut answers = Answers::new(2 * BATCH + 3);
        for part in &parts {
            answers.put(part, part.items.clone());
        }
        let answers = answers.into_vec(|| usize::MAX);
        assert!(answers.iter().enumerate().all(|(item, answer)| *answer == if item == 1 { usize::MAX } else { item }));
    }
}
