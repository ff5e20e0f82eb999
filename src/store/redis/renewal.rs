//! Sealing anew under the first key, while others read and write; and what each key still opens.
//!
//! Owns: both passes over the server. Must not know: when a key is new, who may delete one.
//!
//! Each record is replaced only where it is still as it was read: what was ended or written in between stays.

use std::collections::HashMap;

use futures_util::FutureExt as _;

use super::super::record::STAMP_LEN;
use super::super::{Error, KeyUse};
use super::{CANARY_FIELD, PAGE, Redis, SIGNING_FIELD, Table, session_key, shard_of, together};
use crate::keys::{KeyId, Keyring, Purpose};

const TABLES: [(Table, Purpose); 3] = [
    (Table::Sessions, Purpose::Session),
    (Table::Grants, Purpose::Grant),
    (Table::Accounts, Purpose::Account),
];

impl Redis {
    /// Seals under the first key what is sealed under another of ours. How many records that were.
    pub(in super::super) async fn renew(&self) -> Result<u64, Error> {
        let mut renewed = 0;
        for (table, purpose) in TABLES {
            let mut after = None::<Vec<u8>>;
            loop {
                let page = self.page(table, after.as_deref(), PAGE).await?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                let replaced =
                    page.iter().map(|(key, value)| self.renew_one(table, purpose, key, value).boxed());
                let done = together(replaced.collect()).await?;
                renewed += done.into_iter().filter(|done| *done).count() as u64;
            }
        }
        let keys = self.meta_value(SIGNING_FIELD).await?;
        let anew = keys.as_ref().and_then(|value| self.sealer.renewed(Purpose::SigningKey, b"", value));
        if let Some((value, anew)) = keys.zip(anew) {
            renewed += u64::from(self.replace_meta(SIGNING_FIELD, &value, &anew).await?);
        }
        // Last: a start that finds it under an older key goes over everything again.
        let canary = self.meta_value(CANARY_FIELD).await?;
        if let Some(canary) = canary.filter(|canary| !self.sealer.ring.is_current(canary)) {
            self.replace_meta(CANARY_FIELD, &canary, &self.sealer.canary()).await?;
        }
        Ok(renewed)
    }

    async fn renew_one(
        &self,
        table: Table,
        purpose: Purpose,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, Error> {
        let Some(anew) = self.sealer.renewed(purpose, key, value) else { return Ok(false) };
        let keys = self.keys_of(table, shard_of(key));
        self.link.run(&self.scripts.replace_same, &keys, &[key, value, &anew]).await
    }

    async fn replace_meta(&self, field: &str, value: &[u8], anew: &[u8]) -> Result<bool, Error> {
        let keys = [self.meta(), self.meta_order()];
        self.link.run(&self.scripts.replace_same, &keys, &[field.as_bytes(), value, anew]).await
    }

    /// What each key opens. Keys that are not in the ring are named too.
    pub(in super::super) async fn key_use(&self) -> Result<HashMap<KeyId, KeyUse>, Error> {
        let mut found: HashMap<KeyId, KeyUse> = HashMap::new();
        let oldest = self.sealer.ring.ids().last();
        for (table, _) in TABLES {
            let mut after = None::<Vec<u8>>;
            loop {
                let page = self.page(table, after.as_deref(), PAGE).await?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                for (key, value) in &page {
                    count(&mut found, value);
                    let session = session_key(key).filter(|_| table == Table::Sessions);
                    let begun = session.and_then(|key| self.sealer.begun_under(key, value).or(oldest));
                    if let Some(begun) = begun {
                        found.entry(begun).or_default().sessions += 1;
                    }
                }
            }
        }
        if let Some(value) = self.meta_value(SIGNING_FIELD).await? {
            count(&mut found, &value);
        }
        let canary = self.meta_value(CANARY_FIELD).await?;
        if let Some(key) = canary.as_deref().and_then(Keyring::sealed_under) {
            found.entry(key).or_default().records += 1;
        }
        Ok(found)
    }
}

fn count(found: &mut HashMap<KeyId, KeyUse>, value: &[u8]) {
    if let Some(key) = value.get(STAMP_LEN..).and_then(Keyring::sealed_under) {
        found.entry(key).or_default().records += 1;
    }
}
