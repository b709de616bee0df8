//! The names of the consumers of this process, each of which stands for one queue.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use countersign_amqp::Address;
use countersign_protocol::Name;

use crate::error::Error;

/// A broker's vhost and a consumer's name.
type Key = (String, Name);

/// The queue that each consumer consumes, and how many do.
static IN_USE: LazyLock<Mutex<HashMap<Key, (String, usize)>>> = LazyLock::new(Mutex::default);

/// As long as it lives, no consumer of this name consumes another queue of the same broker in this process.
#[derive(Debug)]
pub(crate) struct NameInUse(Key);

impl NameInUse {
    /// Takes the name for this queue; several consumers may have it for the same one.
    ///
    /// # Errors
    /// When a consumer has it for another queue.
    pub(crate) fn take(address: &Address, name: &Name, queue: &str) -> Result<Self, Error> {
        let key = (address.to_string(), name.clone());
        match in_use().entry(key.clone()) {
            Entry::Vacant(free) => {
                free.insert((queue.to_owned(), 1));
            }
            Entry::Occupied(mut taken) => {
                let (taken_for, count) = taken.get_mut();
                if taken_for != queue {
                    let (name, queue) = (name.clone(), taken_for.clone());
                    return Err(Error::NameTaken { name, queue });
                }
                *count += 1;
            }
        }
        Ok(Self(key))
    }
}

impl Drop for NameInUse {
    fn drop(&mut self) {
        if let Entry::Occupied(mut taken) = in_use().entry(self.0.clone()) {
            taken.get_mut().1 -= 1;
            if taken.get().1 == 0 {
                taken.remove();
            }
        }
    }
}

/// Each step on the map is whole, so a step that panicked left nothing half done.
fn in_use() -> MutexGuard<'static, HashMap<Key, (String, usize)>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_queue_of_a_broker_as_long_as_a_consumer_has_it() {
        let here: Address = "amqp://here/names".parse().unwrap();
        let there: Address = "amqp://there/names".parse().unwrap();
        let name: Name = "billing".parse().unwrap();
        let first = NameInUse::take(&here, &name, "invoices").unwrap();
        let second = NameInUse::take(&here, &name, "invoices").unwrap();
        let refused = NameInUse::take(&here, &name, "audit").unwrap_err().to_string();
        assert!(refused.contains("billing") && refused.contains("invoices"), "{refused}");
        NameInUse::take(&there, &name, "audit").unwrap();
        drop(first);
        NameInUse::take(&here, &name, "audit").unwrap_err();
        drop(second);
        NameInUse::take(&here, &name, "audit").unwrap();
    }
}
