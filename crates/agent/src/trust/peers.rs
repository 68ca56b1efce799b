//! Whom the agent believes when somebody connects to it.

use std::sync::Arc;

use vouchsafe_identity::roots::{RootsCell, TrustRoots};

use crate::bundles::Bundles;
use crate::identities::Identities;

/// Keeps `roots` at the bundles that `identities` holds, those of other trust domains among them, for ever.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn follow_bundles(identities: Arc<Identities>, roots: RootsCell) {
    let mut changed = identities.watch();
    let mut held: Option<Arc<Bundles>> = None;
    loop {
        changed.borrow_and_update();
        let bundles = identities.load().bundles.clone();
        if let Some(bundles) = bundles
            && !held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &bundles))
        {
            let foreign = bundles.federated.values().map(|view| &view.bundle);
            roots.set(TrustRoots::of(std::iter::once(&bundles.own.bundle).chain(foreign)));
            held = Some(bundles);
        }
        if changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vouchsafe_types::bundle::Bundle;
    use vouchsafe_types::trust_domain::TrustDomain;

    use super::*;
    use crate::bundles::BundleView;

    #[tokio::test(start_paused = true)]
    async fn a_bundle_that_comes_later_is_believed() {
        let bundle = |name| Bundle::new(TrustDomain::parse(name).unwrap());
        let (identities, roots) = (Arc::new(Identities::default()), RootsCell::default());
        let hold = |bundles: Bundles| {
            identities.edit(|snapshot| {
                snapshot.bundles = Some(Arc::new(bundles));
                true
            });
        };
        let follow = follow_bundles(Arc::clone(&identities), roots.clone());
        tokio::pin!(follow);
        hold(Bundles::of(bundle("example.org")));
        tokio::time::timeout(Duration::from_secs(1), &mut follow).await.unwrap_err();
        assert_eq!(roots.load().trust_domains().count(), 1);
        let mut both = Bundles::of(bundle("example.org"));
        both.federated
            .insert(TrustDomain::parse("other.org").unwrap(), Arc::new(BundleView::new(bundle("other.org"))));
        hold(both);
        tokio::time::timeout(Duration::from_secs(1), &mut follow).await.unwrap_err();
        assert_eq!(roots.load().trust_domains().count(), 2);
    }
}
