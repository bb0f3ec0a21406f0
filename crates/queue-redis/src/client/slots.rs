//! Which server of a cluster has which key.

use redis::Value;

use super::Address;

pub(crate) const SLOTS: usize = 16_384;
const NOBODY: u16 = u16::MAX;

/// As `CLUSTER KEYSLOT` counts: what stands in the first braces, if anything does, else the whole key.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(hash_tag(key)) % (SLOTS as u16)
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        Some(length) if length > 0 => &rest[..length],
        _ => key,
    }
}

/// The primaries of a cluster and their slots, as one of its servers told.
#[derive(Debug, Clone)]
pub(crate) struct SlotMap {
    primaries: Vec<Address>,
    owners: Box<[u16]>,
    /// Replicas in all.
    pub(crate) replicas: usize,
}

impl SlotMap {
    /// Reads the answer to `CLUSTER SLOTS`. A server that does not know its own name says nothing instead.
    pub(crate) fn read(answer: Value, asked: &Address) -> Option<Self> {
        let mut map = Self { primaries: Vec::new(), owners: vec![NOBODY; SLOTS].into(), replicas: 0 };
        let Value::Array(ranges) = answer else { return None };
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let mut range = range.into_iter();
            let (Value::Int(from), Value::Int(to)) = (range.next()?, range.next()?) else { return None };
            let primary = address(range.next()?, asked)?;
            map.replicas = map.replicas.max(range.count());
            let index = map.index(primary);
            let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
            map.owners.get_mut(from..=to)?.fill(index);
        }
        (!map.primaries.is_empty()).then_some(map)
    }

    fn index(&mut self, address: Address) -> u16 {
        let known = self.primaries.iter().position(|primary| *primary == address);
        let index = known.unwrap_or_else(|| {
            self.primaries.push(address);
            self.primaries.len() - 1
        });
        u16::try_from(index).unwrap_or(NOBODY)
    }

    pub(crate) fn owner(&self, slot: u16) -> Option<&Address> {
        self.primaries.get(usize::from(self.owners[usize::from(slot) % SLOTS]))
    }

    pub(crate) fn primaries(&self) -> &[Address] {
        &self.primaries
    }

    /// The same with one slot at another server.
    pub(crate) fn moved(&self, slot: u16, to: Address) -> Self {
        let mut map = self.clone();
        let index = map.index(to);
        map.owners[usize::from(slot) % SLOTS] = index;
        map
    }
}

fn address(server: Value, asked: &Address) -> Option<Address> {
    let Value::Array(server) = server else { return None };
    let mut server = server.into_iter();
    let host = match server.next()? {
        Value::BulkString(host) if !host.is_empty() && host != b"?" => String::from_utf8(host).ok()?,
        _ => asked.host.clone(),
    };
    match server.next()? {
        Value::Int(port) => Some(Address::new(host, u16::try_from(port).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_where_redis_says() {
        // What `CLUSTER KEYSLOT` answers.
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"queue:{foo}:spec"), 12_182);
        assert_eq!(slot_of(b"{}foo"), slot_of(b"{}foo"));
        assert_ne!(slot_of(b"{}foo"), slot_of(b"{}bar"), "an empty tag is none");
        assert_eq!(slot_of(b"123456789"), 12_739);
    }

    #[test]
    fn a_map_is_read_and_mended() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let server = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range =
            |from, to, servers: Vec<Value>| Value::Array([vec![Value::Int(from), Value::Int(to)], servers].concat());
        let answer = Value::Array(vec![
            range(0, 99, vec![server(text("a"), 1), server(text("b"), 2)]),
            range(100, 16_383, vec![server(Value::Nil, 3)]),
        ]);
        let map = SlotMap::read(answer, &Address::new("asked", 9)).unwrap();
        assert_eq!(map.owner(99), Some(&Address::new("a", 1)));
        assert_eq!(map.owner(100), Some(&Address::new("asked", 3)));
        assert_eq!((map.primaries().len(), map.replicas), (2, 1));
        let mended = map.moved(99, Address::new("c", 4));
        assert_eq!(mended.owner(99), Some(&Address::new("c", 4)));
        assert_eq!(mended.owner(98), Some(&Address::new("a", 1)));
        assert!(SlotMap::read(Value::Array(vec![]), &Address::new("asked", 9)).is_none(), "nobody has anything yet");
        assert!(SlotMap::read(Value::Okay, &Address::new("asked", 9)).is_none());
    }
}
