//! A datastore and a key manager that count and time what is asked of them, under SPIRE's names.

mod keys;
mod store;

use std::time::Duration;

use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::metrics::{Call, Registry};

pub(super) use self::keys::MeasuredKeys;
pub(super) use self::store::MeasuredStore;

/// One family of calls, such as `datastore_node_list`.
#[derive(Clone, Debug)]
struct Calls(Registry);

impl Calls {
    fn observe(&self, name: &str, status: &str, elapsed: Duration) {
        let call: Call = self.0.call(name);
        call.observe(&[], status, elapsed);
    }
}

/// The gRPC code that stands for a failure of a dependency.
fn status_of(class: Class) -> &'static str {
    match class {
        Class::Caller => "InvalidArgument",
        Class::Transient => "Unavailable",
        Class::Peer | Class::Permanent | Class::Bug => "Internal",
    }
}
