//! Carries out a plan, batch by batch, and tells the ledger what came of it.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::{debug, error, info, warn};
use uuid::Uuid;
use vouchsafe_types::EntryId;

use super::{Entries, Halt};
use crate::draft::{Draft, Key};
use crate::ledger::{Create, Delete, Plan, Update};
use crate::server::{Answer, CHANGES, DELETIONS};

impl Entries {
    /// Does it, and tells the ledger what came of it. After a failure the rest is planned again.
    pub(super) async fn execute(&mut self, plan: Plan) -> Result<(), Halt> {
        let create = plan.create.iter().map(|one| &one.key);
        let update = plan.update.iter().map(|one| &one.key);
        let all: Vec<Key> =
            create.chain(update).chain(plan.delete.iter().map(|one| &one.key)).cloned().collect();
        let done = self.execute_in_order(plan).await;
        if done.is_err() {
            all.iter().for_each(|key| self.ledger.undone(key));
        }
        done
    }

    async fn execute_in_order(&mut self, plan: Plan) -> Result<(), Halt> {
        for batch in plan.create.chunks(CHANGES) {
            self.leading.check()?;
            self.create(batch).await?;
        }
        for batch in plan.update.chunks(CHANGES) {
            self.leading.check()?;
            self.update(batch).await?;
        }
        // What was refused just now may be what was to take the place of these.
        let deletes: Vec<Delete> = self.ledger.still_to_delete(plan.delete);
        for batch in deletes.chunks(DELETIONS) {
            self.leading.check()?;
            let ids: Vec<_> = batch.iter().map(|one| one.id.clone()).collect();
            let gone = self.delete(&ids).await?;
            let gone = batch.iter().zip(gone).filter(|(_, gone)| *gone);
            gone.for_each(|(one, _)| self.ledger.deleted(&one.key, &one.id));
        }
        Ok(())
    }

    async fn create(&mut self, batch: &[Create]) -> Result<(), Halt> {
        let replaced = self.make_room(batch).await?;
        let prefix = self.config.terms.entry_ids.prefix().to_owned();
        let id = || if prefix.is_empty() { String::new() } else { format!("{prefix}{}", Uuid::new_v4()) };
        let entries: Vec<_> = batch.iter().map(|one| (id(), one.draft.clone())).collect();
        let answers = self.server.create_entries(&entries).await?;
        let mut restored = Vec::new();
        for (one, answer) in batch.iter().zip(answers) {
            let reason = match answer {
                Answer::Done(id, draft) => {
                    info!(entry_id = %id, spiffe_id = %draft.spiffe_id, "Created entry");
                    self.metrics.created.inc();
                    self.ledger.created(&one.key, id, *draft);
                    continue;
                }
                Answer::Exists(id, draft) => {
                    self.ledger.existed(&one.key, id, *draft);
                    continue;
                }
                Answer::Gone => "the server says that it is not there".to_owned(),
                Answer::Refused(reason) => reason,
            };
            self.refuse(&one.key, &one.draft, &reason);
            let old = one.replaces.iter().filter(|(id, _)| replaced.contains(id));
            restored.extend(old.map(|(id, draft)| (id.to_string(), draft.clone())));
        }
        self.restore(&restored).await
    }

    /// Deletes what entries are to replace, and says what is gone.
    async fn make_room(&self, batch: &[Create]) -> Result<HashSet<EntryId>, Halt> {
        let old: Vec<EntryId> =
            batch.iter().flat_map(|one| one.replaces.iter().map(|(id, _)| id.clone())).collect();
        let mut replaced = HashSet::new();
        for ids in old.chunks(DELETIONS) {
            let gone = self.delete(ids).await?;
            replaced.extend(ids.iter().zip(gone).filter(|(_, gone)| *gone).map(|(id, _)| id.clone()));
        }
        Ok(replaced)
    }

    /// Creates again what was deleted for entries that the server does not take.
    async fn restore(&self, entries: &[(String, Arc<Draft>)]) -> Result<(), Halt> {
        for batch in entries.chunks(CHANGES) {
            for ((id, _), answer) in batch.iter().zip(self.server.create_entries(batch).await?) {
                match answer {
                    Answer::Done(..) | Answer::Exists(..) => {
                        warn!(entry_id = id, "Created an entry again whose successor is refused");
                    }
                    Answer::Gone | Answer::Refused(_) => {
                        error!(entry_id = id, "Failed to create an entry again whose successor is refused");
                    }
                }
            }
        }
        Ok(())
    }

    async fn update(&mut self, batch: &[Update]) -> Result<(), Halt> {
        let entries: Vec<_> = batch.iter().map(|one| (one.id.clone(), one.draft.clone())).collect();
        let answers = self.server.update_entries(&entries).await?;
        for (one, answer) in batch.iter().zip(answers) {
            match answer {
                Answer::Done(id, draft) => {
                    info!(entry_id = %id, spiffe_id = %draft.spiffe_id, "Updated entry");
                    self.metrics.updated.inc();
                    self.ledger.updated(&one.key, *draft);
                }
                Answer::Gone => self.ledger.deleted(&one.key, &one.id),
                Answer::Exists(id, _) => {
                    self.refuse(&one.key, &one.draft, &format!("a similar entry exists with the id {id}"));
                }
                Answer::Refused(reason) => self.refuse(&one.key, &one.draft, &reason),
            }
        }
        Ok(())
    }

    /// Whether each is gone.
    async fn delete(&self, ids: &[EntryId]) -> Result<Vec<bool>, Halt> {
        let answers = self.server.delete_entries(ids).await?;
        let mut gone = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(&answers) {
            match answer {
                Ok(()) => {
                    info!(entry_id = %id, "Deleted entry");
                    self.metrics.deleted.inc();
                }
                // The next comparison finds it again.
                Err(reason) => error!(entry_id = %id, reason, "Failed to delete entry"),
            }
            gone.push(answer.is_ok());
        }
        Ok(gone)
    }

    fn refuse(&mut self, key: &Key, draft: &Draft, reason: &str) {
        debug!(spiffe_id = %draft.spiffe_id, reason, "The server refuses an entry");
        self.metrics.refused.inc();
        self.ledger.refused(key, reason);
    }
}
